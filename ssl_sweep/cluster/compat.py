"""Every private part of Ray that this package touches.

A new Ray may rename or change them without notice. When you raise Ray's version, read the parts listed in
`PRIVATE_PARTS` in its source, run `make test-faults`, and add the version to `READ_VERSIONS`.
"""

import atexit
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from subprocess import Popen
from typing import Any, cast

READ_VERSIONS = ("2.60.0",)
PRIVATE_PARTS = {
    "ray._private.services:canonicalize_bootstrap_address": "finds the address that `auto` means",
    "ray.job_config:JobConfig._runtime_env_has_working_dir": (
        "is overridden; Ray asks it whether workers import from the driver's current directory and script's folder"
    ),
    "ray.tune.registry:_global_registry": "its methods get, contains and register are replaced by caching ones",
    "ray.tune.registry:_unregister_all": "asks Ray when the process exits; unregistered where Ray is dead",
    "ray.air.execution._internal.actor_manager:RayActorError": "the errors by which Tune recognises a dead process",
    "ray.tune.execution.tune_controller:RayActorError": "the errors by which Tune recognises a dead process",
    "ray.tune.execution.experiment_state:logger": "Tune's warnings about snapshots, silenced by the logger's name",
    "ray.tune.execution.tune_controller:logger": "its traces of dead processes, left out by their first words",
    "ray.tune.execution.tune_controller:TuneController.get_live_trials": "the trials that have not ended",
    "ray.tune.experiment:Trial.metric_analysis": "summaries of a trial's metrics, emptied when it has ended",
    "ray.tune.experiment:Trial.metric_n_steps": "a trial's last values of each metric, emptied when it has ended",
    "ray._private.node:Node.kill_all_processes": (
        "ends the Ray that this process started; ray._private.worker._global_node has it, its `all_processes` are Popen"
    ),
    "ray._raylet:GcsClient": "asks the head for the nodes, with a time limit; ray.nodes() waits for ever",
    "ray.train.torch.config:_TorchBackend": "its hooks on_start and on_shutdown are overridden",
    "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer._create_default_callbacks": "is overridden",
    "ray.train.v2.api.data_parallel_trainer:DataParallelTrainer._initialize_and_run_controller": (
        "starts the controller and holds its only handle"
    ),
    "ray.train.v2._internal.execution.callback:ControllerCallback.before_controller_shutdown": (
        "runs after the workers have been killed and their placement group removed; the cleaner's is extended"
    ),
    "ray.train.v2._internal.callbacks.placement_group_callback:PlacementGroupCleanerCallback._stop_cleaner": (
        "is overridden; sets `_cleaner` to None"
    ),
    "ray.train.v2._internal.execution.callback:ControllerCallback.after_controller_start": (
        "runs in the controller's process before the workers start"
    ),
}


class UnknownRay(RuntimeError):  # noqa: N818 - says what it is
    """The private parts have not been checked in this version of Ray."""


def check_version(version: str) -> None:
    """Check that the private parts have been read in the source of a version of Ray.

    Raises:
        UnknownRay: they have not; the message lists what to read.
    """
    if version not in READ_VERSIONS:
        parts = "\n".join(f"  {name}: {use}" for name, use in PRIVATE_PARTS.items())
        raise UnknownRay(
            f"Ray {version} is none of {', '.join(READ_VERSIONS)}. Read these private parts in its source, run `make "
            f"test-faults`, then add it to READ_VERSIONS in {__file__}:\n{parts}"
        )


def found_address(address: str) -> str:
    """HOST:PORT of a cluster's address, which may be `auto`: the one that runs on this machine.

    Raises:
        ConnectionError: `auto` finds none.
    """
    from ray._private import services

    return str(services.canonicalize_bootstrap_address(address))


def job_config() -> Any:
    """Ray's JobConfig, whose workers import only what is installed, or on PYTHONPATH: nothing that lies about.

    Ray puts the driver's current directory and the folder of its script before all else, unless it ships a folder.
    """
    from ray.job_config import JobConfig

    class Installed(JobConfig):
        def _runtime_env_has_working_dir(self) -> bool:
            return True

    return Installed()


def patch_tune() -> None:
    """Make Tune survive the memory monitor, and silence what is told elsewhere, in this process. Idempotent.

    Tune catches RayActorError when a trial's process died, but not the OutOfMemoryError that Ray raises when its
    memory monitor killed the process: that would end Tune's whole run.
    """
    from ray.air.execution._internal import actor_manager
    from ray.exceptions import OutOfMemoryError, RayActorError
    from ray.tune.execution import tune_controller

    for module in (actor_manager, tune_controller):
        vars(module)["RayActorError"] = (RayActorError, OutOfMemoryError)
    # snapshots are never read back, and the ledger reports a full disk
    logging.getLogger("ray.tune.execution.experiment_state").setLevel(logging.CRITICAL)
    tune_controller.logger.addFilter(_is_no_trace_of_a_trial)


def _is_no_trace_of_a_trial(message: logging.LogRecord) -> bool:
    """Tune logs a dead process with a trace of its own code; the scheduler says which trial has lost it and why."""
    return not str(message.msg).startswith("Trial task failed for trial")


