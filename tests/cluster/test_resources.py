"""What a trial is given of the machine: threads, its share of a GPU, and how many run at a time."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from ray import cloudpickle

from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir.record import TrialRecord

METRIC = "knn/top1_val"


class Crowd:
    """A observer that counts how many trials run at a time."""

    def __init__(self) -> None:
        self.running = self.most = 0

    def started(self, *_: Any) -> None:
        self.running += 1
        self.most = max(self.most, self.running)

    def ended(self, *_: Any) -> None:
        self.running -= 1

    def reported(self, *_: Any) -> None: ...


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=4, num_gpus=1, **quiet)  # Ray takes our word for the GPU
    yield
    ray.shutdown()


def looks(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
    """A trial that leaves what it was given."""
    folder.mkdir(parents=True)
    (folder / "given").write_text(f"{torch.get_num_threads()} {os.environ.get('CUDA_VISIBLE_DEVICES')!r}")
    time.sleep(1.0)
    return Outcome("COMPLETE", {METRIC: 50.0})


def run(tmp_path: Path, resources: dict[str, Any]) -> tuple[Crowd, set[str]]:
    """How many trials ran at a time, and what they were given."""
    spec = {"name": "sweep", "data": {"source": "digits", "image_size": 8}, "encoder": "resnet18"}
    spec |= {"method": "autoencoder", "evaluate": {"knn": {}}, "search": {"seeds": 4}, "resources": resources}
    storage, crowd = FolderStorage(tmp_path), Crowd()
    storage.sweep("sweep").mkdir()
    ledger: Ledger = open_ledger(storage.ledger_url, from_dump(spec))
    run_sweep(ledger, storage, crowd, work=looks)
    assert {trial.state for trial in ledger.trials} == {"COMPLETE"}
    return crowd, {path.read_text() for path in tmp_path.rglob("given")}


@pytest.mark.parametrize(
    ("resources", "at_a_time", "given"),
    [
        ({"cpus": 2}, 2, "2 ''"),
        ({"cpus": 0.5, "gpus": 0.5}, 2, "1 '0'"),
    ],
)
def test_a_trial_is_given_what_the_spec_says(
    tmp_path: Path, resources: dict[str, Any], at_a_time: int, given: str
) -> None:
    crowd, found = run(tmp_path, resources)
    assert found == {given}
    assert crowd.most == at_a_time
