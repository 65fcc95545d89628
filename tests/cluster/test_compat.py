"""The private parts of Ray: they are there, and somebody has read them in this version's source."""

import inspect
import logging
from pkgutil import resolve_name

import pytest
import ray
from ray.exceptions import OutOfMemoryError
from ray.tune import registry
from ray.tune.execution import tune_controller

from ssl_sweep.cluster import compat


def test_the_installed_ray_was_read() -> None:
    compat.check_version(ray.__version__)


def test_a_ray_that_nobody_has_read_is_refused_in_words() -> None:
    with pytest.raises(compat.UnknownRay) as refused:
        compat.check_version("2.61.0")
    said = str(refused.value)
    assert "Ray 2.61.0 is none of 2.60.0" in said
    assert "add it to READ_VERSIONS" in said
    assert all(name in said for name in compat.PRIVATE_PARTS)


@pytest.mark.parametrize("name", compat.PRIVATE_PARTS)
def test_each_private_part_is_there(name: str) -> None:
    assert resolve_name(name) is not None


def test_tune_takes_a_process_that_the_memory_monitor_killed_for_a_dead_one() -> None:
    for _ in range(2):
        compat.patch_tune()
    assert OutOfMemoryError in vars(tune_controller)["RayActorError"]
    assert not logging.getLogger("ray.tune.execution.experiment_state").isEnabledFor(logging.ERROR)
    own = inspect.getsource(tune_controller.TuneController)
    assert 'logger.error(f"Trial task failed for trial {trial}", exc_info=exception)' in own
    logged = tune_controller.logger.makeRecord("", 40, "", 0, "Trial task failed for trial sweep_1", (), None)
    assert not tune_controller.logger.filter(logged)


def test_trainables_are_fetched_once_within_the_block(monkeypatch: pytest.MonkeyPatch) -> None:
    fetched: list[str] = []

    class Registry:
        def get(self, category: str, key: str) -> object:
            fetched.append(key)
            return object()

        def contains(self, category: str, key: str) -> bool:
            return False

        def register(self, category: str, key: str, value: object) -> None: ...

    shared = Registry()
    monkeypatch.setattr(registry, "_global_registry", shared)
    with compat.cached_trainables():
        first = shared.get("trainable", "a")
        assert shared.get("trainable", "a") is first
        assert shared.contains("trainable", "a")
        shared.register("trainable", "a", None)
        assert shared.get("trainable", "a") is not first
    assert fetched == ["a", "a"]
    assert not shared.contains("trainable", "a")
    shared.get("trainable", "a")
    assert fetched == ["a", "a", "a"]
