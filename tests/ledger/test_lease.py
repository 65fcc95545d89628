"""One driver a sweep: leases of one database, their time a hundredth of the real one's."""

import errno
import os
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ssl_sweep.ledger import database, lease
from ssl_sweep.ledger import open as ledgers
from ssl_sweep.ledger.database import DatabaseStorage
from ssl_sweep.ledger.entries import LeaseLost, Notes
from ssl_sweep.ledger.lease import Lease, NoFileLocksError, SweepLockedError, driver_of, sole_driver
from ssl_sweep.ledger.open import load_ledger, open_ledger, open_notes
from ssl_sweep.spec.sweep import SweepSpec, from_dump
from ssl_sweep.trialdir import processes

ELSEWHERE = {"owner": "other", "host": "node7", "pid": 1, "pids": "another boot", "count": 3}


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in {"BEAT_S": 0.1, "WATCH_S": 1.0}.items():
        monkeypatch.setattr(lease, name, seconds)


def spec() -> SweepSpec:
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    return from_dump({"name": "sweep", **base, "evaluate": {"knn": {}}})


def notes(url: str) -> Notes:
    """As another process has them: with a connection of its own."""
    return open_notes(url, spec())


@pytest.fixture
def beating(url: str) -> Iterator[Notes]:
    """A lease that another machine's driver keeps."""
    held, ended = notes(url), threading.Event()
    held.write("lease", ELSEWHERE)

    def beat() -> None:
        count = 3
        while not ended.wait(0.1):
            held.write("lease", {**ELSEWHERE, "count": (count := count + 1)})

    thread = threading.Thread(target=beat)
    thread.start()
    yield held
    ended.set()
    thread.join()


def test_a_second_driver_on_another_machine_is_refused_and_told_where_the_first_is(
    tmp_path: Path, beating: Notes, url: str
) -> None:
    with (
        pytest.raises(SweepLockedError, match=r"process 1 on node7.*`stop` ends it"),
        sole_driver(tmp_path, notes(url)),
    ):
        pass


def test_a_driver_that_gives_no_sign_of_life_is_replaced(tmp_path: Path, url: str) -> None:
    notes(url).write("lease", ELSEWHERE)
    began = time.monotonic()
    with sole_driver(tmp_path, notes(url)) as ours:
        assert time.monotonic() - began > 1.0
        assert driver_of(notes(url))["pid"] == os.getpid()  # type: ignore[index]
        assert ours.taken_by is None
    assert driver_of(notes(url)) is None  # given back


def test_a_driver_of_this_machine_that_was_killed_is_replaced_at_once(tmp_path: Path, url: str) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    notes(url).write("lease", {**ELSEWHERE, "pid": ended.pid, "pids": processes.scope()})
    began = time.monotonic()
    with sole_driver(tmp_path, notes(url)):
        assert time.monotonic() - began < 1.0


def test_on_one_machine_the_second_is_refused_at_once(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "WATCH_S", 60)
    with (
        sole_driver(tmp_path, notes(url)),
        pytest.raises(SweepLockedError, match=f"process {os.getpid()} on"),
        sole_driver(tmp_path, notes(url)),
    ):
        pass


def test_of_many_that_start_at_once_one_wins(url: str) -> None:
    leases = [Lease(notes(url)) for _ in range(4)]
    won: list[Lease] = []

    def take(each: Lease) -> None:
        try:
            each.acquire()
        except SweepLockedError:
            return
        won.append(each)

    threads = [threading.Thread(target=take, args=(each,)) for each in leases]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    won[0].release()


def test_who_finds_its_lease_taken_knows_by_whom_and_leaves_it_alone(url: str) -> None:
    ours = Lease(notes(url))
    ours.acquire()
    taken: dict[str, Any] = {**ELSEWHERE, "owner": "third"}
    notes(url).write("lease", taken)
    deadline = time.monotonic() + 20
    while ours.taken_by is None and time.monotonic() < deadline:
        notes(url).write("lease", taken)  # again: its own beat may have come in between
        time.sleep(0.05)
    assert ours.taken_by == "process 1 on node7"
    ours.release()
    assert notes(url).read()["lease"] == taken


