"""Locks whose holder is known, and loses its turn when it gives no sign: with real processes, stopped and killed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ssl_sweep.trialdir import locks, waits, watchdog
from ssl_sweep.trialdir.locks import LockHeldError, locked
from ssl_sweep.trialdir.processes import Process, scope, this_process

HOLDS = """
import sys, time
from pathlib import Path
from ssl_sweep.trialdir import locks
locks.BEAT_S = 0.1
with locks.locked(Path(sys.argv[1]), "it"):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """A process that holds the lock `tmp_path / "lock"` until it reads a line."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL_S", 0.05)
    monkeypatch.setattr(locks, "BEAT_S", 0.1)


def when(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.01)


def test_a_process_runs_is_stopped_is_gone_or_is_not_of_this_machine(holder: "subprocess.Popen[str]") -> None:
    assert this_process().state == "running"
    process = replace(this_process(), pid=holder.pid, started=None)
    assert process.state == "running"
    os.kill(holder.pid, signal.SIGSTOP)
    when(lambda: process.state == "stopped")
    assert f"`kill -CONT {holder.pid}` there lets it go on" in process.described(process.state)
    holder.kill()
    when(lambda: process.state == "gone")  # a zombie, which nobody has waited for yet
    holder.wait()
    assert process.state == "gone"
    assert replace(this_process(), started=1).state == "gone"  # its id was given to another process since
    assert replace(this_process(), pids="another boot").state is None
    assert Process("node7", 1).state is None
    assert scope() is not None


@pytest.mark.parametrize("ends", ["released", "killed"])
def test_a_lock_whose_holder_lives_is_waited_for_and_the_wait_is_noted(
    tmp_path: Path, holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch, ends: str
) -> None:
    monkeypatch.setattr(locks, "LEASE_S", 1.0)
    seen: list[waits.Wait | None] = []
    beats: list[float] = []

    def beat() -> None:  # once a poll
        beats.append(0.0)
        seen.append(waits.read(tmp_path))
        if len(beats) == 40 and holder.stdin is not None:  # 2 s at least, longer than the lease
            holder.kill() if ends == "killed" else holder.stdin.close()

    monkeypatch.setattr(watchdog, "heartbeat", beat)
    with watchdog.watched(tmp_path, None), locked(tmp_path / "lock", "what it makes") as turn:
        assert turn == 1
        assert waits.read(tmp_path) is None
    assert len(beats) >= 40
    assert seen[0] is not None
    assert (seen[0].holder.pid, seen[0].state) == (holder.pid, "running")
    assert str(seen[0]).endswith(f" for what it makes: process {holder.pid} on {this_process().host}")


def test_a_stopped_holder_loses_its_turn_and_both_have_their_own(
    tmp_path: Path, holder: "subprocess.Popen[str]", monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(locks, "LEASE_S", 0.5)
    os.kill(holder.pid, signal.SIGSTOP)
    with caplog.at_level("INFO", "ssl_sweep"), locked(tmp_path / "lock", "it") as turn:
        assert turn == 2
        assert holder.poll() is None
    assert f"process {holder.pid} on {this_process().host}, which is stopped" in caplog.text
    with locked(tmp_path / "lock", "it") as turn:  # the next one does not wait again
        assert turn == 2


def test_a_lock_that_is_held_for_too_long_is_refused_with_its_holder(tmp_path: Path) -> None:
    path = tmp_path / ".mlflow.lock"
    refused = pytest.raises(LockHeldError, match=f"by process {os.getpid()} on ")
    with locks.briefly_locked(path, 60.0), refused, locks.briefly_locked(path, 0.1):
        pass
    with locks.briefly_locked(path, 0.1):
        pass


def test_a_trial_that_hangs_for_an_hour_gives_no_more_signs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    alive = tmp_path / "alive"
    with locks.renewed(alive):
        first = alive.stat().st_mtime_ns
        when(lambda: alive.stat().st_mtime_ns > first)
        monkeypatch.setattr(watchdog, "silence_s", lambda: locks.HANG_S)
        time.sleep(0.3)
        last = alive.stat().st_mtime_ns
        time.sleep(0.3)
        assert alive.stat().st_mtime_ns == last
    assert json.loads(alive.read_text()) == asdict(this_process())


def test_a_damaged_note_of_a_wait_is_none(tmp_path: Path) -> None:
    (tmp_path / waits.WAITS).write_text('{"what": ')
    assert waits.read(tmp_path) is None
    waits.clear(tmp_path)
    assert not list(tmp_path.iterdir())