@contextmanager
def cached_trainables() -> Iterator[None]:
    """While the block runs, Tune fetches and unpickles each registered trainable once, not several times a trial."""
    from ray.tune import registry

    shared: Any = registry._global_registry
    find, has, register = shared.get, shared.contains, shared.register
    cached: dict[tuple[str, str], Any] = {}

    def get(category: str, key: str) -> Any:
        if (category, key) not in cached:
            cached[category, key] = find(category, key)
        return cached[category, key]

    def contains(category: str, key: str) -> bool:
        return (category, key) in cached or has(category, key)

    def register_and_forget(category: str, key: str, value: Any) -> None:
        cached.pop((category, key), None)
        register(category, key, value)

    own = {"get": get, "contains": contains, "register": register_and_forget}
    vars(shared).update(own)
    try:
        yield
    finally:
        for name in own:
            del vars(shared)[name]


def live_trials(tune_controller: Any) -> list[Any]:
    """Tune's trials that have not ended."""
    return list(tune_controller.get_live_trials())


def forget_metrics(trial: Any) -> None:
    """Empty Tune's own summaries of an ended trial's metrics: it keeps all trials, and these are most of each."""
    trial.metric_analysis.clear()
    trial.metric_n_steps.clear()


def local_processes() -> dict[str, Popen[bytes]]:
    """The processes on which the Ray that this process started depends; none of a Ray that it has joined."""
    from ray._private import worker

    node: Any = worker._global_node
    processes = node.all_processes if node is not None else {}
    return {name: processes[name][0].process for name in ("gcs_server", "raylet") if name in processes}


def leave_dead_ray() -> None:
    """End all processes of the Ray that this process started, and ask Ray for nothing more when this process exits."""
    import ray
    from ray._private import worker
    from ray.tune import registry

    atexit.unregister(ray.shutdown)
    atexit.unregister(registry._unregister_all)
    if worker._global_node is not None:
        worker._global_node.kill_all_processes(check_alive=False, allow_graceful=True)


def living_nodes() -> Callable[[float], dict[str, dict[str, float]]]:
    """A function that asks Ray's head, for so many seconds at most, for the resources of the living nodes by their ids.

    Any error means that the head has not answered. The function outlives ray.shutdown().
    """
    import ray
    from ray import _raylet
    from ray.core.generated import gcs_pb2

    raylet, protocol = cast(Any, _raylet), cast(Any, gcs_pb2)  # compiled: type checkers do not see what they have
    client = raylet.GcsClient(address=ray.get_runtime_context().gcs_address)

    def ask(timeout_s: float) -> dict[str, dict[str, float]]:
        nodes = client.get_all_node_info(timeout=timeout_s)
        return {
            key.hex(): dict(node.resources_total)
            for key, node in nodes.items()
            if node.state == protocol.GcsNodeInfo.ALIVE
        }

    return ask


def torch_config(on_start: Callable[[Any], None], **settings: Any) -> Any:
    """Ray Train's TorchConfig for gangs.

    Args:
        on_start: called with the group of workers before Ray Train chooses their devices.
        settings: arguments of TorchConfig.
    """
    from ray.train.torch.config import TorchConfig, _TorchBackend

    class Backend(_TorchBackend):
        def on_start(self, worker_group: Any, backend_config: Any) -> None:
            on_start(worker_group)
            super().on_start(worker_group, backend_config)

        def on_shutdown(self, *_: Any) -> None:
            """Do nothing: the processes are killed, and a worker that waits for a dead one cannot leave its group."""

    class Config(TorchConfig):
        @property
        def backend_cls(self) -> Any:
            return Backend

    return Config(**settings)


def torch_trainer(
    loop: Callable[[], None],
    *,
    controller_started: Callable[[Any], None],
    workers_stopped: Callable[[], None],
    **settings: Any,
) -> Any:
    """Ray Train's TorchTrainer, whose controller can be killed.

    The trainer keeps the controller's handle in a local variable. When it is dropped, the controller exits slowly: in
    over ten seconds on a busy machine.

    Args:
        loop: what each worker runs.
        controller_started: called in the controller's process with its own handle.
        workers_stopped: called in the controller's process when no worker, reservation and cleaner is left.
        settings: further arguments of TorchTrainer.
    """
    import ray
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks import placement_group_callback

    class Cleaner(placement_group_callback.PlacementGroupCleanerCallback):
        def after_controller_start(self, train_run_context: Any) -> None:
            controller_started(ray.get_runtime_context().current_actor)
            super().after_controller_start(train_run_context)

        async def before_controller_shutdown(self) -> None:
            await super().before_controller_shutdown()  # type: ignore[no-untyped-call]
            workers_stopped()

        def _stop_cleaner(self) -> None:
            """Kill the cleaner. Ray Train waits up to 12 s for its thread, which may be waiting for Ray's dashboard."""
            cleaner, self._cleaner = self._cleaner, None
            if cleaner is not None:
                ray.kill(cast(Any, cleaner))  # Ray's annotation does not say that it is an actor's handle

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            replaced = placement_group_callback.PlacementGroupCleanerCallback
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]
            return [Cleaner() if type(callback) is replaced else callback for callback in callbacks]

    return Trainer(loop, **settings)
