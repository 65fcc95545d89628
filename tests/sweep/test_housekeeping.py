"""What `ssl-sweep clean` takes and what it leaves, on the folders that trials leave."""

import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from optuna.trial import TrialState, create_trial
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.lease import sole_driver
from ssl_sweep.ledger.open import load_ledger, open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import from_dump, grid, resolve
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep import housekeeping
from ssl_sweep.sweep.best import best_trial
from ssl_sweep.trial.run import encoder_path
from ssl_sweep.trial.stage_keys import stage_key
from ssl_sweep.trial.stages import FinishedStages, link, newest_turn
from ssl_sweep.trialdir import checkpoint
from ssl_sweep.trialdir.events import AttemptStarted
from ssl_sweep.trialdir.journal import Journal

METRIC = "knn/top1_val"
WEIGHTS = {"encoder": torch.zeros(1000, 1000)}  # 4 MB
Made = tuple[Ledger, Storage]


def opened(
    root: Path,
    space: Mapping[str, Any],
    *,
    seeds: int = 1,
    choices: int | None = None,
    models: str = "none",
    **rest: Any,
) -> Made:
    data = {"source": "digits", "image_size": 8}
    search = {"space": dict(space), "seeds": seeds, "sampler": "grid"}
    base = {"name": "sweep", "data": data, "encoder": "resnet18", "method": "autoencoder", "evaluate": {"knn": {}}}
    storage = FolderStorage(root)
    storage.sweep("sweep").mkdir()
    spec = from_dump({**base, "search": search, "tracking": {"models": models}, **rest})
    ledger = open_ledger(storage.ledger_url, spec)
    for _ in range(len(grid(spec)) if choices is None else choices):
        assert ledger.ask() is not None
    return ledger, storage


def stage_of(made: Made, trial: Trial) -> Path:
    ledger, storage = made
    config = resolve(ledger.spec, ledger.choice(trial.choice).knobs, trial.seed)
    return storage.sweep("sweep") / "stages" / stage_key(config, "pretrain", "fp32", ledger.spec.resources.workers)


def end(made: Made, trial: Trial, state: str, score: float = 50.0) -> Path:
    """Leave a trial's folder, and its pretraining's, as a trial does that ends so; pruned and failed ones half-way."""
    ledger, storage = made
    folder, stage = storage.trial("sweep", trial.trial_id), stage_of(made, trial)
    Journal(folder).append(AttemptStarted(attempt=1))
    (folder / "log.txt").write_text("here\n")
    if state == "COMPLETE":
        if not encoder_path(stage).exists():
            checkpoint.save(encoder_path(stage), WEIGHTS)
        link(encoder_path(stage), encoder_path(folder))
        FinishedStages(folder / "stages.json").add("pretrain", stage.name, {"loss": 1.0})
    else:
        checkpoint.save(stage / "checkpoint.pt", WEIGHTS)
        checkpoint.save(folder / "knn" / "parts" / "0" / "checkpoint.pt", WEIGHTS)
    results = {METRIC: score} if state == "COMPLETE" else None
    ledger.update(replace(trial, state=state, attempts=1, results=results))
    return folder


def found(made: Made, keep: int | None = None) -> dict[str, set[Path]]:
    ledger = load_ledger(made[1].ledger_url, "sweep")
    return {each.kind: set(each.paths) for each in housekeeping.find_removable(ledger, made[1], keep) if each.paths}


def run(made: Made, *words: object, expect: int = 0) -> str:
    ran = CliRunner().invoke(app, [*map(str, words), "--storage", str(made[1].root)], catch_exceptions=False)
    assert ran.exit_code == expect, ran.output
    return ran.output


def test_what_can_be_resumed_keeps_all_that_it_has(tmp_path: Path) -> None:
    made = opened(tmp_path, {"views.overlay_alpha": [0.0, 0.1, 0.2, 0.3]})
    for trial, state in zip(made[0].trials, ("FAILED", "STOPPED", "PAUSED", "RUNNING"), strict=True):
        end(made, trial, state)
    assert found(made, keep=1) == {}