def test_a_database_that_is_away_for_a_moment_ends_no_lease(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = notes(url)
    ours = Lease(kept)
    ours.acquire()
    swap = kept.swap
    failed = threading.Event()

    def away(*wiring: Any) -> bool:
        if not failed.is_set():
            failed.set()
            raise OSError("no route to host")
        return swap(*wiring)

    monkeypatch.setattr(kept, "swap", away)
    assert failed.wait(10)
    before = ours._count
    deadline = time.monotonic() + 10
    while ours._count == before and time.monotonic() < deadline:
        time.sleep(0.05)
    assert ours._count > before
    assert ours.taken_by is None
    ours.release()


class CutOff(sqlite3.Connection):
    """A connection that is away at one commit, until another driver has taken the sweep over."""

    meanwhile: Callable[[], object] | None = None

    def commit(self) -> None:
        if (meanwhile := CutOff.meanwhile) is not None:
            CutOff.meanwhile = None
            self.rollback()
            meanwhile()
            raise sqlite3.OperationalError("server closed the connection unexpectedly")
        super().commit()


@pytest.fixture
def far(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], DatabaseStorage]:
    """Opens a database that is tried again when it is away."""
    monkeypatch.setattr(database, "FIRST_DELAY_S", 0.01)
    return lambda url: DatabaseStorage(url, engine_kwargs={"connect_args": {"factory": CutOff, "timeout": 60}})


def test_a_driver_that_was_cut_off_writes_nothing_once_another_drives(
    tmp_path: Path, url: str, far: Callable[[str], DatabaseStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    with sole_driver(tmp_path, notes(url)) as ours:
        monkeypatch.setattr(lease, "BEAT_S", 60)
        with monkeypatch.context() as patched:
            patched.setattr(ledgers, "open_storage", far)
            ledger = open_ledger(url, spec(), owner=ours.owner)
        running = replace(ledger.ask().trials[0], state="RUNNING", attempts=1)  # type: ignore[union-attr]
        ledger.update(running)
        CutOff.meanwhile = lambda: notes(url).write("lease", ELSEWHERE)
        with pytest.raises(LeaseLost, match="process 1 on node7 has taken this sweep over"):
            ledger.update(replace(running, state="COMPLETE", results={"knn/top1_val": 1.0}))
        with pytest.raises(LeaseLost):
            ledger.notes.write("confirm:0", [])
        assert CutOff.meanwhile is None
    assert [trial.state for trial in load_ledger(url, "sweep").trials] == ["RUNNING"]
    assert notes(url).read()["lease"] == ELSEWHERE
    assert "confirm:0" not in notes(url).read()


def test_a_sign_of_life_that_was_held_up_overwrites_nobodys_lease(
    url: str, far: Callable[[str], DatabaseStorage], monkeypatch: pytest.MonkeyPatch
) -> None:
    notes(url)
    with monkeypatch.context() as patched:
        patched.setattr(ledgers, "open_storage", far)
        ours = Lease(notes(url))
    ours.acquire()
    CutOff.meanwhile = lambda: notes(url).write("lease", ELSEWHERE)
    ours._thread.join(20)
    assert ours.taken_by == "process 1 on node7"
    ours.release()
    assert notes(url).read()["lease"] == ELSEWHERE


def test_a_sign_of_life_whose_answer_was_lost_was_given(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    there = notes(url)
    transact = there.database.transact
    monkeypatch.setattr(
        there.database, "transact", lambda write: transact(lambda connection, _: write(connection, True))
    )
    assert there.swap("sign", None, {"count": 1})
    assert there.swap("sign", None, {"count": 1})
    assert not there.swap("sign", None, {"count": 2})


@pytest.mark.parametrize("error", [NotImplementedError("no flock"), OSError(errno.ENOLCK, "No locks available")])
def test_storage_without_locks_is_refused_with_the_remedy(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refused(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(lease.FileLock, "acquire", refused)
    with (
        pytest.raises(
            NoFileLocksError, match=r"there are no file locks .*; give --storage .* a file system with locks"
        ),
        sole_driver(tmp_path, notes(url)),
    ):
        pass
