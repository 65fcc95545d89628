"""What Ray runs for each trial: one attempt, its reports told to the driver."""

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune

from ssl_sweep.attempt import Outcome, heeding
from ssl_sweep.spec import SweepSpec
from ssl_sweep.storage import cache_folder
from ssl_sweep.sweep.gang import hide_gpus, run_gang
from ssl_sweep.sweep.metrics import tell_gpu_memory
from ssl_sweep.training import Report

Work = Callable[[Mapping[str, Any], int, Report, Path, Path], Outcome]  # see `attempt`

# Tune wants something to reserve for a trial; the driver of a trial with several workers only waits for them, and must
# not take the CPU that the last of them needs
DRIVER = {"cpu": 0.0, "memory": 1.0}


def trainable(spec: SweepSpec, work: Work, scratch: Path) -> Any:
    """The function that Ray Tune is to run for each of the sweep's trials."""

    def trial(config: dict[str, Any]) -> None:
        record, folder = json.loads(config["record"]), Path(config["folder"])

        def attempt(report: Report) -> Outcome:
            def told(metrics: dict[str, float], step: int) -> None:
                tell_gpu_memory(spec.name)
                report(metrics, step)

            return work(record, config["attempt"], heeding(told, folder), folder, cache_folder())

        if spec.resources.workers > 1:
            outcome = run_gang(attempt, spec.resources, record["config"], folder, scratch, _report)
        else:
            outcome = _alone(attempt, spec)
        tune.report({"outcome": json.dumps(asdict(outcome))})

    # Ray keeps trainables by name for the whole cluster: two sweeps must not replace each other's
    trial.__name__ = trial.__qualname__ = f"ssl_sweep_{spec.name}"
    alone = {"cpu": spec.resources.cpus, "gpu": spec.resources.gpus}
    return tune.with_resources(trial, DRIVER if spec.resources.workers > 1 else alone)


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
