"""What shared pretrainings save: a sweep over an evaluation's settings, shared and each trial by itself, in one run.

    make bench

One seed and four learning rates of `finetune` on the digits, one trial at a time, so that neither side gains by running
at once. Each side starts a worker of its own and imports torch in it: that is in `sweep`, not in `trials`. CPU seconds
are for machines that have other work, too.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import ray
import torch
from ray import cloudpickle

from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.spec.plan import make_plan
from ssl_sweep.spec.sweep import SweepSpec, from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.training.loop import Report
from ssl_sweep.trial.attempt import Outcome, attempt
from ssl_sweep.trialdir.events import MetricsReported, StageFinished
from ssl_sweep.trialdir.journal import read
from ssl_sweep.trialdir.record import TrialRecord


class Quiet:
    """A observer that is told, and says nothing."""

    def started(self, trial: Any) -> None:
        pass

    def reported(self, trial: Any, report: MetricsReported) -> None:
        pass

    def ended(self, trial: Any) -> None:
        pass


def spec(epochs: int) -> SweepSpec:
    return from_dump(
        {
            "name": "bench",
            "data": {"source": "digits", "image_size": 8},
            "encoder": {"name": "resnet18", "width": 8},
            "method": "autoencoder",
            "pretrain": {"epochs": epochs, "batch_size": 128},
            "evaluate": {"finetune": {"epochs": 1}},
            "precision": "fp32",
            "search": {"space": {"evaluate.finetune.lr": [0.003, 0.01, 0.03, 0.1]}},
            "resources": {"max_concurrent": 1},
        }
    )


class Measured(NamedTuple):
    """Seconds of a sweep, of its trials from their start to their end, on the CPU and of their pretraining."""

    sweep: float
    trials: float
    cpu: float
    pretrain: list[float]
    results: list[dict[str, float]]


def timed(
    record: TrialRecord, number: int, report: Report, folder: Path, cache: Path, *, stages: Path | None
) -> Outcome:
    """An attempt that leaves its wall and CPU seconds in the trial's folder."""
    wall, cpu = time.monotonic(), time.process_time()
    outcome = attempt(record, number, report, folder, cache, stages=stages)
    (folder / "times").write_text(f"{time.monotonic() - wall} {time.process_time() - cpu}")
    return outcome


def measure(epochs: int, *, shared: bool) -> Measured:
    """Run the sweep."""
    with tempfile.TemporaryDirectory() as folder:
        storage = FolderStorage(Path(folder))
        storage.sweep("bench").mkdir()
        ledger = open_ledger(storage.ledger_url, spec(epochs))
        stages = storage.sweep("bench") / "stages" if shared else None
        started = time.monotonic()
        run_sweep(ledger, storage, Quiet(), work=partial(timed, stages=stages))
        seconds = time.monotonic() - started
        folders = [storage.trial("bench", trial.trial_id) for trial in ledger.trials]
        times = [[float(part) for part in (each / "times").read_text().split()] for each in folders]
        wall, cpu = (sum(column) for column in zip(*times, strict=True))
        events = [event for each in folders for event in read(each)[0]]
        pretrain = [event.seconds for event in events if isinstance(event, StageFinished) and event.stage == "pretrain"]
        return Measured(seconds, wall, cpu, pretrain, [dict(trial.results or {}) for trial in ledger.trials])


def main() -> None:
    """Run both and print the table that goes into experiments/LOG.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=20, help="of pretraining")
    epochs = parser.parse_args().epochs
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    alone, shared = measure(epochs, shared=False), measure(epochs, shared=True)
    if alone.results != shared.results:
        raise SystemExit("the two sweeps have other results")
    plan = make_plan(spec(epochs))
    print(f"{os.cpu_count()} CPUs, Python {platform.python_version()}, torch {torch.__version__}")
    print(f"{plan.trials} trials, {plan.pretrains} pretraining of {epochs} epochs; every metric equal")
    print(f"{'':14}  sweep s  trials s  trials CPU s  pretraining of each trial, s")
    for name, ran in {"each by itself": alone, "shared": shared}.items():
        each = " ".join(f"{seconds:.2f}" for seconds in ran.pretrain)
        print(f"{name:14}  {ran.sweep:7.1f}  {ran.trials:8.1f}  {ran.cpu:12.1f}  {each}")
    ratios = [ours / theirs for ours, theirs in zip(alone[:3], shared[:3], strict=True)]
    print(f"{'ratio':14}  {ratios[0]:7.2f}  {ratios[1]:8.2f}  {ratios[2]:12.2f}")


if __name__ == "__main__":
    main()
