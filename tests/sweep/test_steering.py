"""Stop, pause and resume: what commands write, what the driver's scheduler makes of it."""

import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import typer.testing

from ssl_sweep.cli import app
from ssl_sweep.cluster import scheduler as scheduler_module
from ssl_sweep.cluster.scheduler import Idle, Launch, LedgerScheduler
from ssl_sweep.ledger.entries import LedgerError, Trial
from ssl_sweep.ledger.lease import sole_driver
from ssl_sweep.ledger.open import load_ledger, open_ledger
from ssl_sweep.ledger.orders import read_orders
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep import steering
from ssl_sweep.sweep.best import NoSuchTrial
from ssl_sweep.sweep.status import may_be_driven, sweep_status
from ssl_sweep.sweep.steering import ResumeSelection, check_not_stopped, prepare_resume, stop_or_pause
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir import requests
from ssl_sweep.trialdir.events import AttemptStarted, MetricsReported
from ssl_sweep.trialdir.journal import Journal, read
from ssl_sweep.trialdir.processes import this_process

METRIC = "knn/top1_val"


class Ends:
    """An observer that notes how trials ended."""

    def __init__(self) -> None:
        self.states: list[str] = []

    def started(self, trial: Trial) -> None: ...
    def reported(self, trial: Trial, report: MetricsReported) -> None: ...
    def ended(self, trial: Trial) -> None:
        self.states.append(trial.state)


@pytest.fixture(autouse=True)
def _looks_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler_module, "POLL_EVERY_S", 0.0)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    (tmp_path / "sweep").mkdir()
    return FolderStorage(tmp_path)


def opened(storage: Storage, alphas: int = 3) -> Ledger:
    search = {"space": {"views.overlay_alpha": [0.0, 0.1, 0.2, 0.3][:alphas]}, "seeds": 1, "sampler": "grid"}
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    return open_ledger(
        storage.ledger_url, from_dump({"name": "sweep", **base, "evaluate": {"knn": {}}, "search": search})
    )


@pytest.fixture
def driven(storage: Storage) -> Iterator[tuple[Ledger, LedgerScheduler, Ends]]:
    """A sweep with a driver at work, that has two trials running."""
    ledger, ends = opened(storage), Ends()
    with sole_driver(storage.sweep("sweep"), ledger.notes):
        search = LedgerScheduler(ledger, storage, ends)
        for name in "ab":
            assert isinstance(search.next(name), Launch)
        yield ledger, search, ends


def end(search: LedgerScheduler, name: str, state: str) -> None:
    results = {METRIC: 50.0} if state == "COMPLETE" else {}
    search.end(name, Outcome(state, results, message="asked"))


def asks(storage: Storage, ledger: Ledger) -> list[str | None]:
    found = [requests.read_stop_request(storage.trial("sweep", trial.trial_id)) for trial in ledger.trials]
    return [each.ask if each else None for each in found]


@pytest.mark.parametrize(("what", "state"), [("stop", "STOPPED"), ("pause", "PAUSED")])
def test_a_running_sweep_is_asked_through_its_ledger(
    storage: Storage, driven: tuple[Ledger, LedgerScheduler, Ends], what: Any, state: str
) -> None:
    ledger, search, ends = driven
    assert asks(storage, ledger) == [None, None]
    said = stop_or_pause(storage, "sweep", what)
    assert "asked its driver (process" in said
    search.poll_requests()
    assert asks(storage, ledger) == [what, what]
    assert search.next("c") is Idle.WAIT  # no more are handed out
    for name in "ab":
        end(search, name, state)
    assert search.next("c") is Idle.FINISHED
    assert ends.states == [state, state]
    assert [trial.state for trial in ledger.trials] == [state, state]
    assert search.stop_request is not None
    assert search.stop_request.ask == what


def test_one_trial_is_stopped_and_the_sweep_goes_on(
    storage: Storage, driven: tuple[Ledger, LedgerScheduler, Ends]
) -> None:
    ledger, search, _ = driven
    stop_or_pause(storage, "sweep", "stop", [ledger.trials[1].trial_id[:13]])
    search.poll_requests()
    assert asks(storage, ledger) == [None, "stop"]
    end(search, "b", "STOPPED")
    assert isinstance(search.next("c"), Launch)
    for name in "ac":
        end(search, name, "COMPLETE")
    assert search.next("d") is Idle.FINISHED
    assert [trial.state for trial in ledger.trials] == ["COMPLETE", "STOPPED", "COMPLETE"]
    assert not search.open


def test_a_trial_that_crashes_instead_of_stopping_is_not_tried_again(
    storage: Storage, driven: tuple[Ledger, LedgerScheduler, Ends]
) -> None:
    ledger, search, _ = driven
    stop_or_pause(storage, "sweep", "stop", [ledger.trials[0].trial_id])
    search.poll_requests()
    search.process_died("a", "")
    search.poll_requests()
    assert [trial.state for trial in ledger.trials] == ["STOPPED", "RUNNING"]


