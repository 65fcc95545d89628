"""`encoder.from`: trials begin from an earlier sweep's encoder, of which the sweep keeps a file of its own."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ssl_sweep.knobs.pins import used_by
from ssl_sweep.knobs.problems import SpecError
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.models.encoders import build_encoder
from ssl_sweep.models.weights import WeightsError
from ssl_sweep.spec.file import check_spec
from ssl_sweep.spec.sweep import SweepSpec, grid, resolve
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.sweep.best import NoSuchTrial
from ssl_sweep.sweep.origins import origin_pins
from ssl_sweep.trial import run as trial
from ssl_sweep.trial.stage_keys import stage_key
from ssl_sweep.trialdir import checkpoint

SETTINGS = {"name": "resnet18", "width": 4, "stem": "small", "normalize": "none", "zero_init_residual": False}


def spec_of(name: str, **changes: Any) -> SweepSpec:
    data = {"source": "digits", "image_size": 8, "train_images": 64}
    base = {"name": name, "data": data, "encoder": SETTINGS, "method": "supervised", "evaluate": {"knn": {"k": 5}}}
    return check_spec(base | {"precision": "fp32"} | changes)


@pytest.fixture
def storage(tmp_path: Path) -> FolderStorage:
    """With a sweep `earlier` of two trials, of which the second is the better one."""
    storage = FolderStorage(tmp_path)
    spec = spec_of("earlier", method="moco", search={"space": {"method.dim": [8, 16]}})
    ledger = open_ledger(storage.ledger_url, spec)
    for score in (50.0, 60.0):
        choice = ledger.ask()
        assert choice is not None
        one = choice.trials[0]
        ledger.update(Trial(**{**vars(one), "state": "COMPLETE", "results": {"knn/top1_val": score}}))
        folder = storage.trial("earlier", one.trial_id)
        torch.manual_seed(int(score))
        checkpoint.save(folder / "encoder.pt", {"encoder": build_encoder(SETTINGS, 8).state_dict()})
        config = {"encoder": SETTINGS, "method": {"name": "moco"}, "data": {"source": "digits", "image_size": 8}}
        record = {"trial_id": one.trial_id, "sweep": "earlier", "choice": 0, "seed": 0, "config": config}
        (folder / "config.yaml").write_text(yaml.safe_dump(record))
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
        ({"from": "later"}, "'later' is this sweep itself"),
        ({"from": "erlier"}, "earlier"),
        ({"from": "earlier/zzz"}, "no trial 'zzz'"),
    ],
)  # fmt: skip
def test_what_cannot_be_begun_from_is_refused(storage: FolderStorage, encoder: dict[str, Any], message: str) -> None:
    spec = spec_of("later", encoder={**SETTINGS, "from": "earlier", **encoder})
    with pytest.raises((WeightsError, NoSuchTrial, LookupError, ValueError), match=message):
        origin_pins(spec, storage, {})


def test_a_file_and_a_sweep_together_are_refused_with_the_spec() -> None:
    with pytest.raises(SpecError, match=r"encoder\.from A and encoder\.weights a\.safetensors both name weights"):
        spec_of("later", encoder={**SETTINGS, "from": "A", "weights": "a.safetensors"})
    with pytest.raises(SpecError, match=r"encoder\.from: 'a b': "):
        spec_of("later", encoder={**SETTINGS, "from": "a b"})
