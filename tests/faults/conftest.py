"""What the faults share: a sweep of fake trials in a process of its own, and the check of how it must have ended."""

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import pytest
import torch

from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.report.sweep import read_sweep
from ssl_sweep.storage.folder_storage import FolderStorage

DRIVER = Path(__file__).with_name("driver.py")
METRIC = "knn/top1_val"
TRIALS = 8

StartDriver = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def small_disk(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Path]:
    """A file system of 16 MB, or with the options of an indirect parameter."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", getattr(request, "param", "size=16m"), "tmpfs", str(folder)]
    mounted = subprocess.run(mount, capture_output=True, text=True)
    if mounted.returncode != 0:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture(scope="session")
def start_driver() -> StartDriver:
    """Starts a driver on a sweep of `TRIALS` fake trials of so many steps: `start_driver(storage, steps)`."""

    def start(
        storage: Path | str, steps: int, name: str = "faults", *, terminal: int | None = None, **environment: str
    ) -> subprocess.Popen[bytes]:
        """terminal: a pseudo-terminal's end that the driver controls as a shell's job does; else a pipe."""
        command = [sys.executable, str(DRIVER), str(storage), str(steps), name]
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        if terminal is not None:
            command = ["setsid", "--ctty", "--wait", *command]
            streams = dict.fromkeys(("stdin", "stdout", "stderr"), terminal)
        return subprocess.Popen(command, env={**os.environ, **environment}, **streams)

    return start


@pytest.fixture(scope="session")
def wait_for_steps() -> Callable[..., None]:
    """Waits until trials are at work: `wait_for_steps(driver, storage)`."""

    def wait(driver: subprocess.Popen[bytes], storage: Path) -> None:
        deadline = time.monotonic() + 300
        while not [each for each in storage.glob("faults/trials/*/executed") if len(each.read_text().split()) > 3]:
            assert driver.poll() is None, driver.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)

    return wait


@pytest.fixture(scope="session")
def check_end() -> Callable[..., None]:
    """Holds ledger, MLflow and storage against one another, and every trial against an undisturbed one.

    `check_end(storage, steps, repeated)`; repeated: how many steps may have been run twice, lost since a checkpoint;
    whole: whether MLflow has each step of each trial, as it has unless journals were deleted.
    """
    return _check_end


@pytest.fixture(scope="session")
def check_table() -> Callable[..., None]:
    """Holds a sweep's table in MLflow against the results of undisturbed trials: `check_table(storage, steps)`."""

    def check(storage: Path, steps: int, name: str = "faults") -> None:
        table = read_sweep(name, FolderStorage(storage).tracking_uri).table
        found = {row.key: (cell.n, cell.mean) for row in table.body for cell in row.cells[:1]}
        alphas = (0.0, 0.1, 0.2, 0.3)
        scores = {alpha: [float(weights(alpha, seed, steps)[-1].sum()) for seed in range(2)] for alpha in alphas}
        assert found == {(alpha,): (2, pytest.approx(sum(own) / 2)) for alpha, own in scores.items()}

    return check


def _check_end(storage: Path, steps: int, repeated: int, *, name: str = "faults", whole: bool = True) -> None:
    ledger = load_ledger(FolderStorage(storage).ledger_url, name)
    assert Counter(trial.state for trial in ledger.trials) == {"COMPLETE": TRIALS}
    folders = {folder.name: folder for folder in storage.glob(f"{name}/trials/*")}
    assert folders.keys() == {trial.trial_id for trial in ledger.trials}
    client = mlflow.MlflowClient(FolderStorage(storage).tracking_uri)
    experiment = client.get_experiment_by_name(f"ssl_sweep/{name}")
    runs = [run for run in client.search_runs([experiment.experiment_id]) if "mlflow.parentRunId" in run.data.tags]
    by_trial = {run.data.tags["ssl_sweep.trial_id"]: run for run in runs}
    assert len(runs) == len(by_trial) == TRIALS
    executed = 0
    for trial in ledger.trials:
        expected = weights(ledger.choice(trial.choice).knobs["views.overlay_alpha"], trial.seed, steps)
        found = torch.load(folders[trial.trial_id] / "weights.pt")
        assert torch.equal(found["weights"], expected[-1])
        assert trial.results == {METRIC: float(expected[-1].sum())}
        run = by_trial[trial.trial_id]
        assert run.info.status == "FINISHED"
        history = client.get_metric_history(run.info.run_id, METRIC)
        points = [(point.step, point.value) for point in sorted(history, key=lambda point: point.step)]
        curve = [(step + 1, float(each.sum())) for step, each in enumerate(expected)]
        assert points == (curve if whole else curve[-len(points) :])
        executed += len((folders[trial.trial_id] / "executed").read_text().split())
    assert executed <= TRIALS * steps + repeated


def weights(alpha: float, seed: int, steps: int) -> list[torch.Tensor]:
    """An undisturbed trial's, after each step."""
    state, after = torch.rand(4, generator=torch.Generator().manual_seed(seed)) + alpha, []
    for _ in range(steps):
        state = state * 1.01
        after.append(state)
    return after
