"""`encoder.from`: trials begin from an earlier sweep's encoder, of which the sweep keeps a file of its own."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import ssl_sweep
from ssl_sweep.errors import UserError
from ssl_sweep.knobs.pins import used_by
from ssl_sweep.knobs.problems import SpecError
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.open import load_ledger, open_ledger
from ssl_sweep.models.encoders import build_encoder
from ssl_sweep.models.weights import WeightsError
from ssl_sweep.spec.file import check_spec
from ssl_sweep.spec.sweep import SweepSpec, grid, resolve
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.sweep.origins import check_origins, origin_pins
from ssl_sweep.trial import run as trial
from ssl_sweep.trial.stage_keys import stage_key
from ssl_sweep.trialdir import checkpoint

SETTINGS = {"name": "resnet18", "width": 4, "stem": "small", "normalize": "none", "zero_init_residual": False}


def spec_of(name: str, **changes: Any) -> SweepSpec:
    data = {"source": "digits", "image_size": 8, "train_images": 64}
    base = {"name": name, "data": data, "encoder": SETTINGS, "method": "supervised", "evaluate": {"knn": {"k": 5}}}
    return check_spec(base | {"precision": "fp32"} | changes)


def begun_from(origin: str) -> SweepSpec:
    return spec_of("later", encoder={**SETTINGS, "from": origin})


def two_trials(storage: FolderStorage, name: str, dims: list[int]) -> list[Trial]:
    """Run two trials of a sweep, of which the second is the better one."""
    ledger = open_ledger(storage.ledger_url, spec_of(name, method="moco", search={"space": {"method.dim": dims}}))
    for score in (50.0, 60.0):
        choice = ledger.ask()
        assert choice is not None
        one = choice.trials[0]
        ledger.update(Trial(**{**vars(one), "state": "COMPLETE", "results": {"knn/top1_val": score}}))
        folder = storage.trial(name, one.trial_id)
        torch.manual_seed(int(score))
        checkpoint.save(folder / "encoder.pt", {"encoder": build_encoder(SETTINGS, 8).state_dict()})
        config = {"encoder": SETTINGS, "method": {"name": "moco"}, "data": {"source": "digits", "image_size": 8}}
        record = {"trial_id": one.trial_id, "sweep": name, "choice": 0, "seed": 0, "config": config}
        (folder / "config.yaml").write_text(yaml.safe_dump(record))
    return ledger.trials


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    """With a finished sweep `earlier`."""
    storage = FolderStorage(tmp_path)
    two_trials(storage, "earlier", [8, 16])
    return storage


def test_trials_begin_from_the_best_or_a_named_trial_also_when_the_earlier_sweep_is_gone(
    storage: FolderStorage, cache: Path
) -> None:
    first, second = sorted((storage.sweep("earlier") / "trials").iterdir(), key=lambda each: each.stat().st_mtime_ns)
    spec = spec_of("later", search={"space": {"encoder.from": [None, "earlier", f"earlier/{first.name}"]}})
    pins = origin_pins(spec, storage, {})
    assert pins.keys() == {"encoder.from earlier", f"encoder.from earlier/{first.name}"}
    assert len(list((storage.sweep("later") / "weights").iterdir())) == 2
    best = torch.load(second / "encoder.pt", weights_only=True)["encoder"]
    shutil.rmtree(storage.sweep("earlier"))
    assert origin_pins(spec, storage, pins) == pins
    scores = set()
    for index, choice in enumerate(grid(spec)):
        config = resolve(spec, choice, 0)
        config["pins"] = used_by(config, pins)
        workdir = storage.trial("later", str(index))
        scores.add(str(trial.run(config, lambda metrics, step: None, workdir, cache=cache)))
        begun = trial._Trial(config, lambda metrics, step: None, workdir, cache, workdir)._encoder().state_dict()
        same = all(torch.equal(value, best[key]) for key, value in begun.items())
        assert same == (choice["encoder.from"] == "earlier")
    assert len(scores) == 3


def test_the_key_of_a_stage_has_the_hash_and_is_the_old_one_without(storage: FolderStorage) -> None:
    spec = spec_of("later", search={"space": {"encoder.from": [None, "earlier"]}})
    without, begun = (resolve(spec, choice, 0) for choice in grid(spec))
    old = {**without, "encoder": dict(SETTINGS)}
    assert stage_key(old, "knn", "fp32") == stage_key(without, "knn", "fp32")
    keys = {stage_key({**begun, "pins": {"encoder.from earlier": hashed}}, "knn", "fp32") for hashed in "ab"}
    assert len(keys) == 2


@pytest.mark.parametrize(
    ("encoder", "message"),
    [
        ({"width": 8}, r"'earlier': width is 4 there, and 8 here; write `encoder: {name: resnet18, .*width: 4"),
        ({"from": "later"}, "'later': it is this sweep itself"),
        ({"from": "erlier"}, r"'erlier': no sweep named 'erlier' in /.*; did you mean 'earlier'\?"),
        ({"from": "other"}, r"'other': no sweep named 'other' in /.*; `ssl-sweep list` lists them"),
        ({"from": "earlier/zzz"}, "'earlier/zzz': no trial 'zzz'"),
    ],
)  # fmt: skip
def test_what_cannot_be_begun_from_is_refused(storage: FolderStorage, encoder: dict[str, Any], message: str) -> None:
    spec = spec_of("later", encoder={**SETTINGS, "from": "earlier", **encoder})
    with pytest.raises(WeightsError, match=message):
        origin_pins(spec, storage, {})
    with pytest.raises(WeightsError, match=message):
        check_origins(spec, storage)
    assert not storage.sweep("later").exists()


def test_the_best_of_a_sweep_that_goes_on_is_refused_but_not_a_trial_by_its_name(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    best = two_trials(storage, "ongoing", [8, 16, 32])[1]
    one = f"ongoing/{best.trial_id[:8]}"
    with pytest.raises(WeightsError, match=rf"1 of its 3 trials have not ended; name the best trial so far, {one}"):
        check_origins(begun_from("ongoing"), storage)
    (note,) = check_origins(begun_from(one), storage)
    assert note.startswith(f"encoder.from: {one}: trial {best.trial_id[:8]}, ")
    assert "knn/top1_val 60" in note
    said: list[str] = []
    assert len(origin_pins(begun_from(one), storage, {}, said.append)) == 1
    assert said == [note]


def test_sweeps_and_trials_without_encoders_are_refused(storage: FolderStorage) -> None:
    trials = load_ledger(storage.ledger_url, "earlier").trials
    for each in trials:
        (storage.trial("earlier", each.trial_id) / "encoder.pt").unlink()
    with pytest.raises(WeightsError, match="'earlier': no complete trial has an encoder; name one, earlier/TRIAL, see"):
        check_origins(begun_from("earlier"), storage)
    with pytest.raises(WeightsError, match=r"trial \w{8} \(COMPLETE\) has no encoder: .*ssl-sweep status earlier"):
        check_origins(begun_from(f"earlier/{trials[0].trial_id}"), storage)
    open_ledger(storage.ledger_url, spec_of("rows"))
    with pytest.raises(WeightsError, match="'rows': its method supervised does not pretrain"):
        check_origins(begun_from("rows"), storage)


def test_a_plan_checks_them_where_the_storage_is(storage: FolderStorage, tmp_path: Path) -> None:
    def planned(origin: str, place: Path) -> list[str]:
        document = spec_of("later", encoder={**SETTINGS, "from": origin}).model_dump(mode="json")
        del document["root"]
        warnings: list[str] = ssl_sweep.plan(document, storage=place)["warnings"]
        return warnings

    assert "encoder.from: earlier: trial " in planned("earlier", storage.root)[-1]
    with pytest.raises(UserError, match="did you mean 'earlier'"):
        planned("erlier", storage.root)
    (note,) = planned("earlier", tmp_path / "elsewhere")
    assert note.startswith(f"encoder.from: checked when the sweep is run, not here: no sweeps in {tmp_path}")
    assert not (tmp_path / "elsewhere").exists()
    (note,) = planned("earlier", Path("gs://lab/runs"))
    assert "neither a folder nor s3://" in note


def test_a_file_and_a_sweep_together_are_refused_with_the_spec() -> None:
    with pytest.raises(SpecError, match=r"encoder\.from A and encoder\.weights a\.safetensors both name weights"):
        spec_of("later", encoder={**SETTINGS, "from": "A", "weights": "a.safetensors"})
    with pytest.raises(SpecError, match=r"encoder\.from: 'a b': "):
        spec_of("later", encoder={**SETTINGS, "from": "a b"})


def test_images_are_chosen_by_an_earlier_encoder_of_any_kind(storage: FolderStorage, cache: Path) -> None:
    def choosing(subset: dict[str, Any]) -> SweepSpec:
        data = {"source": "digits", "image_size": 8, "train_images": 64, "subset": subset}
        short = {"pretrain": {"steps": 1, "batch_size": 8}, "health": {"every": 0}, "method": "autoencoder"}
        return spec_of("later", data=data, encoder={"name": "resnet18", "width": 2}, **short)

    spec, said = choosing({"method": "sas", "fraction": 0.25, "from": "earlier", "clusters": 3}), list[str]()
    notes = check_origins(spec, storage)
    assert notes[0].startswith("data.subset.from: earlier: trial ")
    pins = origin_pins(spec, storage, {}, said.append)
    assert (list(pins), said) == (["subset.from earlier"], notes)
    shutil.rmtree(storage.sweep("earlier"))
    assert origin_pins(spec, storage, pins) == pins
    config = resolve(spec, {}, 0)
    config["pins"] = used_by(config, pins)
    trial.run(config, lambda metrics, step: None, storage.trial("later", "0"), cache=cache)
    listed = (storage.trial("later", "0") / "artifacts" / "subset.csv").read_text()
    assert len(listed.splitlines()) == 1 + 16
    with pytest.raises(WeightsError, match=r"data\.subset\.from: 'earlier': no complete trial has an encoder"):
        origin_pins(spec, storage, {})
    assert origin_pins(choosing({"method": "random", "fraction": 0.25, "from": "earlier"}), storage, {}) == {}
