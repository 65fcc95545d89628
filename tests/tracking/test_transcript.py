import math

import pytest

from ssl_sweep.tracking.transcript import Point, Transcript, knob_numbers, labels, parameters, run_name, text, value_of
from ssl_sweep.trialdir.events import (
    AttemptStarted,
    BestTrialChosen,
    Ended,
    Event,
    MetricsReported,
    StageFinished,
    StageStarted,
)
from ssl_sweep.trialdir.record import TrialRecord


def stage(results: dict[str, float]) -> Event:
    return StageFinished(time=2.0, stage="knn", seconds=1.5, results=results)


def report(name: str, value: float, step: int) -> Event:
    return MetricsReported(time=1.0, metrics={name: value}, step=step)


def test_a_result_that_was_reported_is_not_said_again() -> None:
    transcript = Transcript([report("knn/top1_val", 49.0, 3)])
    update = transcript.update([stage({"top1_val": 49.0, "top1_test": 48.0})])
    assert update.points == [Point("knn/top1_test", 48.0, 2000, 0), Point("knn/seconds", 1.5, 2000, 0)]
    assert transcript.update([stage({"top1_val": 49.0, "top1_test": 48.0})]).points == []


def test_the_result_stands_over_what_was_reported() -> None:
    """An earlier version's journal of an evaluation that ran again lacks its second reports."""
    transcript = Transcript([report("knn/top1_val", 90.0, 2), report("knn/top1_val", 100.0, 3)])
    assert transcript.update([stage({"top1_val": 80.0})]).points[0] == Point("knn/top1_val", 80.0, 2000, 3)


def test_of_a_stage_that_runs_again_the_newest_values_are_the_latest() -> None:
    """MLflow's latest value has the highest step, then the highest time, then the highest value."""
    again = [StageStarted(time=0.5, stage="knn", key="b"), report("knn/top1_val", 70.0, 1)]  # its clock is behind
    first = [report("knn/top1_val", 100.0, 1), report("knn/top1_val", 100.0, 2), stage({"top1_val": 100.0})]
    points = Transcript(first).update([*again, stage({"top1_val": 80.0})]).points
    assert points[0] == Point("knn/top1_val", 70.0, 1001, 1)
    assert points[1] == Point("knn/top1_val", 80.0, 2000, 2)
    third = Transcript([*first, *again]).update(again).points
    assert third == [Point("knn/top1_val", 70.0, 1002, 1)]


def test_the_last_state_stands() -> None:
    events = [
        AttemptStarted(time=1.0, attempt=1, host="a"),
        Ended(time=2.0, state="FAILED", reason="crash", message="m", traceback="t"),
        AttemptStarted(time=3.0, attempt=2, host="b"),
    ]
    failed = Transcript().update(events[:2])
    assert (failed.status, failed.end_ms, failed.texts) == ("FAILED", 2000, {"traceback.txt": "t"})
    update = Transcript().update(events)
    assert (update.status, update.end_ms) == ("RUNNING", None)
    assert update.tags["ssl_sweep.attempt"] == "2"
    assert update.tags["ssl_sweep.reason"] == ""


def test_events_without_a_place_are_passed_over() -> None:
    update = Transcript().update([Event(time=1.0), report("a/b", 1.0, 0)])
    assert update.points == [Point("a/b", 1.0, 1000, 0)]


@pytest.mark.parametrize("value", [True, False, None, 3, -1, 0.3, 1e-4, 1e30, math.inf])
def test_values_survive_as_text(value: object) -> None:
    back = value_of(text(value))
    assert back == value
    assert type(back) is type(value)


@pytest.mark.parametrize("value", ["resnet18", "imagefolder:data", [1, 2], {}])
def test_other_values_are_no_numbers(value: object) -> None:
    with pytest.raises(ValueError, match="could not convert"):
        value_of(text(value))


def test_parameters_are_flat_with_the_searched_knobs() -> None:
    record = TrialRecord(
        "one",
        seed=4,
        knobs={"views.alpha": 0.3, "method": "moco"},
        config={
            "views": {"alpha": 0.3, "flip": None},
            "method": {"name": "moco"},
            "evaluate": {"knn": {"k": [1, 5]}},
        },
    )
    assert parameters(record) == {
        "views.alpha": "0.3",
        "method": "moco",
        "views.flip": "null",
        "method.name": "moco",
        "evaluate.knn.k": "[1, 5]",
        "seed": "4",
    }
    assert parameters(TrialRecord("one")) == {}


def test_run_names_say_what_differs() -> None:
    assert run_name({"views.overlay_alpha": 0.3, "seed": 1}, 1) == "overlay_alpha=0.3 seed=1"
    both = {"pretrain.lr": 0.1, "evaluate.finetune.lr": 0.01}
    assert run_name(both, 0) == "pretrain.lr=0.1 evaluate.finetune.lr=0.01 seed=0"


def test_the_last_best_stands() -> None:
    events = [BestTrialChosen(time=1.0, trial=name) for name in ("a", "b")]
    update = Transcript().update(events)
    assert (update.best, update.tags) == ("b", {"ssl_sweep.best_trial": "b"})


def test_what_trials_are_picked_and_sorted_by() -> None:
    knobs = {"method.dim": 64, "views.alpha": 0.3, "views.flip": True, "method.head": "mlp", "method.size": None}
    config = {"method": {"name": "moco"}, "encoder": {"name": "vit_tiny"}, "data": {"source": "digits"}}
    record = TrialRecord("one", seed=3, knobs=knobs, config=config)
    assert labels(record) == {
        "ssl_sweep.method": "moco",
        "ssl_sweep.encoder": "vit_tiny",
        "ssl_sweep.data": "digits",
        "ssl_sweep.knob.method.dim": "64",
        "ssl_sweep.knob.views.alpha": "0.3",
        "ssl_sweep.knob.views.flip": "true",
        "ssl_sweep.knob.method.head": "mlp",
        "ssl_sweep.knob.method.size": "null",
    }
    assert knob_numbers(record) == {"knob/method.dim": 64.0, "knob/views.alpha": 0.3, "knob/seed": 3.0}
    assert (labels(TrialRecord("one")), knob_numbers(TrialRecord("one"))) == ({}, {})


def test_text_that_is_no_utf8_is_written_with_replacements() -> None:
    assert text("caf\u00e9 \udcff") == "caf\u00e9 ?"
    assert text(["\udcff"]) == '["?"]'
