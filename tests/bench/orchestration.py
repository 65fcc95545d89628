"""What a trial costs before it does anything: ours against the pattern of Ray's guide, in one run.

    make bench

Both run trials that do nothing, one at a time, on one Ray started here. Ours: a sweep's ledger, searcher and warm
workers. The guide's: a TorchTrainer with one worker of its own inside each Tune trial. The first trial of each pays
for the import of torch, so that the cost a trial is taken from the second on.
"""

import argparse
import os
import platform
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import ray
from ray import cloudpickle, tune
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir.events import MetricsReported

METRIC = "knn/top1_val"


class Clock:
    """A observer that notes when each trial ended."""

    def __init__(self) -> None:
        self.ends: list[float] = []

    def started(self, trial: Any) -> None:
        pass

    def reported(self, trial: Any, report: MetricsReported) -> None:
        pass

    def ended(self, trial: Any) -> None:
        self.ends.append(time.monotonic())


def nothing(*_: Any) -> Outcome:
    """A trial that only ends."""
    return Outcome("COMPLETE", {METRIC: 0.0})


def ours(folder: Path, trials: int) -> list[float]:
    """Seconds from one trial's end to the next's."""
    spec = from_dump(
        {
            "name": "bench",
            "data": {"source": "digits", "image_size": 8},
            "encoder": "resnet18",
            "method": "autoencoder",
            "evaluate": {"knn": {}},
            "search": {"seeds": trials},
            "resources": {"max_concurrent": 1},
        }
    )
    storage, clock = FolderStorage(folder), Clock()
    storage.sweep("bench").mkdir()
    started = time.monotonic()
    run_sweep(open_ledger(storage.ledger_url, spec), storage, clock, work=nothing)
    return between([started, *clock.ends])


def guides(folder: Path, trials: int) -> list[float]:
    """The same for a TorchTrainer inside each trial of a Tuner, as Ray's guide to Tune and Train has it."""
    ends = folder / "ends"

    def loop(_config: dict[str, Any]) -> None:
        pass

    def trainable(config: dict[str, Any]) -> None:
        trainer = TorchTrainer(
            loop,
            train_loop_config=config,
            scaling_config=ScalingConfig(num_workers=1),
            run_config=RunConfig(name=f"trial-{config['seed']}", storage_path=str(folder)),
        )
        trainer.fit()
        with ends.open("a") as file:
            file.write(f"{time.monotonic()}\n")
        tune.report({METRIC: 0.0})

    started = time.monotonic()
    tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space={"seed": tune.grid_search(list(range(trials)))},
        tune_config=tune.TuneConfig(max_concurrent_trials=1),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0),
    ).fit()
    return between([started, *map(float, ends.read_text().split())])


def between(times: list[float]) -> list[float]:
    return [after - before for before, after in pairwise(times)]


def main() -> None:
    """Run both and print the table that goes into experiments/LOG.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--guide-trials", type=int, default=5, help="the guide's pattern is slow")
    wanted = parser.parse_args()
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file
    ray.init(address="local", num_cpus=2, include_dashboard=True, log_to_driver=False, logging_level="ERROR")
    measured = {}
    for name, run, trials in (("ssl_sweep", ours, wanted.trials), ("Ray's guide", guides, wanted.guide_trials)):
        with tempfile.TemporaryDirectory() as folder:
            measured[name] = run(Path(folder), trials)
    print(f"{os.cpu_count()} CPUs, Python {platform.python_version()}, ray {ray.__version__}, empty trials one by one")
    print(f"{'':12}  trials  first s  each after s (mean)")
    means = {}
    for name, seconds in measured.items():
        means[name] = sum(seconds[1:]) / len(seconds[1:])
        print(f"{name:12}  {len(seconds):6}  {seconds[0]:7.2f}  {means[name]:.3f}")
    ratio = means["Ray's guide"] / means["ssl_sweep"]
    print(f"ratio {ratio:.0f}")


if __name__ == "__main__":
    main()
