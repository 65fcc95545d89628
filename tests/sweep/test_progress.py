import io
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.sweep import progress
from ssl_sweep.sweep.progress import Progress
from ssl_sweep.trialdir import waits
from ssl_sweep.trialdir.events import MetricsReported, TagsSet
from ssl_sweep.trialdir.journal import Journal
from ssl_sweep.trialdir.processes import Process

TRIAL = Trial("t0", choice=3, seed=1, state="RUNNING", attempts=1)


@pytest.fixture
def spec() -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": "watched",
            "data": {"source": "sklearn:digits", "image_size": 8},
            "encoder": "resnet18",
            "method": "simclr",
            "evaluate": {"knn": {}},
        }
    )


def watched(
    spec: SweepSpec, monkeypatch: pytest.MonkeyPatch, **console: Any
) -> tuple[Progress, io.StringIO, list[float]]:
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    text = io.StringIO()
    return Progress(spec, [], lambda: 2, Console(file=text, width=200, **console), Path), text, clock


def test_a_pipe_gets_a_line_as_each_trial_ends(spec: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, text, clock = watched(spec, monkeypatch)
    shown.started(TRIAL)
    clock[0] += 30
    shown.ended(replace(TRIAL, state="COMPLETE", results={"knn/top1_val": 51.25}))
    shown.ended(replace(TRIAL, trial_id="t1", state="FAILED", reason="oom", message="lower the batch"))
    assert text.getvalue().splitlines() == [
        "[1/2] choice 3 seed 1: COMPLETE, knn/top1_val 51.25; about 30 s left",
        "[2/2] choice 3 seed 1: FAILED, oom: lower the batch; about 0 s left",
    ]


def test_pruned_trials_have_ended_and_are_counted(spec: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, text, _ = watched(spec, monkeypatch)
    shown.started(TRIAL)
    shown.ended(replace(TRIAL, state="PRUNED", message="pruned at epoch 3"))
    assert text.getvalue().startswith("[1/2] choice 3 seed 1: PRUNED, pruned at epoch 3;")
    assert "done 1/2  running 0  failed 0  pruned 1  best -" in shown._header().plain


def test_a_pipe_hears_of_a_long_trial_once_a_minute(spec: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, text, clock = watched(spec, monkeypatch)
    shown.started(TRIAL)
    for epoch in range(1, 7):
        clock[0] += 25
        shown.reported(TRIAL, MetricsReported(metrics={"pretrain/loss": 1 / epoch}, step=epoch))
    assert text.getvalue().splitlines() == [
        "[0/2] choice 3 seed 1: pretrain epoch 3  pretrain/loss 0.3333",
        "[0/2] choice 3 seed 1: pretrain epoch 6  pretrain/loss 0.1667",
    ]


def test_a_terminal_is_drawn_on_and_gets_no_lines(spec: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, text, clock = watched(spec, monkeypatch, force_terminal=True)
    clock[0] += 100
    shown.reported(TRIAL, MetricsReported(metrics={"pretrain/loss": 1.0}, step=1))
    shown.ended(replace(TRIAL, state="COMPLETE", results={"knn/top1_val": 51.25}))
    assert text.getvalue() == ""


def test_the_bar_has_a_line_of_its_own(spec: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, text, _ = watched(spec, monkeypatch, force_terminal=True)
    shown.ended(replace(TRIAL, trial_id="t1", state="COMPLETE"))
    shown.started(TRIAL)
    Console(file=text, width=200).print(shown._render())
    header, bar, row = (line.rstrip() for line in text.getvalue().splitlines())
    assert (header.split()[0], set(bar), row) == ("watched", {"━"}, "choice 3  seed 1  attempt 1  starting")


def test_who_waits_for_whom_is_shown_and_told_within_a_minute(
    spec: SweepSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    maker = Process("node7", 4711, "another boot")
    waits.note(waits.Wait("the same pretraining", time.time(), maker, "stopped", "9c1b2d3e4f"), tmp_path)
    said = "for the same pretraining of trial 9c1b2d3e: process 4711 on node7, which is stopped: `kill -CONT 4711`"
    waiting = replace(TRIAL, trial_id=str(tmp_path))
    shown, text, clock = watched(spec, monkeypatch)
    shown.started(waiting)
    for _ in range(10):
        shown.look()
        clock[0] += 6
    assert text.getvalue().count(said) == 1
    waits.clear(tmp_path)
    shown.look()
    assert shown._waits == {}
    shown, text, clock = watched(spec, monkeypatch, force_terminal=True)
    shown.started(waiting)
    waits.note(waits.Wait("the same pretraining", time.time(), maker, "stopped", "9c1b2d3e4f"), tmp_path)
    shown.look()
    shown._console.print(shown._render())
    assert "waits since" in text.getvalue()


def test_the_best_is_a_mean_over_seeds_and_not_a_lucky_trial(spec: SweepSpec, monkeypatch: pytest.MonkeyPatch) -> None:
    shown, *_ = watched(spec, monkeypatch)
    for choice, seed, value in ((0, 0, 50.0), (0, 1, 52.0), (1, 0, 90.0)):
        trial = Trial(f"{choice}-{seed}", choice, seed, "COMPLETE", results={"knn/top1_val": value})
        shown.ended(trial)
    assert "best knn top1 (val) 51 (choice 0, mean of 2 seeds)" in shown._header().plain


def test_a_collapsed_trial_is_marked_by_its_reports_and_by_its_folder(
    spec: SweepSpec, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    text = io.StringIO()
    shown = Progress(spec, [], lambda: 3, Console(file=text, width=200), lambda trial_id: tmp_path / trial_id)
    shown.reported(TRIAL, MetricsReported(metrics={"pretrain/feature_std_val": 0.001}, step=1))
    shared = replace(TRIAL, trial_id="t1")
    Journal(tmp_path / "t1").append(TagsSet(tags={"collapsed": "true"}))
    Journal(tmp_path / "t2").append(TagsSet(tags={"repeated": "collapsed"}))
    for trial in (TRIAL, shared, replace(TRIAL, trial_id="t2")):
        shown.ended(replace(trial, state="COMPLETE", results={"knn/top1_val": 10.0}))
    assert ["COMPLETE, collapsed, knn" in line for line in text.getvalue().splitlines()] == [True, True, False]
    assert "collapsed 2" in shown._header().plain
