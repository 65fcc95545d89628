"""What a trial is given of the machine: threads, its share of a GPU, and how many run at a time."""

import json
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


class Quiet:
    def started(self, *_: Any) -> None: ...
    def reported(self, *_: Any) -> None: ...
    def ended(self, *_: Any) -> None: ...


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file
    quiet = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
    ray.init(address="local", num_cpus=4, num_gpus=1, **quiet)  # Ray takes our word for the GPU
    yield
    ray.shutdown()


def looks(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
    """A trial that leaves what it was given, and from when to when it ran; the first stays until a second runs."""
    folder.mkdir(parents=True)
    began = time.time()
    (folder / "given").write_text(f"{torch.get_num_threads()} {os.environ.get('CUDA_VISIBLE_DEVICES')!r}")
    while len(list(folder.parent.glob("*/given"))) < 2 and time.time() < began + 120:
        time.sleep(0.1)
    time.sleep(1.0)
    (folder / "ran").write_text(json.dumps([began, time.time()]))
    return Outcome("COMPLETE", {METRIC: 50.0})


def run(tmp_path: Path, resources: dict[str, Any]) -> tuple[int, set[str]]:
    """How many trials ran at a time, which the driver does not know: it gives one more to Tune, where it waits.

    And what they were given.
    """
    spec = {"name": "sweep", "data": {"source": "digits", "image_size": 8}, "encoder": "resnet18"}
    spec |= {"method": "autoencoder", "evaluate": {"knn": {}}, "search": {"seeds": 4}, "resources": resources}
    storage = FolderStorage(tmp_path)
    storage.sweep("sweep").mkdir()
    ledger: Ledger = open_ledger(storage.ledger_url, from_dump(spec))
    run_sweep(ledger, storage, Quiet(), work=looks)
    assert {trial.state for trial in ledger.trials} == {"COMPLETE"}
    ran = [json.loads(path.read_text()) for path in tmp_path.rglob("ran")]
    most = max(sum(began <= now < ended for began, ended in ran) for now, _ in ran)
    return most, {path.read_text() for path in tmp_path.rglob("given")}


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
    most, found = run(tmp_path, resources)
    assert found == {given}
    assert most == at_a_time
