"""What Ray runs for each trial: one attempt, its reports told to the driver."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from ray import tune

from ssl_sweep.cluster.gang import hide_gpus, run_gang
from ssl_sweep.cluster.metrics import export_gpu_memory
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage.bucket import PATIENCE_S
from ssl_sweep.storage.layout import Storage, cache_folder
from ssl_sweep.training.loop import Report
from ssl_sweep.trial.attempt import Outcome, with_stop_check
from ssl_sweep.trialdir.record import TrialRecord

AttemptFunction = Callable[[TrialRecord, int, Report, Path, Path], Outcome]  # see `attempt`

# Tune wants something to reserve for a trial; the driver of a trial with several workers only waits for them, and must
# not take the CPU that the last of them needs
DRIVER = {"cpu": 0.0, "memory": 1.0}


def trainable(spec: SweepSpec, work: AttemptFunction, place: str, scratch: Path) -> Any:
    """The function that Ray Tune is to run for each of the sweep's trials."""

    def trial(config: dict[str, Any]) -> None:
        record, folder = TrialRecord.from_json(config["record"]), Path(config["folder"])

        def attempt(report: Report) -> Outcome:
            with _at_work(place, record, folder) as (here, hear):

                def told(metrics: dict[str, float], step: int) -> None:
                    export_gpu_memory(spec.name)
                    report(metrics, step)
                    hear()

                return work(record, config["attempt"], with_stop_check(told, here), here, cache_folder())

        if spec.resources.workers > 1:
            outcome = run_gang(attempt, spec.resources, record, _storage(place), scratch, _report)
        else:
            outcome = _alone(attempt, spec)
        tune.report({"outcome": json.dumps(asdict(outcome))})

    # Ray keeps trainables by name for the whole cluster: two sweeps must not replace each other's
    trial.__name__ = trial.__qualname__ = f"ssl_sweep_{spec.name}"
    alone = {"cpu": spec.resources.cpus, "gpu": spec.resources.gpus}
    return tune.with_resources(trial, DRIVER if spec.resources.workers > 1 else alone)


@lru_cache(maxsize=1)
def _storage(place: str) -> Storage:
    """Once a process: boto3 takes a second to begin with."""
    storage = Storage.at(place)
    if storage.bucket is not None:
        storage.bucket.patience_s = PATIENCE_S  # the driver has reached it
    return storage


@contextmanager
def _at_work(place: str, record: TrialRecord, folder: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """Where an attempt works on this node, and what has it hear the driver: nothing need, where that is the storage."""
    storage = _storage(place)
    if storage.bucket is None:
        yield folder, lambda: None
        return
    from ssl_sweep.cluster.carried import carried

    with carried(storage.bucket, storage.root.parent / "attempts", record) as at_work:
        yield at_work


def _report(metrics: dict[str, float], step: int) -> None:
    tune.report({"metrics": json.dumps(metrics), "step": step})  # returns once the driver has dealt with it


def _alone(attempt: Callable[[Report], Outcome], spec: SweepSpec) -> Outcome:
    hide_gpus(spec.resources)
    import torch
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    torch.set_num_threads(max(1, int(spec.resources.cpus)))

    def loop() -> Any:
        return attempt(_report)

    # no workers of its own: Train runs the loop right here, in the warm actor
    ran: Any = TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=0)).fit()
    outcome: Outcome = ran.return_value
    return outcome
