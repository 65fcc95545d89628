"""SIGKILL of the driver, again and again: what is on disk goes on, and ends as if nothing had happened.

`make test-faults` has it killed twenty times in one sweep.
"""

import os
import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_sweep.trialdir.journal import read

KILLS = int(os.environ.get("SSL_SWEEP_FAULTS", "1"))
STEPS = 10 + 3 * KILLS  # the sweep must outlast the kills
Started = subprocess.Popen[bytes]


def attempts(storage: Path) -> int:
    """How often a trial was begun."""
    return sum(event.name == "attempt" for folder in storage.glob("faults/trials/*") for event in read(folder)[0])


def kill_at_a_random_moment(driver: Started, storage: Path, before: int, rng: random.Random) -> None:
    """SIGKILL a driver as it starts up, or within a second of its first trial's begin."""
    try:
        wait_a_while(driver, storage, before, rng)
        assert driver.poll() is None, driver.communicate()  # the fault is to hit a sweep at work
    finally:
        driver.kill()
        driver.communicate(timeout=60)


def wait_a_while(driver: Started, storage: Path, before: int, rng: random.Random) -> None:
    if rng.random() < 0.7:
        while attempts(storage) == before:
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 1.0))
    else:
        time.sleep(rng.uniform(0.0, 5.0))


@pytest.mark.slow
@pytest.mark.timeout(600 + 60 * KILLS)
def test_killed_at_random_moments_a_sweep_ends_as_if_undisturbed(
    tmp_path: Path, start_driver: Callable[..., Started], check_end: Callable[..., None]
) -> None:
    """Slow: each kill takes a start of Ray."""
    rng = random.Random(KILLS)
    for _ in range(KILLS):
        before = attempts(tmp_path)
        kill_at_a_random_moment(start_driver(tmp_path, STEPS), tmp_path, before, rng)
    last = start_driver(tmp_path, STEPS)
    try:
        said, _ = last.communicate(timeout=500)
    finally:
        last.kill()
    assert last.returncode == 0, said.decode()
    check_end(tmp_path, STEPS, repeated=2 * KILLS)  # a kill costs each running trial its step since the checkpoint