def test_without_a_driver_what_had_begun_is_marked_at_once(storage: Storage) -> None:
    ledger = opened(storage)
    begun, fresh = ledger.ask().trials[0], ledger.ask().trials[0]  # type: ignore[union-attr]
    ledger.update(replace(begun, state="RUNNING", attempts=1))  # its driver was killed
    Journal(storage.trial("sweep", begun.trial_id)).append(AttemptStarted(attempt=1))
    assert (
        stop_or_pause(storage, "sweep", "stop")
        == "no driver runs sweep: 1 trials marked STOPPED; `ssl-sweep sync sweep` tells MLflow"
    )
    again = load_ledger(storage.ledger_url, "sweep")
    assert [trial.state for trial in again.trials] == ["STOPPED", "CREATED"]
    assert read(storage.trial("sweep", begun.trial_id))[0][-1].state == "STOPPED"
    assert fresh.trial_id == again.trials[1].trial_id


def test_run_says_that_a_sweep_was_stopped_and_goes_on_with_a_paused_one(storage: Storage) -> None:
    ledger = opened(storage)
    stop_or_pause(storage, "sweep", "pause")
    check_not_stopped(ledger.notes, "sweep", ledger.notes.read())
    assert read_orders(ledger.notes).sweep is None
    stop_or_pause(storage, "sweep", "stop")
    with pytest.raises(LedgerError, match=r"was stopped \(ssl-sweep stop on .*ssl-sweep resume sweep"):
        check_not_stopped(ledger.notes, "sweep", ledger.notes.read())
    assert prepare_resume(ledger, ResumeSelection(), ledger.notes.read()) is None
    check_not_stopped(ledger.notes, "sweep", ledger.notes.read())


def ended(storage: Storage) -> Ledger:
    """A sweep with a trial complete, one failed, one stopped and one that waits."""
    ledger = opened(storage, alphas=4)
    for state in ("COMPLETE", "FAILED", "STOPPED", "CREATED"):
        trial = ledger.ask().trials[0]  # type: ignore[union-attr]
        results = {METRIC: 1.0} if state == "COMPLETE" else None
        ledger.update(replace(trial, state=state, attempts=int(state != "CREATED"), results=results))
    return ledger


@pytest.mark.parametrize(
    ("failed", "named", "states", "runs"),
    [
        (False, (), ["COMPLETE", "CREATED", "CREATED", "CREATED"], [1, 2, 3]),
        (True, (), ["COMPLETE", "CREATED", "STOPPED", "CREATED"], [1]),
        (False, (2,), ["COMPLETE", "FAILED", "CREATED", "CREATED"], [2]),
        (False, (1, 3), ["COMPLETE", "CREATED", "STOPPED", "CREATED"], [1, 3]),
    ],
)
def test_a_resume_takes_up_what_it_is_told(
    storage: Storage, failed: bool, named: tuple[int, ...], states: list[str], runs: list[int]
) -> None:
    ledger = ended(storage)
    ids = [trial.trial_id for trial in ledger.trials]
    only = prepare_resume(ledger, ResumeSelection(failed, [ids[number] for number in named]), ledger.notes.read())
    assert [trial.state for trial in ledger.trials] == states
    assert [trial.state for trial in load_ledger(storage.ledger_url, "sweep").trials] == states
    search = LedgerScheduler(ledger, storage, Ends(), only=only)
    given = []
    while isinstance(launch := search.next(str(len(given))), Launch):
        given.append(ids.index(launch.record.trial_id))
    assert given == runs


def test_trials_that_are_not_there_or_done_are_refused(storage: Storage) -> None:
    ledger = ended(storage)
    complete = ledger.trials[0].trial_id
    with pytest.raises(NoSuchTrial, match="is complete: it cannot be resumed"):
        prepare_resume(ledger, ResumeSelection(trials=[complete]), ledger.notes.read())
    with pytest.raises(NoSuchTrial, match=f"no trial '{complete[:-1]}~'; did you mean '{complete}'"):
        prepare_resume(ledger, ResumeSelection(trials=[complete[:-1] + "~"]), ledger.notes.read())
    with pytest.raises(NoSuchTrial, match="is COMPLETE already"):
        stop_or_pause(storage, "sweep", "stop", [complete])


def test_a_sweep_that_has_ended_is_not_stopped(storage: Storage) -> None:
    ledger = opened(storage, alphas=1)
    ledger.update(replace(ledger.ask().trials[0], state="COMPLETE", results={METRIC: 1.0}))  # type: ignore[union-attr]
    with pytest.raises(LedgerError, match="sweep has ended: there is nothing to stop; `ssl-sweep status sweep`"):
        stop_or_pause(storage, "sweep", "stop")
    check_not_stopped(ledger.notes, "sweep", ledger.notes.read())


