"""Signals, a closed terminal or pipe, and a second driver: on a sweep of fake trials in processes of its own."""

import os
import select
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_sweep.sweep.exit_codes import ExitCode

STEPS = 70  # longer than the second driver takes to be refused
Started = subprocess.Popen[bytes]


pytestmark = pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="starts of Ray: make test-faults")


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_told_to_end_it_leaves_all_to_go_on_with(
    tmp_path: Path,
    start_driver: Callable[..., Started],
    wait_for_steps: Callable[..., None],
    check_end: Callable[..., None],
    sent: signal.Signals,
) -> None:
    """Slow: three starts of Ray."""
    first = start_driver(tmp_path, STEPS)
    try:
        wait_for_steps(first, tmp_path)
        second = start_driver(tmp_path, STEPS)
        refused, _ = second.communicate(timeout=200)
        assert second.returncode == ExitCode.TRY_AGAIN, refused.decode()
        assert f"another driver is running this sweep, process {first.pid} on " in refused.decode()
        assert first.poll() is None
        first.send_signal(sent)
        said, _ = first.communicate(timeout=200)
    finally:
        first.kill()
    assert first.returncode == 130, said.decode()
    assert "interrupted; a resume continues from the last checkpoints" in said.decode()
    again = start_driver(tmp_path, STEPS)
    try:
        said, _ = again.communicate(timeout=200)
    finally:
        again.kill()
    assert again.returncode == 0, said.decode()
    check_end(tmp_path, STEPS, repeated=2)


@pytest.mark.slow
def test_a_closed_terminal_leaves_all_to_go_on_with(
    tmp_path: Path,
    start_driver: Callable[..., Started],
    wait_for_steps: Callable[..., None],
    check_end: Callable[..., None],
) -> None:
    """Slow: two starts of Ray. Closing the terminal sends SIGHUP to all of the job, Ray's processes too."""
    terminal, end = os.openpty()
    driver = start_driver(tmp_path, STEPS, terminal=end)
    os.close(end)
    closing = threading.Event()
    reader = threading.Thread(target=read_all, args=(terminal, closing))
    reader.start()
    try:
        wait_for_steps(driver, tmp_path)
        closing.set()
        assert driver.wait(200) == ExitCode.INTERRUPTED
    finally:
        closing.set()
        reader.join()
        driver.kill()
    again = start_driver(tmp_path, STEPS)
    said, _ = again.communicate(timeout=200)
    assert again.returncode == 0, said.decode()
    check_end(tmp_path, STEPS, repeated=2)


@pytest.mark.slow
def test_a_sweep_that_ignores_hangups_or_has_no_reader_goes_on(
    tmp_path: Path,
    start_driver: Callable[..., Started],
    wait_for_steps: Callable[..., None],
    check_end: Callable[..., None],
) -> None:
    """Slow: a start of Ray. As under `nohup`, or in `ssl-sweep run ... | head -1`."""
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        driver = start_driver(tmp_path, STEPS)
    finally:
        signal.signal(signal.SIGHUP, ignored)
    try:
        wait_for_steps(driver, tmp_path)
        driver.stdout.close()
        driver.send_signal(signal.SIGHUP)
        assert driver.wait(200) == 0
    finally:
        driver.kill()
    check_end(tmp_path, STEPS, repeated=0)


def read_all(terminal: int, closing: threading.Event) -> None:
    """Read what is written to a terminal, then close it: no read may hold it open."""
    while not closing.is_set():
        if select.select([terminal], [], [], 0.1)[0]:
            os.read(terminal, 65536)
    os.close(terminal)
