"""Private parts of Ray that this package touches, read in the source of Ray 2.60."""

from collections.abc import Callable
from typing import Any, cast


def torch_trainer(loop: Callable[[], None], *, controller_started: Callable[[Any], None], **settings: Any) -> Any:
    """Ray Train's TorchTrainer, whose controller can be killed.

    The trainer keeps the controller's handle in a local variable. When that is dropped, the controller leaves Python in
    its own time, which takes over ten seconds on a busy machine.

    Args:
        loop: what each worker runs.
        controller_started: called in the controller's process with its own handle.
        settings: further arguments of TorchTrainer.
    """
    import ray
    from ray.train.torch import TorchTrainer
    from ray.train.v2._internal.callbacks import placement_group_callback

    class Cleaner(placement_group_callback.PlacementGroupCleanerCallback):
        def after_controller_start(self, train_run_context: Any) -> None:
            controller_started(ray.get_runtime_context().current_actor)
            super().after_controller_start(train_run_context)

        def _stop_cleaner(self) -> None:
            """Kill it. Ray Train waits up to 12 s for its thread, which may be waiting for Ray's dashboard."""
            cleaner, self._cleaner = self._cleaner, None
            if cleaner is not None:
                ray.kill(cast(Any, cleaner))  # an actor's handle, which Ray's annotation does not say

    class Trainer(TorchTrainer):
        def _create_default_callbacks(self) -> list[Any]:
            replaced = placement_group_callback.PlacementGroupCleanerCallback
            callbacks = super()._create_default_callbacks()  # type: ignore[misc]
            return [Cleaner() if type(each) is replaced else each for each in callbacks]

    return Trainer(loop, **settings)