def test_the_commands_say_what_they_did_and_what_to_type_next(storage: Storage) -> None:
    ended(storage)
    place = ["--storage", str(storage.root)]
    ran = typer.testing.CliRunner().invoke(app, ["stop", "sweep", *place])
    assert ran.exit_code == 0
    assert f"continue it: ssl-sweep resume sweep --storage {storage.root}\n" in ran.stdout
    shown = typer.testing.CliRunner().invoke(app, ["status", "sweep", *place]).stdout
    assert "stopped 1" in shown
    assert shown.splitlines()[2].split()[-1] == METRIC
    assert sorted(line.split()[-1] for line in shown.splitlines()[3:7]) == ["-", "-", "-", "1"]
    assert "continue it: ssl-sweep resume sweep" in shown
    status = json.loads(typer.testing.CliRunner().invoke(app, ["status", "sweep", "--json", *place]).stdout)
    assert (status["asked"]["ask"], status["driver"], status["waiting"]) == ("stop", None, 1)


class Taken:
    """A lease that somebody else has by now."""

    taken_by = "process 9 on node7"


def test_a_driver_whose_lease_was_taken_writes_nothing_more(storage: Storage) -> None:
    ledger, lease = opened(storage), Taken()
    lease.taken_by = None  # type: ignore[assignment]
    search = LedgerScheduler(ledger, storage, Ends(), lease=lease)  # type: ignore[arg-type]
    assert isinstance(search.next("a"), Launch)
    lease.taken_by = "process 9 on node7"
    assert search.next("b") is Idle.WAIT
    end(search, "a", "COMPLETE")
    assert load_ledger(storage.ledger_url, "sweep").trials[0].state == "RUNNING"


def test_a_stop_in_the_first_second_waits_for_the_ledger_in_the_making(
    storage: Storage, caplog: pytest.LogCaptureFixture
) -> None:
    made: list[Ledger] = []
    maker = threading.Timer(0.6, lambda: made.append(opened(storage)))
    maker.start()
    said = stop_or_pause(storage, "sweep", "stop")
    maker.join()
    assert said == "no driver runs sweep: 0 trials marked STOPPED"
    assert read_orders(made[0].notes).sweep is not None
    assert "sweep has no ledger yet; waiting up to 20 s for a driver that has just begun" in caplog.text


def test_a_sweep_that_was_never_begun_is_not_waited_for(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(steering, "LEDGER_S", 0.1)
    for name in ("other", "sweep"):  # the second has a folder
        with pytest.raises(LedgerError, match=f"no sweep named '{name}' here"):
            stop_or_pause(storage, name, "stop")


def test_a_stop_while_a_resume_begins_is_not_cleared_with_the_earlier_ones(storage: Storage) -> None:
    ledger = opened(storage)
    stop_or_pause(storage, "sweep", "stop")
    asked = ledger.notes.read()  # the resume begins
    time.sleep(1.0)
    with sole_driver(storage.sweep("sweep"), ledger.notes):
        assert "asked its driver" in stop_or_pause(storage, "sweep", "stop")
        prepare_resume(ledger, ResumeSelection(), asked)
    assert read_orders(ledger.notes).sweep is not None
    prepare_resume(ledger, ResumeSelection(), ledger.notes.read())
    assert read_orders(ledger.notes).sweep is None


def test_what_no_driver_runs_is_interrupted_and_a_stopped_driver_is_named(storage: Storage) -> None:
    ledger = opened(storage)
    choice = ledger.ask()
    assert choice is not None
    ledger.update(replace(choice.trials[0], state="RUNNING", attempts=1))
    with subprocess.Popen(["sleep", "600"]) as process:
        held = {"owner": "o", **asdict(replace(this_process(), pid=process.pid, started=None)), "count": 1}
        ledger.notes.write("lease", held)
        found = sweep_status(storage, "sweep")
        assert (found["state"], found["running"], found["interrupted"]) == ("RUNNING", 1, 0)
        process.send_signal(signal.SIGSTOP)
        while sweep_status(storage, "sweep")["driver"]["state"] != "stopped":
            time.sleep(0.01)
        shown = ssl_sweep("status", "sweep", storage)
        assert f"driver: process {process.pid} on " in shown
        assert "which is stopped: `kill -CONT" in shown
        process.kill()
    found = sweep_status(storage, "sweep")
    assert (found["state"], found["running"], found["interrupted"]) == ("INTERRUPTED", 0, 1)
    assert [trial["state"] for trial in found["trials"]] == ["INTERRUPTED"]
    shown = ssl_sweep("status", "sweep", storage)
    assert "which is gone" in shown
    assert "interrupted, no driver runs it; continue it: ssl-sweep resume sweep" in shown
    assert "INTERRUPTED" in ssl_sweep("list", None, storage)
    assert not may_be_driven(storage, "sweep")


def ssl_sweep(command: str, name: str | None, storage: Storage) -> str:
    words = [command, *filter(None, [name]), "--storage", str(storage.root)]
    return " ".join(typer.testing.CliRunner().invoke(app, words, catch_exceptions=False).stdout.split())