def test_checkpoints_of_pruned_trials_go_with_their_pretrainings(tmp_path: Path) -> None:
    made = opened(tmp_path, {"views.overlay_alpha": [0.0, 0.1]})
    complete, pruned = made[0].trials
    end(made, complete, "COMPLETE")
    folder = end(made, pruned, "PRUNED")
    assert found(made) == {
        housekeeping.CHECKPOINTS: {folder / "knn" / "parts" / "0" / "checkpoint.pt"},
        housekeeping.PRETRAININGS: {stage_of(made, pruned)},
    }


def test_a_pretraining_that_an_open_trial_shares_stays(tmp_path: Path) -> None:
    made = opened(tmp_path, {"evaluate.knn.temperature": [0.07, 0.1, 0.2]})
    pruned, failed, _ = made[0].trials
    assert stage_of(made, pruned) == stage_of(made, failed)
    folder = end(made, pruned, "PRUNED")
    end(made, failed, "FAILED")
    assert found(made) == {housekeeping.CHECKPOINTS: {folder / "knn" / "parts" / "0" / "checkpoint.pt"}}


@pytest.mark.parametrize(("choices", "stays"), [(1, True), (2, False)])
def test_a_pretraining_that_the_grid_comes_to_later_stays(tmp_path: Path, choices: int, stays: bool) -> None:
    made = opened(tmp_path, {"evaluate.knn.temperature": [0.07, 0.1]}, choices=choices)
    for trial in made[0].trials:
        end(made, trial, "PRUNED")
    assert (housekeeping.PRETRAININGS not in found(made)) == stays


def test_only_the_best_choices_keep_their_encoders(tmp_path: Path) -> None:
    made = opened(tmp_path, {"views.overlay_alpha": [0.0, 0.1, 0.2, 0.3]}, seeds=2)
    ledger, storage = made
    scores = [(50.0, 52.0), (70.0, 60.0), (90.0, None), (40.0, 41.0)]  # of a choice with a failed seed nobody knows
    for choice, seeds in zip(ledger.choices, scores, strict=True):
        for trial, score in zip(choice.trials, seeds, strict=True):
            end(made, trial, "FAILED" if score is None else "COMPLETE", score or 0.0)
    outranked = [trial for number in (0, 3) for trial in ledger.choice(number).trials]
    encoders = {encoder_path(storage.trial("sweep", trial.trial_id)) for trial in outranked}
    assert found(made, keep=1) == {
        housekeeping.ENCODERS: encoders,
        housekeeping.PRETRAININGS: {stage_of(made, trial) for trial in outranked},
    }
    said = run(made, "clean", "sweep", "--keep-encoders", 1, "--yes")
    assert said.splitlines()[-1].split()[-1] == "16.0"  # an encoder of each trial, under two names
    assert not any(path.exists() for path in encoders)
    assert found(made, keep=1) == {}
    best = best_trial(load_ledger(storage.ledger_url, "sweep"), storage)
    assert best is not None
    assert best.trial_id == ledger.choice(1).trials[0].trial_id


def test_the_export_of_a_removed_encoder_says_so(tmp_path: Path) -> None:
    made = opened(tmp_path, {"views.overlay_alpha": [0.0, 0.1]})
    for trial, score in zip(made[0].trials, (60.0, 50.0), strict=True):
        folder = end(made, trial, "COMPLETE", score)
        (folder / "config.yaml").write_text("config: {}\n")
    run(made, "clean", "sweep", "--keep-encoders", 1, "--yes")
    named = made[0].trials[1].trial_id
    said = run(made, "export", "sweep", tmp_path / "x.safetensors", "--trial", named, expect=2)
    assert "its encoder was removed (ssl-sweep clean, keep_encoders); name another trial" in said


def test_an_encoder_gives_room_back_with_its_last_name(tmp_path: Path) -> None:
    made = opened(tmp_path, {"evaluate.knn.temperature": [0.07, 0.1]})
    for trial, score in zip(made[0].trials, (60.0, 50.0), strict=True):
        end(made, trial, "COMPLETE", score)
    ledger = load_ledger(made[1].ledger_url, "sweep")
    surplus = housekeeping.find_removable(ledger, made[1], 1)
    assert [len(each.paths) for each in surplus] == [0, 1, 0, 0]
    assert sum(housekeeping.freed_bytes(surplus).values()) == 0


