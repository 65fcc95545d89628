"""Trials that pretrain on a part of the images: chosen once, listed, in the keys, and the same for all workers."""

import csv
import shutil
import traceback
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from ssl_sweep.data.images import DataError
from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import data_of, load_splits
from ssl_sweep.knobs.cost import costs
from ssl_sweep.knobs.pins import used_by
from ssl_sweep.knobs.problems import SpecError
from ssl_sweep.models.encoders import build_encoder
from ssl_sweep.models.weights import digest
from ssl_sweep.spec.file import check_spec
from ssl_sweep.spec.launch import derived_sizes, pretrained_on
from ssl_sweep.spec.sweep import SweepSpec, from_dump, grid, resolve
from ssl_sweep.spec.weights import subset_origins
from ssl_sweep.training.loop import Stop
from ssl_sweep.training.pretrain import pretrain
from ssl_sweep.trial import run as trial
from ssl_sweep.trial import subset as trial_subset
from ssl_sweep.trial.stage_keys import stage_key
from ssl_sweep.trial.subset import describe_settings
from ssl_sweep.trialdir import journal
from ssl_sweep.trialdir.events import TagsSet

CHOOSER = {"name": "resnet18", "width": 4}
DATA = {"source": "digits", "image_size": 8, "train_images": 64}
PROTOTYPES = {"method": "prototypes", "fraction": 0.25, "from": "earlier", "clusters": 4}


def spec_of(subset: dict[str, Any] | None, **changes: Any) -> SweepSpec:
    base = {"name": "coreset", "data": {**DATA, "subset": subset}, "encoder": {"name": "resnet18", "width": 2}}
    base |= {"method": "autoencoder", "pretrain": {"steps": 2, "epoch_steps": 1, "batch_size": 8}}
    return check_spec(base | {"health": {"every": 0}, "evaluate": {"knn": {}}, "precision": "fp32"} | changes)


def kept_encoder(sweep: Path, seed: int = 0) -> str:
    """A file that a sweep keeps of an earlier one's encoder, of another width; returns its identity."""
    torch.manual_seed(seed)
    encoder = build_encoder(CHOOSER, 8)
    file = sweep / "weights" / "new"
    file.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(encoder.net.state_dict(), file, describe_settings(CHOOSER, 8))
    identity = digest(file)
    file.rename(trial.origin_file(sweep, identity))
    return identity


def config_of(spec: SweepSpec, identity: str, seed: int = 0, choice: dict[str, Any] | None = None) -> dict[str, Any]:
    config = resolve(spec, choice or {}, seed)
    return {**config, "pins": used_by(config, {"subset.from earlier": identity})}


def run(config: dict[str, Any], folder: Path, cache: Path, **more: Any) -> dict[str, float]:
    return trial.run(config, lambda metrics, step: None, folder, cache=cache, **more)


