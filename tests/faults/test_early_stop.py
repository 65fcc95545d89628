"""`stop` in the first seconds of `run`, while the ledger is being made: it ends the sweep or says that there is none.

Twenty starts of a driver: `make test-faults` runs them.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from servers import eventually

pytestmark = pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="twenty drivers: make test-faults")
WORDS = (("stop", "early"), ("status", "early"), ("list",), ("logs", "early"))
# all of a driver but Ray: a sweep that waits until it is asked to stop
DRIVER = """
import sys, time
import typer
from ssl_sweep.api.handle import run
from ssl_sweep.cluster.run import Ending
from ssl_sweep.commands.driving import _show as run_and_exit
from ssl_sweep.commands.shared import err, user_errors
from ssl_sweep.ledger.orders import read_orders
from ssl_sweep.sweep import drive, finish

def run_sweep(ledger, *_, **__):
    while (request := read_orders(ledger.notes).sweep) is None:
        time.sleep(0.1)
    return Ending(interrupted=True, halted=None, stop_request=request)

drive.run_sweep = run_sweep
finish.MLFLOW_WAIT_S = 0.0
spec = {
    "name": "early", "data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder",
    "evaluate": {"knn": {}}, "tracking": {"models": "none"},
}
print("go", flush=True)
try:
    with user_errors():
        run_and_exit(lambda: run(spec, storage=sys.argv[1], console=err))
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""


@pytest.mark.slow
@pytest.mark.parametrize("delay_s", [0.1 * step for step in range(20)])
def test_a_stop_is_obeyed_or_refused_in_words(tmp_path: Path, delay_s: float) -> None:
    """Slow: a driver and a command import torch and Optuna, and make the ledger's tables."""
    command = [sys.executable, "-c", DRIVER, str(tmp_path / "runs")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as driver:
        try:
            assert driver.stdout is not None
            assert driver.stdout.readline() == "go\n"
            time.sleep(delay_s)
            commands = [asked(tmp_path / "runs", *words) for words in WORDS]
            errors = [ran.communicate(timeout=300)[1] for ran in commands]
            assert not [error for error in errors if "Traceback" in error]
            assert {ran.returncode for ran in commands} <= {0, 2}, errors
            if commands[0].returncode == 0:
                assert eventually(lambda: driver.poll() is not None, 120), "the stop was lost"
                assert driver.returncode == 130, driver.stdout.read()
            else:
                assert "no sweep named 'early' here" in errors[0]
        finally:
            driver.kill()


def asked(storage: Path, *words: str) -> "subprocess.Popen[str]":
    """A command at work beside the driver."""
    command = [sys.executable, "-m", "ssl_sweep", *words, "--storage", str(storage)]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