def test_nothing_goes_that_is_only_asked_about_and_nothing_but_what_is_named(tmp_path: Path) -> None:
    made = opened(tmp_path, {"views.overlay_alpha": [0.0]})
    folder = end(made, made[0].trials[0], "PRUNED")
    (folder / ".encoder.pt.partial").write_bytes(b"half")
    (folder / "artifacts.partial").mkdir()
    (folder / "artifacts.partial" / "a.partial").write_bytes(b"half")
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert "leftovers of processes that died" in run(made, "clean", "sweep", "--dry-run")
    assert {path for path in tmp_path.rglob("*") if path.is_file()} == before | {
        stage_of(made, made[0].trials[0]) / "lock"
    }
    run(made, "clean", "sweep", "--yes")
    stays = {path.name for path in folder.rglob("*") if path.is_file()}
    assert stays == {"journal.jsonl", "log.txt"}


def test_a_gang_that_failed_keeps_its_pretraining(tmp_path: Path) -> None:
    resources = {"pretrain": {"sync_batchnorm": False, "batch_size": 64}, "resources": {"workers": 2}}
    made = opened(tmp_path, {"views.overlay_alpha": [0.0]}, **resources)
    end(made, made[0].trials[0], "FAILED")
    assert found(made) == {}


def test_a_choice_without_its_knobs_stands_in_nobodys_way(tmp_path: Path) -> None:
    made = opened(tmp_path, {"views.overlay_alpha": [0.0, 0.1]}, choices=1)
    end(made, made[0].trials[0], "PRUNED")
    made[0]._study.add_trial(create_trial(state=TrialState.RUNNING))  # its driver was killed as it was asked for
    assert found(made)


def test_a_sweep_at_work_is_left_alone(tmp_path: Path) -> None:
    made = opened(tmp_path, {"views.overlay_alpha": [0.0]})
    folder = end(made, made[0].trials[0], "PRUNED")
    with sole_driver(made[1].sweep("sweep"), made[0].notes):
        assert "another driver is running this sweep" in run(made, "clean", "sweep", "--yes", expect=2)
    assert list(folder.rglob("checkpoint.pt"))


def test_a_pretraining_that_somebody_makes_is_left_alone(tmp_path: Path) -> None:
    made = opened(tmp_path, {"views.overlay_alpha": [0.0]})
    end(made, made[0].trials[0], "PRUNED")
    stage = stage_of(made, made[0].trials[0])
    with FileLock(stage / "lock"):
        assert housekeeping.PRETRAININGS not in found(made)
    assert housekeeping.PRETRAININGS in found(made)


def test_of_a_pretraining_that_was_taken_over_the_lost_turns_go(tmp_path: Path) -> None:
    made = opened(tmp_path, {"views.overlay_alpha": [0.0]})
    end(made, made[0].trials[0], "FAILED")  # it can be resumed
    first = stage_of(made, made[0].trials[0])
    second = first.with_name(f"{first.name}.2")
    shutil.copytree(first, second)
    partial = first.with_name(f"{first.name}.3.trial.partial")
    partial.mkdir()
    with FileLock(first / "lock"):  # the former holder is stopped
        assert found(made).get(housekeeping.LEFTOVERS, set()) == {partial}
    lost = found(made)[housekeeping.LEFTOVERS]
    assert first / "checkpoint.pt" in lost
    assert not [path for path in lost if path.is_relative_to(second)]
    assert newest_turn(first) == second


def test_encoders_wait_for_mlflow_to_have_its_models(tmp_path: Path) -> None:
    made = opened(tmp_path, {"views.overlay_alpha": [0.0, 0.1]}, models="best")
    for trial in made[0].trials:
        end(made, trial, "COMPLETE")
    said = run(made, "clean", "sweep", "--keep-encoders", 1, "--yes")
    assert "MLflow lacks 2 events, so encoders stay; send them: ssl-sweep sync sweep" in said
    assert all(encoder_path(made[1].trial("sweep", trial.trial_id)).exists() for trial in made[0].trials)
