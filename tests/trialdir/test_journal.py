import json
import math
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ssl_sweep.trialdir.events import (
    ArtifactAdded,
    AttemptStarted,
    BestTrialChosen,
    DescriptionSet,
    Ended,
    Event,
    FailedAlike,
    MetricsReported,
    PretrainingFailed,
    PretrainingFinished,
    PretrainingStarted,
    StageFinished,
    StageStarted,
    Superseded,
    TagsSet,
)
from ssl_sweep.trialdir.journal import JOURNAL, MAX_LINE_BYTES, Journal, JournalError, last_event, read


def events_of(folder: Path) -> list[Any]:
    return read(folder)[0]


def test_events_come_back_in_order_with_their_time(tmp_path: Path) -> None:
    before = time.time()
    journal = Journal(tmp_path / "trial")
    journal.append(AttemptStarted(attempt=1, versions={"torch": "2"}))
    journal.append(Ended(state="COMPLETE", reason=None, time=5.0))
    first, second = events_of(tmp_path / "trial")
    assert before <= first.time <= time.time()
    assert first == AttemptStarted(time=first.time, attempt=1, versions={"torch": "2"})
    assert second == Ended(time=5.0, state="COMPLETE")
    lines = [json.loads(line) for line in (tmp_path / "trial" / JOURNAL).read_text().splitlines()]
    assert lines == [
        {"time": first.time, "event": "attempt", "attempt": 1, "versions": {"torch": "2"}},
        {"time": 5.0, "event": "end", "state": "COMPLETE", "reason": None},  # what it was not given is not written
    ]


LINES = {
    AttemptStarted: '{"time": 1, "event": "attempt", "attempt": 1, "host": "a", "pid": 2, "git_commit": null, '
    '"versions": {"torch": null}}',
    MetricsReported: '{"time": 1.5, "event": "report", "metrics": {"knn/top1_val": 3, "knn/loss": "nan"}, "step": 4}',
    StageStarted: '{"time": 1.5, "event": "begin", "stage": "knn", "key": "k"}',
    StageFinished: '{"time": 1.5, "event": "stage", "stage": "knn", "key": "k", "seconds": 1, "results": {"a": "inf"}}',
    ArtifactAdded: '{"time": 1.5, "event": "artifact", "path": "artifacts/pictures.png"}',
    TagsSet: '{"time": 1.5, "event": "tags", "tags": {"collapsed": "true", "sampler": null, "objective": ["a", "b"]}}',
    DescriptionSet: '{"time": 1.5, "event": "note", "text": "| a |"}',
    BestTrialChosen: '{"time": 1.5, "event": "best", "trial": "one"}',
    Ended: '{"time": 1.5, "event": "end", "state": "FAILED", "reason": "oom", "message": "m", "traceback": null}',
    Superseded: '{"time": 1.5, "event": "superseded"}',
    FailedAlike: '{"time": 1.5, "event": "failed_alike", "maker": "one", "failed_at": 1.25}',
    PretrainingStarted: '{"time": 1.5, "event": "attempt", "trial": "one", "host": "a", "pid": 2}',
    PretrainingFinished: '{"time": 1.5, "event": "stage", "trial": "one", "results": {"loss": 0.5}}',
    PretrainingFailed: '{"time": 1.5, "event": "failed", "trial": "one", "kind": "Diverged", "message": "m"}',
}


@pytest.mark.parametrize("event_class", LINES)
def test_every_line_of_a_journal_is_read_as_its_event_and_written_again_alike(
    tmp_path: Path, event_class: type[Event]
) -> None:
    (tmp_path / JOURNAL).write_text(LINES[event_class] + "\n")
    (event,) = events_of(tmp_path)
    assert type(event) is event_class
    Journal(tmp_path / "copy").append(event)
    assert json.loads((tmp_path / "copy" / JOURNAL).read_text()) == json.loads(LINES[event_class])


