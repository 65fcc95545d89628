"""SIGKILL of the driver, again and again: what is on disk goes on, and ends as if nothing had happened.

`make test-faults` has it killed twenty times in one sweep.
"""

import os
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import mlflow
import pytest
import torch

from ssl_sweep.journal import read
from ssl_sweep.ledger import load_ledger
from ssl_sweep.storage import Storage

DRIVER = Path(__file__).with_name("driver.py")
METRIC = "knn/top1_val"
KILLS = int(os.environ.get("SSL_SWEEP_FAULTS", "3"))
STEPS = 10 + 3 * KILLS  # the sweep must outlast the kills
TRIALS = 8


def started(storage: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, str(DRIVER), str(storage), str(STEPS)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def attempts(storage: Path) -> int:
    """How often a trial was begun."""
    return sum(event["event"] == "attempt" for folder in storage.glob("faults/trials/*") for event in read(folder)[0])


def kill_at_a_random_moment(storage: Path, rng: random.Random) -> None:
    """SIGKILL a driver as it starts up, or within a second of its first trial's begin."""
    before = attempts(storage)
    driver = started(storage)
    try:
        wait_a_while(driver, storage, before, rng)
        assert driver.poll() is None, driver.communicate()  # the fault is to hit a sweep at work
    finally:
        driver.kill()
        driver.communicate(timeout=60)


def wait_a_while(driver: subprocess.Popen[bytes], storage: Path, before: int, rng: random.Random) -> None:
    if rng.random() < 0.7:
        while attempts(storage) == before:
            assert driver.poll() is None, driver.communicate()
            time.sleep(0.05)
        time.sleep(rng.uniform(0.0, 1.0))
    else:
        time.sleep(rng.uniform(0.0, 5.0))


def check(storage: Path, kills: int) -> None:
    """Ledger, MLflow and storage agree; every trial is there once, as an undisturbed sweep leaves it."""
    ledger = load_ledger(Storage(storage).ledger_url, "faults")
    assert Counter(trial.state for trial in ledger.trials) == {"COMPLETE": TRIALS}
    folders = {folder.name: folder for folder in storage.glob("faults/trials/*")}
    assert folders.keys() == {trial.trial_id for trial in ledger.trials}
    client = mlflow.MlflowClient(f"sqlite:///{storage / 'mlflow.db'}")
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = [run for run in client.search_runs(experiments) if "mlflow.parentRunId" in run.data.tags]
    by_trial = {run.data.tags["ssl_sweep.trial_id"]: run for run in runs}
    assert len(runs) == len(by_trial) == TRIALS
    executed = 0
    for trial in ledger.trials:
        expected = weights(ledger.choice(trial.choice).knobs["views.overlay_alpha"], trial.seed)
        found = torch.load(folders[trial.trial_id] / "weights.pt")
        assert torch.equal(found["weights"], expected[-1])
        assert trial.results == {METRIC: float(expected[-1].sum())}
        run = by_trial[trial.trial_id]
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, METRIC)
        points = [(point.step, point.value) for point in sorted(history, key=lambda point: point.step)]
        assert points == [(step + 1, float(each.sum())) for step, each in enumerate(expected)]
        executed += len((folders[trial.trial_id] / "executed").read_text().split())
    assert executed <= TRIALS * STEPS + 2 * kills  # a kill costs each running trial its step since the checkpoint


def weights(alpha: float, seed: int) -> list[torch.Tensor]:
    """An undisturbed trial's, after each step."""
    state, after = torch.rand(4, generator=torch.Generator().manual_seed(seed)) + alpha, []
    for _ in range(STEPS):
        state = state * 1.01
        after.append(state)
    return after


@pytest.mark.slow
@pytest.mark.timeout(600 + 60 * KILLS)
def test_killed_at_random_moments_a_sweep_ends_as_if_undisturbed(tmp_path: Path) -> None:
    """Slow: each kill takes a start of Ray."""
    rng = random.Random(KILLS)
    for _ in range(KILLS):
        kill_at_a_random_moment(tmp_path, rng)
    last = started(tmp_path)
    try:
        _, errors = last.communicate(timeout=500)
    finally:
        last.kill()
    assert last.returncode == 0, errors.decode()
    check(tmp_path, KILLS)
