"""Health while training: no trace in the training, the collapse alarm through real trials."""

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import Data, Splits, load_splits
from ssl_sweep.data.views import Augment
from ssl_sweep.knobs import knobs
from ssl_sweep.ledger import budgets
from ssl_sweep.models.encoders import ENCODERS
from ssl_sweep.spec.sweep import from_dump, resolve
from ssl_sweep.training.health import METRICS, Health, measure, voting_projector
from ssl_sweep.training.loop import Diverged, Stage, Stop
from ssl_sweep.trial import attempt
from ssl_sweep.trial import run as trial
from ssl_sweep.trial.stage_keys import stage_key
from ssl_sweep.trialdir import journal
from ssl_sweep.trialdir.record import TrialRecord

SPEC: dict[str, Any] = {
    "name": "health",
    "data": {"source": "digits", "image_size": 8},
    "encoder": {"name": "resnet18", "width": 4},
    "method": {"name": "simclr", "dim": 8},
    "pretrain": {"epochs": 2, "batch_size": 512, "lr": 0.01},
    "evaluate": {"knn": {}},
    "precision": "fp32",
}
EVERYTHING = {"collapse_below": 1.0}  # nothing is so spread out: an alarm in every epoch


def config(**changes: Any) -> dict[str, Any]:
    return resolve(from_dump({**SPEC, **changes}), {}, 0)


def ignore(metrics: dict[str, float], step: int) -> None:
    pass


def tags(folder: Path) -> list[dict[str, str]]:
    return [event.tags for event in journal.read(folder)[0] if event.name == "tags"]


@pytest.fixture
def splits(cache: Path) -> Splits:
    return load_splits(Data(source="digits", image_size=8), root=Path(), cache=cache)


@pytest.fixture
def stage(tmp_path: Path) -> Stage:
    return Stage(tmp_path, ignore, 3, torch.device("cpu"))


def encoder() -> nn.Module:
    return ENCODERS["resnet18"](8, width=4)


def test_measuring_leaves_no_trace(splits: Splits, stage: Stage) -> None:
    measured = encoder().train()
    next(iter(measured.children())).eval()  # a part that somebody froze
    modes = [module.training for module in measured.modules()]
    before, random = copy.deepcopy(measured.state_dict()), torch.get_rng_state()
    metrics = measure(measured, splits, Augment(8, blur=0.5, brightness=0.4), Health(), stage, 1)
    assert tuple(metrics) == METRICS
    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in measured.modules()] == modes
    assert all(torch.equal(value, before[name]) for name, value in measured.state_dict().items())


def test_every_trial_is_measured_on_the_same_images(splits: Splits, stage: Stage) -> None:
    fixed, health = encoder(), Health(images=30, bank=100)
    first = measure(fixed, splits, Augment(8), health, stage, 1)
    assert first == measure(fixed, splits, Augment(8), health, stage, 1)
    other = measure(fixed, splits, Augment(8), health, replace(stage, seed=4), 2)
    assert {name for name in METRICS if first[name] != other[name]} == {"alignment"}  # whose views are drawn anew


def relabelled(splits: Splits, *, every: int) -> Splits:
    """The splits with a label on each `every`-th image alone."""

    def only_some(pack: Pack) -> Pack:
        view = pack.subset(torch.arange(len(pack)))
        view.labels = torch.where(torch.arange(len(pack)) % every == 0, pack.labels, -1)
        return view

    return replace(splits, train=only_some(splits.train), val=only_some(splits.val))


def test_images_without_a_label_have_no_part_in_the_vote(splits: Splits, stage: Stage) -> None:
    fixed, health = encoder(), Health(images=10**6, bank=10**6)
    some = relabelled(splits, every=3)
    found, whole = (measure(fixed, each, Augment(8), health, stage, 1) for each in (some, splits))
    known = measure(fixed, some.labelled(), Augment(8), health, stage, 1)
    assert found["knn_top1_val"] == known["knn_top1_val"]
    assert {name for name in METRICS if found[name] != whole[name]} == {"knn_top1_val"}  # the rest is of all images


def test_without_labels_there_is_no_vote(splits: Splits, stage: Stage) -> None:
    found = measure(encoder(), relabelled(splits, every=10**6), Augment(8), Health(), stage, 1)
    assert tuple(found) == METRICS  # one of each split has a label
    for split in ("train", "val"):
        pack = getattr(splits, split).subset(torch.arange(50))
        pack.labels = torch.full((50,), -1)
        lacking = replace(splits, **{split: pack})
        assert tuple(measure(encoder(), lacking, Augment(8), Health(), stage, 1)) == METRICS[:-1]


def test_projections_can_vote(splits: Splits, stage: Stage) -> None:
    method = knobs.load("methods", "simclr")(encoder(), dim=1)
    by_features, by_projections = Health(bank=200), Health(bank=200, votes_by="projections")
    assert voting_projector(method, by_features) is None
    plain = measure(method.encoder, splits, Augment(8), by_features, stage, 1)
    projector = voting_projector(method, by_projections)
    assert projector is method.projector
    before = copy.deepcopy(projector.state_dict())
    projected = measure(method.encoder, splits, Augment(8), by_projections, stage, 1, projector)
    assert {name for name in METRICS if plain[name] != projected[name]} == {"knn_top1_val"}  # one sign is all it sees
    assert all(torch.equal(value, before[name]) for name, value in projector.state_dict().items())


