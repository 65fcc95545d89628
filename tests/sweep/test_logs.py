"""What `ssl-sweep logs` shows, of journals and logs as attempts write them."""

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.best import NoSuchTrial
from ssl_sweep.sweep.logs import find_log, follow_log, read_log, sweep_logs, tail, trial_log
from ssl_sweep.trialdir.events import AttemptStarted, Ended
from ssl_sweep.trialdir.journal import Journal


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return FolderStorage(tmp_path)


@pytest.fixture
def ledger(storage: Storage) -> Ledger:
    search = {"space": {"views.overlay_alpha": [0.0, 0.1, 0.2]}, "seeds": 1, "sampler": "grid"}
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    ledger = open_ledger(
        storage.ledger_url, from_dump({"name": "sweep", **base, "evaluate": {"knn": {}}, "search": search})
    )
    while (choice := ledger.ask()) is not None:
        write(storage, choice.trials[0], "".join(f"line {number}\n" for number in range(50)))
        ledger.update(replace(choice.trials[0], state="RUNNING", attempts=1))
    return ledger


def write(storage: Storage, trial: Trial, text: str) -> None:
    folder = storage.trial("sweep", trial.trial_id)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log.txt").open("a") as file:
        file.write(text)


def fail(ledger: Ledger, storage: Storage, number: int, error: str) -> None:
    trial, traceback = ledger.trials[number], f"Traceback (most recent call last):\n  deep\n{error}\n"
    Journal(storage.trial("sweep", trial.trial_id)).append(Ended(state="FAILED", message=error, traceback=traceback))
    ledger.update(replace(trial, state="FAILED", reason="crash", message=error))


def test_each_error_is_shown_once_with_the_trials_that_had_it(ledger: Ledger, storage: Storage) -> None:
    for number, error in enumerate(["ValueError: odd", "KeyError: 'x'", "ValueError: odd"]):
        fail(ledger, storage, number, error)
    shown = sweep_logs(ledger, storage, 5)
    first, second = shown.split("\n\n")
    assert first.count("trial ") == 2
    assert "overlay_alpha=0.0 seed=0" in first
    assert first.endswith("  deep\nValueError: odd")
    assert ledger.trials[1].trial_id in second
    assert "KeyError" in second


def test_of_running_trials_the_newest_lines_are_shown(ledger: Ledger, storage: Storage) -> None:
    shown = sweep_logs(ledger, storage, 2)
    assert shown.count("line 48\nline 49\n") == 3
    assert "line 47" not in shown


def test_a_trials_own_log_with_its_traceback(ledger: Ledger, storage: Storage) -> None:
    assert trial_log(ledger, storage, ledger.trials[0].trial_id[:8], 1) == "line 49\n"
    fail(ledger, storage, 0, "ValueError: odd")
    assert trial_log(ledger, storage, ledger.trials[0].trial_id, 1).endswith("ValueError: odd\n")
    with pytest.raises(NoSuchTrial, match="no trial 'nothing'"):
        trial_log(ledger, storage, "nothing", 1)


def test_following_ends_with_the_attempt(ledger: Ledger, storage: Storage) -> None:
    trial = ledger.trials[0]
    texts: Iterator[str] = follow_log(storage, *find_log(ledger, storage, trial.trial_id), 1)
    assert next(texts) == "line 49\n"
    write(storage, trial, "news\n")
    assert next(texts) == "news\n"
    ends = threading.Timer(0.2, fail, (ledger, storage, 0, "ValueError: odd"))
    ends.start()
    assert list(texts) == []
    ends.join()


def test_following_a_trial_that_was_just_resumed_does_not_end_with_the_attempt_before(
    ledger: Ledger, storage: Storage
) -> None:
    journal = Journal(storage.trial("sweep", ledger.trials[0].trial_id))
    journal.append(AttemptStarted(attempt=1))
    fail(ledger, storage, 0, "ValueError: odd")
    _, path = find_log(ledger, storage, ledger.trials[0].trial_id)
    trial = replace(ledger.trials[0], state="RUNNING", attempts=2)
    assert not read_log(trial, path)[2]
    journal.append(AttemptStarted(attempt=2))
    assert not read_log(trial, path)[2]
    journal.append(Ended(state="COMPLETE"))
    assert read_log(trial, path)[2]


def test_the_one_to_follow_must_be_named_where_several_run(ledger: Ledger, storage: Storage) -> None:
    with pytest.raises(NoSuchTrial, match=r"3 trials run .*choose the one to follow"):
        find_log(ledger, storage, None)


def test_the_command(ledger: Ledger, storage: Storage) -> None:
    ran = CliRunner().invoke(app, ["logs", "sweep", "--lines", "1", "--storage", str(storage.root)])
    assert (ran.exit_code, ran.stdout.count("line 49\n")) == (0, 3)
    assert tail(storage.root / "none", 3) == ""