def kept(folder: Path) -> list[dict[str, str]]:
    with (folder / "artifacts" / "subset.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_images_are_listed_and_only_they_are_pretrained_on(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Pack] = []

    def watched(method: Any, pack: Pack, *rest: Any) -> dict[str, float]:
        seen.append(pack)
        return pretrain(method, pack, *rest)

    monkeypatch.setattr(trial, "pretrain", watched)
    config = config_of(spec_of(PROTOTYPES), kept_encoder(tmp_path))
    run(config, tmp_path / "trials" / "a", cache)
    rows = kept(tmp_path / "trials" / "a")
    splits = load_splits(data_of(config["data"]), root=Path(), cache=cache)
    assert len(splits.train) == 64
    assert len(rows) == len(seen[0]) == 16
    assert [int(row["index"]) for row in rows] == seen[0].positions.tolist()
    assert {int(row["index"]) for row in rows} < set(splits.train.positions.tolist())
    assert [row["label"] for row in rows] == [seen[0].classes[label] for label in seen[0].labels]
    assert len({row["name"] for row in rows}) == 16
    told = [event.tags for event in journal.read(tmp_path / "trials" / "a")[0] if isinstance(event, TagsSet)]
    assert [tags["data.subset"].split(", ")[0] for tags in told if "data.subset" in tags] == ["16 of 64 images"]


def test_features_are_extracted_once_and_chosen_from_anew_for_each_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    identity, extracted = kept_encoder(tmp_path), []
    extract = trial_subset.extract
    monkeypatch.setattr(trial_subset, "extract", lambda *args: extracted.append(1) or extract(*args))
    searched = {"space": {"data.subset.method": ["prototypes", "semdedup", "sas"], "data.subset.fraction": [0.25, 0.5]}}
    spec = spec_of(PROTOTYPES, search=searched)
    lists = set()
    for number, choice in enumerate(grid(spec)):
        for seed in (0, 1):
            folder = tmp_path / "trials" / f"{number}-{seed}"
            run(config_of(spec, identity, seed, choice), folder, tmp_path / "cache")
            lists.add((folder / "artifacts" / "subset.csv").read_text())
            assert len(kept(folder)) == 64 * choice["data.subset.fraction"]
    assert len(extracted) == 1
    assert len(lists) == 12
    (file,) = (tmp_path / "cache" / "features").glob("*.npy")
    file.write_bytes(file.read_bytes()[:100])  # damaged: extracted again, and the same
    again = tmp_path / "trials" / "again"
    run(config_of(spec, identity, 1, grid(spec)[-1]), again, tmp_path / "cache")
    assert (again / "artifacts" / "subset.csv").read_text() == (folder / "artifacts" / "subset.csv").read_text()
    assert len(extracted) == 2


def test_a_fixed_seed_chooses_once_for_all_seeds(tmp_path: Path, cache: Path) -> None:
    spec = spec_of({"method": "random", "fraction": 0.5, "seed": 7})
    for seed in (0, 1):
        run(config_of(spec, "", seed), tmp_path / str(seed), cache)
    assert kept(tmp_path / "0") == kept(tmp_path / "1")


def test_stopped_and_resumed_it_ends_the_same_without_choosing_again(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(spec_of(PROTOTYPES), kept_encoder(tmp_path))
    run(config, tmp_path / "trials" / "unbroken", cache)

    def stop(metrics: dict[str, float], step: int) -> None:
        raise Stop("asked to")

    with pytest.raises(Stop):
        trial.run(config, stop, tmp_path / "trials" / "broken", cache=cache)
    monkeypatch.setattr(trial_subset, "chosen_rows", pytest.fail)
    shutil.rmtree(tmp_path / "weights")
    torch.manual_seed(99)
    run(config, tmp_path / "trials" / "broken", cache)
    one, other = (
        torch.load(tmp_path / "trials" / name / "encoder.pt", weights_only=True)["encoder"]
        for name in ("unbroken", "broken")
    )
    assert all(torch.equal(one[key], value) for key, value in other.items())


def test_keys_have_what_decides_and_old_keys_stay() -> None:
    def key(subset: dict[str, Any] | None, identity: str = "a", seed: int = 0, **changes: Any) -> str:
        return stage_key(config_of(spec_of(subset, **changes), identity, seed), "pretrain", "fp32")

    whole = key(None)
    before = resolve(spec_of(None, pretrain={"epochs": 3}), {}, 0)
    old = {**before, "data": {name: value for name, value in before["data"].items() if name != "subset"}}
    old["pretrain"] = {
        name: value for name, value in before["pretrain"].items() if name not in ("steps", "epoch_steps")
    }
    assert stage_key(old, "pretrain", "fp32") == stage_key(before, "pretrain", "fp32")
    assert key({**PROTOTYPES, "fraction": 1.0}) == whole
    chosen = [{**PROTOTYPES, **change} for change in ({}, {"fraction": 0.5}, {"prefer": "hard"}, {"clusters": 9})]
    others = [{"method": "random", "fraction": 0.25}, {**PROTOTYPES, "method": "sas"}, {**PROTOTYPES, "seed": 3}]
    keys = [whole, *map(key, (*chosen, *others)), key(PROTOTYPES, "b")]  # of another encoder
    assert len(set(keys)) == len(keys)
    random = {"method": "random", "fraction": 0.25}
    assert key(random, "a") == key({**random, "clusters": 7, "from": "earlier", "prefer": "hard"}, "b")
    assert key(None, pretrain={"steps": 3}) != key(None, pretrain={"epochs": 3})


def test_the_search_varies_the_subset_and_sizes_follow_it() -> None:
    searched = {"cases": {"full": {"data.subset.fraction": 1.0}, "part": {"data.subset.fraction": 0.25}}}
    spec = spec_of(PROTOTYPES, method="moco", search=searched)
    assert subset_origins(spec) == ["earlier"]
    assert pretrained_on(spec, 64) == [16, 64]
    assert derived_sizes(spec, 64) == {"full": {"queue_size": [56]}, "part": {"queue_size": [8]}}
    assert from_dump(spec.model_dump(mode="json")) == spec
    by_epochs = [
        costs(resolve(spec_of(PROTOTYPES, pretrain={"epochs": 3}, search=searched), choice, 0))["cost/pretrain_gmacs"]
        for choice in grid(spec)
    ]
    assert by_epochs[0] == pytest.approx(4 * by_epochs[1])
    assert costs(resolve(spec, grid(spec)[0], 0))["cost/pretrain_steps"] == 2


@pytest.mark.parametrize(
    ("subset", "search", "words"),
    [
        ({"method": "randm", "fraction": 0.2}, {}, "data.subset.method: 'randm'"),
        ({"method": "random", "fraction": 2}, {}, "data.subset.fraction: 2"),
        ({"method": "random", "share": 0.2}, {}, "data.subset.share.*is not a knob of data.subset"),
        ({"method": "prototypes", "fraction": 0.2}, {}, "data: .*prototypes needs features; write `from: SWEEP`"),
        ({**PROTOTYPES, "from": "encoder"}, {}, "resnet18 begins from random weights; set encoder.weights or"),
        (None, {"space": {"data.subset.fraction": [0.1]}}, "which this spec lacks; add `subset: {method: random"),
        (PROTOTYPES, {"space": {"data.subset.fracton": [0.1]}}, "is not a knob of data.subset; did you mean"),
        (PROTOTYPES, {"space": {"data.image_size": [8]}}, "the trials of a sweep share one data set"),
        (
            {"method": "random", "fraction": 0.5},
            {"space": {"data.subset.method": ["random", "sas"]}},
            "search.space.data.*sas needs features",
        ),
        (
            {"method": "sas", "fraction": 0.5},
            {"space": {"data.subset.fraction": {"low": 0.1, "high": 0.5}}, "sampler": "random", "trials": 2},
            "search.space.data.*sas needs features",
        ),
        (
            None,
            {"objective": ["maximize knn/top1_val", "minimize cost/pretrain_gmacs"]},
            "is not known where the length of pretraining is given in steps; give it in epochs, or use cost/pretrain",
        ),
    ],
)
def test_mistakes_have_a_place_and_a_remedy(subset: Any, search: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=words):
        spec_of(subset, search={"sampler": "grid", **search})


def test_labels_that_decide_must_be_there_and_two_images_must_stay(tmp_path: Path, cache: Path) -> None:
    few = spec_of({"method": "random", "fraction": 0.01})
    with pytest.raises(DataError, match=r"data\.subset\.fraction: 0\.01 keeps 1 of 64 images; raise it"):
        run(config_of(few, ""), tmp_path / "few", cache)


def on_a_rank(rank: int, root: Path, identity: str, cache: Path) -> None:
    torch.set_num_threads(1)
    found: Any
    try:
        dist.init_process_group("gloo", init_method=f"file://{root}/group", rank=rank, world_size=2)
        folder, seen = root / "trials" / "gang", []
        config = config_of(spec_of(PROTOTYPES, resources={"workers": 2}), identity)
        pretrained = trial.pretrain
        trial.pretrain = lambda method, pack, *rest: seen.append(pack.positions) or pretrained(method, pack, *rest)
        if rank == 0:
            run(config, folder, cache)
        else:
            trial.run_worker(config, folder, cache=root / "another node")
        (found,) = seen
    except Exception:
        found = traceback.format_exc()
    torch.save(found, root / f"rank{rank}.pt")


def test_two_workers_pretrain_on_the_same_images_as_one(tmp_path: Path, cache: Path) -> None:
    identity = kept_encoder(tmp_path)
    context = mp.get_context("spawn")
    ranks = [context.Process(target=on_a_rank, args=(rank, tmp_path, identity, cache)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(120)
        process.kill()
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2))
    assert not isinstance(first, str), first
    assert torch.equal(first, second)
    assert not (tmp_path / "another node" / "features").exists()  # rank 0 chooses for all
    run(config_of(spec_of(PROTOTYPES), identity), tmp_path / "trials" / "alone", cache)
    assert kept(tmp_path / "trials" / "alone") == kept(tmp_path / "trials" / "gang")