def test_projections_are_asked_of_a_method_that_makes_none() -> None:
    method = knobs.load("methods", "autoencoder")(encoder())
    with pytest.raises(ValueError, match=r"health\.votes_by: this method has no projector; use 'features'"):
        voting_projector(method, Health(votes_by="projections"))


def test_features_that_are_no_numbers_are_a_divergence(splits: Splits, stage: Stage) -> None:
    broken = encoder()
    with torch.no_grad():
        next(broken.parameters()).fill_(math.nan)
    with pytest.raises(Diverged, match="after epoch 7"):
        measure(broken, splits, Augment(8), Health(), stage, 7)


def test_it_is_measured_every_so_often_and_at_the_end() -> None:
    assert [epoch for epoch in range(1, 8) if Health(every=3).due(epoch, 7)] == [3, 6, 7]
    assert not any(Health(every=0).due(epoch, 7) for epoch in range(1, 8))


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("watched")
    return folder, trial.run(config(health=EVERYTHING), ignore, folder, cache=cache)


def test_the_last_epochs_values_are_results(watched: tuple[Path, dict[str, float]]) -> None:
    folder, results = watched
    assert {f"pretrain/{name}" for name in ("loss", *METRICS)} < results.keys()
    reports = [event for event in journal.read(folder)[0] if "pretrain/loss" in getattr(event, "metrics", {})]
    assert [event.step for event in reports] == [1, 2]
    assert {name: reports[1].metrics[f"pretrain/{name}"] for name in METRICS} == {
        name: results[f"pretrain/{name}"] for name in METRICS
    }
    # all validation images, and a bank that holds all training images: the evaluation itself
    assert results["pretrain/knn_top1_val"] == results["knn/top1_val"]
    assert "pretrain/feature_std" in reports[1].metrics  # the method's own, of its projections


def test_training_is_the_same_to_the_bit_without_it(
    watched: tuple[Path, dict[str, float]], tmp_path: Path, cache: Path
) -> None:
    results = trial.run(config(health={"every": 0}), ignore, tmp_path, cache=cache)
    assert results == {name: watched[1][name] for name in results}
    assert [name for name in results if name.startswith("pretrain/")] == ["pretrain/loss"]
    assert tags(tmp_path) == []
    ours, theirs = (torch.load(folder / "encoder.pt")["encoder"] for folder in (tmp_path, watched[0]))
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items())


def test_stopped_after_the_last_epoch_the_results_are_the_same(
    watched: tuple[Path, dict[str, float]], tmp_path: Path, cache: Path
) -> None:
    def stop(metrics: dict[str, float], step: int) -> None:
        if step == 2:
            raise Stop("asked to")

    with pytest.raises(Stop):
        trial.run(config(health=EVERYTHING), stop, tmp_path, cache=cache)
    assert trial.run(config(health=EVERYTHING), ignore, tmp_path, cache=cache) == watched[1]
    assert tags(tmp_path) == [{"collapsed": "true"}]


def test_a_collapsed_trial_is_tagged_once(watched: tuple[Path, dict[str, float]]) -> None:
    assert tags(watched[0]) == [{"collapsed": "true"}]


def test_a_sound_trial_is_not_tagged_and_an_older_config_has_the_defaults(
    watched: tuple[Path, dict[str, float]], tmp_path: Path, cache: Path
) -> None:
    older = {name: value for name, value in config().items() if name != "health"}
    assert trial.run(older, ignore, tmp_path, cache=cache) == watched[1]
    assert tags(tmp_path) == []


def test_by_choice_a_collapse_ends_the_trial(tmp_path: Path, cache: Path) -> None:
    seen: list[int] = []
    record = TrialRecord("t", config=config(health={**EVERYTHING, "on_collapse": "stop"}))
    for _ in range(2):  # a failed trial that is resumed goes on, and fails again: at its last epoch, too
        outcome = attempt.attempt(record, 1, lambda metrics, step: seen.append(step), tmp_path, cache)
        assert (outcome.state, outcome.reason) == ("FAILED", "collapsed")
        assert "health.collapse_below (1.0)" in (outcome.message or "")
    assert "after epoch 2" in (outcome.message or "")
    assert attempt.attempt(record, 3, ignore, tmp_path, cache).reason == "collapsed"
    assert seen == [1, 2]  # what is seen of a collapsed epoch is reported before the end
    assert tags(tmp_path) == [{"collapsed": "true"}]
    assert "collapsed" in budgets.NO_RETRY


def test_the_projections_collapse_counts_too() -> None:
    health = Health(collapse_below=0.02)
    assert health.collapsed({"feature_std_val": 0.7, "feature_std": 0.01}) == "feature_std"
    assert health.collapsed({"feature_std_val": 0.01, "feature_std": 0.7}) == "feature_std_val"
    assert health.collapsed({"feature_std_val": 0.7}) is None


def test_an_untrained_encoder_is_not_collapsed(splits: Splits, stage: Stage) -> None:
    torch.manual_seed(0)
    assert Health().collapsed(measure(encoder(), splits, Augment(8), Health(), stage, 1)) is None


def test_only_a_stop_is_part_of_what_can_change_a_result() -> None:
    key = stage_key(config(), "pretrain", "fp32")
    assert key == stage_key(config(health={"every": 2, "collapse_below": 0.5}), "pretrain", "fp32")
    assert key != stage_key(config(health={"on_collapse": "stop"}), "pretrain", "fp32")
    older = {name: value for name, value in config().items() if name != "health"}
    assert key == stage_key(older, "pretrain", "fp32")
