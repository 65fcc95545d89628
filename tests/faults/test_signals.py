"""Ctrl-C and SIGTERM, and a second driver beside one at work: on a sweep of fake trials in processes of its own."""

import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_sweep.sweep.exit_codes import ExitCode

STEPS = 70  # longer than the second driver takes to be refused
Started = subprocess.Popen[bytes]


@pytest.mark.slow
@pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="three starts of Ray: make test-faults")
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
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
        refused, _ = second.communicate(timeout=60)
        assert second.returncode == ExitCode.TRY_AGAIN, refused.decode()
        assert f"another driver is running this sweep, process {first.pid} on " in refused.decode()
        assert first.poll() is None
        first.send_signal(sent)
        said, _ = first.communicate(timeout=100)
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
