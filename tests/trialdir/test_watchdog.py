"""Trials that hang, in processes of their own: one that is ended takes the test's with it."""

import subprocess
import sys
from pathlib import Path

from ssl_sweep.trialdir import watchdog

HANGS = """
import ctypes, sys
from pathlib import Path
from ssl_sweep.trial import attempt as attempts
from ssl_sweep.trialdir.record import TrialRecord

def stuck(*_, **__):
    ctypes.PyDLL(None).sleep(120)  # as native code that never gives the GIL back

attempts.trial.run = stuck
folder = Path(sys.argv[1])
attempts.attempt(TrialRecord("t"), 1, print, folder, folder, timeout=1.5)
"""

LIVES = """
import sys, time
from pathlib import Path
from ssl_sweep.trialdir import watchdog

folder = Path(sys.argv[1])
with watchdog.watched(folder, 1.5):
    end = time.monotonic() + 3
    while time.monotonic() < end:  # it steps
        time.sleep(0.01)
        watchdog.heartbeat()
    with watchdog.waiting():  # it reports to a driver that is slow
        time.sleep(2)
time.sleep(2)  # its process waits for the next trial
"""


def run(code: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, timeout=100)


def test_a_trial_that_hangs_with_the_gil_is_ended_and_says_where_it_was(tmp_path: Path) -> None:
    ran = run(HANGS, tmp_path)
    assert ran.returncode == 1
    dump = watchdog.take_dump(tmp_path)
    assert dump is not None
    assert watchdog.summary(dump).startswith(
        "no sign of life for 0:00:01.500000; it was in stuck (<string>:8) < _run ("
    )
    assert watchdog.take_dump(tmp_path) is None  # the next attempt's end is not mistaken for this one's


def test_signs_of_life_keep_a_trial_and_nothing_stays_armed_after_it(tmp_path: Path) -> None:
    ran = run(LIVES, tmp_path)
    assert (ran.returncode, ran.stderr) == (0, "")
    assert [path.name for path in tmp_path.iterdir()] == [watchdog.HEARTBEAT_FILE]


def test_a_killed_process_is_not_taken_for_a_hung_one(tmp_path: Path) -> None:
    (tmp_path / watchdog.DUMP).touch()  # as an attempt leaves it that was watched and killed
    assert watchdog.take_dump(tmp_path) is None