def test_a_shared_pretraining_of_the_first_version_names_no_process(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text('{"time": 2.0, "event": "attempt", "trial": "one"}\n')
    assert events_of(tmp_path) == [PretrainingStarted(time=2.0, trial="one")]


def test_an_event_of_a_later_version_is_no_error(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text('{"time": 2.0, "event": "heartbeat", "more": 1}\n')
    assert [(type(event), event.time) for event in events_of(tmp_path)] == [(Event, 2.0)]


def test_a_report_names_its_stage() -> None:
    assert MetricsReported(metrics={"linear/top1_val": 1.0, "linear/loss": 2.0}, step=3).stage == "linear"
    assert MetricsReported(metrics={}, step=3).stage == ""


def test_an_event_is_written_once(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    assert journal.append_once(TagsSet(tags={"a": "1"}))
    assert not journal.append_once(TagsSet(tags={"a": "1"}))
    assert journal.append_once(TagsSet(tags={"a": "2"}))
    assert [event.tags for event in events_of(tmp_path)] == [{"a": "1"}, {"a": "2"}]


def test_non_finite_numbers_are_strict_json(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.report({"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1.5}, 0)
    journal.append(StageFinished(stage="knn", key="k", seconds=1.0, results={"top1": math.nan, "note": "nano"}))
    for line in (tmp_path / JOURNAL).read_text().splitlines():
        json.loads(line, parse_constant=pytest.fail)
    report, stage = events_of(tmp_path)
    assert math.isnan(report.metrics["a"])
    assert [report.metrics[name] for name in "bcd"] == [math.inf, -math.inf, 1.5]
    assert math.isnan(stage.results["top1"])
    assert stage.results["note"] == "nano"


def test_metrics_may_be_tensors_and_numpy_numbers(tmp_path: Path) -> None:
    Journal(tmp_path).report({"a": torch.tensor(0.5), "b": np.float32(0.25), "c": 3}, 1)
    assert events_of(tmp_path)[0].metrics == {"a": 0.5, "b": 0.25, "c": 3.0}


def test_the_first_report_of_a_metric_and_step_stands(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    assert first.report({"loss": 1.0}, 0)
    assert first.report({"loss": 0.9}, 1)
    assert not first.report({"loss": 7.0}, 1)
    resumed = Journal(tmp_path)
    assert not resumed.report({"loss": 8.0}, 1)
    assert resumed.report({"loss": 8.0, "top1": 50.0}, 1)
    assert resumed.report({"loss": 0.8}, 2)
    reports = [(event.step, event.metrics) for event in events_of(tmp_path)]
    assert reports == [(0, {"loss": 1.0}), (1, {"loss": 0.9}), (1, {"top1": 50.0}), (2, {"loss": 0.8})]


def test_a_stage_that_runs_again_reports_anew(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.begin("knn", "a")
    assert journal.report({"knn/top1_val": 1.0}, 1)
    journal.begin("linear", "a")
    assert journal.report({"linear/top1_val": 1.0}, 1)
    journal = Journal(tmp_path)
    journal.begin("linear", "a")  # the next attempt continues it
    assert not journal.report({"linear/top1_val": 2.0}, 1)
    journal.append(StageFinished(stage="linear", key="a", seconds=1.0, results={"top1_val": 1.0}))
    journal.begin("linear", "a")
    assert journal.report({"linear/top1_val": 3.0}, 1)  # finished, and again
    assert not Journal(tmp_path).report({"linear/top1_val": 4.0}, 1)
    journal.begin("linear", "b")
    assert journal.report({"linear/top1_val": 5.0}, 1)  # other data, or settings
    assert not Journal(tmp_path).report({"linear/top1_val": 6.0}, 1)
    assert not journal.report({"knn/top1_val": 2.0}, 1)  # another stage
    reports = [event.metrics for event in events_of(tmp_path) if isinstance(event, MetricsReported)]
    assert [report["linear/top1_val"] for report in reports if "linear/top1_val" in report] == [1.0, 3.0, 5.0]


def test_opening_cuts_off_an_unfinished_line(tmp_path: Path) -> None:
    Journal(tmp_path).append(AttemptStarted(attempt=1))
    whole = (tmp_path / JOURNAL).read_bytes()
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"time": 1.0, "event": "rep')
    assert read(tmp_path) == (events_of(tmp_path), len(whole))
    Journal(tmp_path).append(AttemptStarted(attempt=2))
    assert [event.attempt for event in events_of(tmp_path)] == [1, 2]
    assert (tmp_path / JOURNAL).read_bytes().startswith(whole)


def test_opening_cuts_off_an_only_line(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_bytes(b'{"time": 1.0')
    Journal(tmp_path)
    assert (tmp_path / JOURNAL).read_bytes() == b""


def test_read_goes_on_from_an_offset_and_stops_at_an_end(tmp_path: Path) -> None:
    assert read(tmp_path) == ([], 0)
    journal = Journal(tmp_path)
    offsets = []
    for number in range(3):
        journal.append(AttemptStarted(attempt=number))
        offsets.append(read(tmp_path)[1])
    assert [event.attempt for event in read(tmp_path, offsets[0])[0]] == [1, 2]
    assert read(tmp_path, offsets[2]) == ([], offsets[2])
    events, end = read(tmp_path, offsets[0], offsets[1] + 3)
    assert ([event.attempt for event in events], end) == ([1], offsets[1])


def test_the_last_event_is_read_alone(tmp_path: Path) -> None:
    assert last_event(tmp_path) is None
    journal = Journal(tmp_path)
    assert last_event(tmp_path) is None
    for number in range(3):
        journal.append(Ended(state="FAILED", message="m" * 2_000, traceback="t" * 20_000))
        journal.append(AttemptStarted(attempt=number))
        assert last_event(tmp_path) == events_of(tmp_path)[-1]
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b'{"time": 1.0, "event": "rep')
    assert last_event(tmp_path) == events_of(tmp_path)[-1]


@pytest.mark.parametrize(
    "line", [b"not json\n", b"3\n", b'{"event": "end"}\n', b"\0\0\n", b'{"time": 1.0, "event": "end"}\n']
)
def test_a_spoilt_line_is_named(tmp_path: Path, line: bytes) -> None:
    Journal(tmp_path).append(AttemptStarted(attempt=1))
    offset = read(tmp_path)[1]
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(line)
    with pytest.raises(JournalError, match=rf"journal\.jsonl, byte {offset}: .* remove that line"):
        read(tmp_path)


def test_a_long_traceback_keeps_its_end_and_a_line_is_bounded(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(
        Ended(state="FAILED", message="m" * 10_000, traceback="\N{GRINNING FACE}" * 50_000 + "ValueError: x")
    )
    end = events_of(tmp_path)[0]
    assert len(end.message) == 2_000
    assert len(end.traceback) == 20_000
    assert end.traceback.endswith("ValueError: x")
    assert (tmp_path / JOURNAL).stat().st_size < MAX_LINE_BYTES
    with pytest.raises(ValueError, match=r"journal event 'tags' has \d+ bytes, at most"):
        journal.append(TagsSet(tags={"a": "x" * MAX_LINE_BYTES}))
    assert len(events_of(tmp_path)) == 1


def test_any_text_can_be_written(tmp_path: Path) -> None:
    message = "line\nbreak \r \u2028 \x00 \udcff end"
    Journal(tmp_path).append(Ended(state="FAILED", message=message))
    assert events_of(tmp_path)[0].message == message.replace("\udcff", "?")


def test_a_full_disk_leaves_whole_lines(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.append(AttemptStarted(attempt=1))
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:  # a file size limit fails a write half-way, as a full disk does
        resource.setrlimit(resource.RLIMIT_FSIZE, ((tmp_path / JOURNAL).stat().st_size + 20, limits[1]))
        with pytest.raises(OSError, match=r"wrote 20 of \d+ bytes, the disk is full: .*journal\.jsonl"):
            journal.report({"loss": 1.0}, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert journal.report({"loss": 1.0}, 0)
    assert [event.name for event in events_of(tmp_path)] == ["attempt", "report"]


WRITER = """
import sys
from pathlib import Path
from ssl_sweep.trialdir.journal import Journal
journal = Journal(Path(sys.argv[1]))
print("ready", flush=True)
for step in range(10**6):
    journal.report({"loss": 1.0 / (step + 1), "padding": 0.0}, step)
"""


def test_killed_writers_lose_nothing_and_repeat_nothing(tmp_path: Path) -> None:
    for _ in range(3):
        writer = subprocess.Popen([sys.executable, "-c", WRITER, str(tmp_path)], stdout=subprocess.PIPE)
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.05)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
    steps = [event.step for event in events_of(tmp_path)]
    assert steps == list(range(len(steps)))
    assert steps


def test_the_journal_needs_neither_mlflow_nor_pandas() -> None:
    code = (
        "import ssl_sweep.trialdir.journal, ssl_sweep.tracking.spool, ssl_sweep.tracking.transcript, sys; "
        "sys.exit(bool({'mlflow', 'pandas', 'torch', 'ray', 'optuna'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, env=dict(os.environ)).returncode == 0
