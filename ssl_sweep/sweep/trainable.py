"""What Ray runs for each trial: one attempt, its reports told to the driver."""

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray import tune

from ssl_sweep.attempt import Outcome
from ssl_sweep.control import asked
from ssl_sweep.spec import SweepSpec
from ssl_sweep.storage import cache_folder
from ssl_sweep.sweep.metrics import tell_gpu_memory
from ssl_sweep.training import Report, Stop

Work = Callable[[Mapping[str, Any], int, Report, Path, Path], Outcome]  # see `attempt`


def trainable(spec: SweepSpec, work: Work) -> Any:
    """The function that Ray Tune is to run for each of the sweep's trials."""

    def trial(config: dict[str, Any]) -> None:
        if spec.resources.gpus == 0:  # Ray leaves all of the node's in sight, and they are other trials'
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
        import torch
        from ray.train import ScalingConfig
        from ray.train.torch import TorchTrainer

        torch.set_num_threads(max(1, int(spec.resources.cpus)))
        record = json.loads(config["record"])

        def report(metrics: dict[str, float], step: int) -> None:
            tell_gpu_memory(spec.name)
            tune.report({"metrics": json.dumps(metrics), "step": step})  # returns once the driver has dealt with it
            if (wish := asked(Path(config["folder"]))) is not None:
                raise Stop(wish.why)

        def loop() -> Outcome:
            return work(record, config["attempt"], report, Path(config["folder"]), cache_folder())

        # no workers of its own: Train runs the loop right here, in the warm actor
        ran: Any = TorchTrainer(loop, scaling_config=ScalingConfig(num_workers=0)).fit()  # type: ignore[arg-type]
        outcome: Outcome = ran.return_value
        tune.report({"outcome": json.dumps(asdict(outcome))})

    # Ray keeps trainables by name for the whole cluster: two sweeps must not replace each other's
    trial.__name__ = trial.__qualname__ = f"ssl_sweep_{spec.name}"
    return tune.with_resources(trial, {"cpu": spec.resources.cpus, "gpu": spec.resources.gpus})
