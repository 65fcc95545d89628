"""The function that Ray Tune runs for each trial: one attempt, which reports to the driver."""

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
from ssl_sweep.cluster.shipping import shipped
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage.bucket import PATIENCE_S
from ssl_sweep.storage.bucket_storage import BucketStorage
from ssl_sweep.storage.layout import Storage, cache_folder
from ssl_sweep.storage.open import find_storage
from ssl_sweep.training.loop import Report
from ssl_sweep.trial.attempt import Outcome, with_stop_check
from ssl_sweep.trialdir.record import TrialRecord

AttemptFunction = Callable[[TrialRecord, int, Report, Path, Path], Outcome]  # see `attempt`

# Tune must reserve something for a trial. The driver of a gang only waits for the workers, so it takes no CPU from them
DRIVER = {"cpu": 0.0, "memory": 1.0}


def trainable(spec: SweepSpec, work: AttemptFunction, place: str, scratch: Path) -> Any:
    """The function that Ray Tune runs for each of the sweep's trials."""

    def trial(config: dict[str, Any]) -> None:
        record, folder = TrialRecord.from_json(config["record"]), Path(config["folder"])

        def attempt(report: Report) -> Outcome:
            with _work_folder(place, record, folder) as (workdir, fetch_stop_request):

                def report_epoch(metrics: dict[str, float], step: int) -> None:
                    export_gpu_memory(spec.name)
                    report(metrics, step)
                    fetch_stop_request()

                return work(record, config["attempt"], with_stop_check(report_epoch, workdir), workdir, cache_folder())

        if spec.resources.workers > 1:
            outcome = run_gang(attempt, spec.resources, record, _storage(place), scratch, _report)
        else:
            outcome = _run_single(attempt, spec)
        tune.report({"outcome": json.dumps(asdict(outcome))})

    checked = shipped(trial, lambda outcome: tune.report({"outcome": outcome}))
    # Ray registers trainables by name for the whole cluster: two sweeps must not share one
    checked.__name__ = checked.__qualname__ = f"ssl_sweep_{spec.name}"
    single = {"cpu": spec.resources.cpus, "gpu": spec.resources.gpus}
    return tune.with_resources(checked, DRIVER if spec.resources.workers > 1 else single)


@lru_cache(maxsize=1)
def _storage(place: str) -> Storage:
    """The sweep's storage, whose bucket the driver has reached. Once a process: boto3 takes a second to start."""
    return find_storage(place, patience_s=PATIENCE_S)


@contextmanager
def _work_folder(place: str, record: TrialRecord, folder: Path) -> Iterator[tuple[Path, Callable[[], None]]]:
    """The folder where an attempt works on this node, and a function that fetches the driver's stop request to it."""
    storage = _storage(place)
    if not isinstance(storage, BucketStorage):
        yield folder, lambda: None
        return
    from ssl_sweep.cluster.trial_sync import synced_trial

    with synced_trial(storage.bucket, storage.root.parent / "attempts", record) as folder_and_fetch:
        yield folder_and_fetch


def _report(metrics: dict[str, float], step: int) -> None:
    tune.report({"metrics": json.dumps(metrics), "step": step})  # returns after the driver has handled it


def _run_single(attempt: Callable[[Report], Outcome], spec: SweepSpec) -> Outcome:
    hide_gpus(spec.resources)
    import torch
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    torch.set_num_threads(max(1, int(spec.resources.cpus)))

    def loop() -> Any:
        return attempt(_report)

    # without workers Train runs the loop in this process, the warm actor
    result: Any = TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=0)).fit()
    outcome: Outcome = result.return_value
    return outcome
