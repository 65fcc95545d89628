"""What an evaluation's file may declare beside `evaluate`, and the default of each declaration."""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from ssl_sweep.data.items import Source
from ssl_sweep.knobs import knobs
from ssl_sweep.models.encoder import Encoder

T = TypeVar("T")
Settings = Mapping[str, Any]


class Evaluation:
    """One file of `evaluations/`; each method but `epochs` is a declaration, with its default.

    The file declares by a function with the name and the arguments of the method, and by the constants `METRICS` and
    `NEEDS_LABELS`. `settings` has every knob of the
    evaluation, checked.
    """

    def __init__(self, name: str, module: ModuleType) -> None:
        self.name = name
        self.evaluate: Callable[..., dict[str, float]] = module.evaluate
        self._module = module

    @property
    def needs_labels(self) -> bool:
        """Whether it reads labels of the sweep's images: `NEEDS_LABELS`, by default true."""
        return bool(getattr(self._module, "NEEDS_LABELS", True))

    def metrics(self, settings: Settings) -> tuple[str, ...]:
        """Every metric that `evaluate` returns, as a table or an objective names it: `knn/top1_val`.

        The file gives them without its name: in the constant `METRICS`, or by a function where settings decide.
        """
        return self._full_names(self._declared("metrics", lambda _: self._module.METRICS)(settings))

    def epoch_metrics(self, settings: Settings) -> tuple[str, ...]:
        """The metrics that are reported after each epoch, for pruners; by default `top1_val` with a knob `epochs`."""
        default = ("top1_val",) if self.epochs(settings) else ()
        by_epoch = self._full_names(self._declared("epoch_metrics", lambda _: default)(settings))
        return tuple(metric for metric in self.metrics(settings) if metric in by_epoch)

    @staticmethod
    def epochs(settings: Settings) -> int:
        """The epochs after each of which `epoch_metrics` are reported: the knob `epochs`, else 0."""
        return int(settings.get("epochs") or 0)

    def planned_epochs(self, settings: Settings) -> int:
        """Epochs of all its trainings together, for `ssl-sweep plan`; by default `epochs`, twice with `refit`."""
        trainings = 2 if settings.get("refit") else 1
        return self._declared("planned_epochs", lambda settings: trainings * self.epochs(settings))(settings)

    def chosen_on_validation(self, settings: Settings) -> tuple[str, ...]:
        """The knobs of which it tries several values, and validation chooses; by default none."""
        return self._declared("chosen_on_validation", lambda _: ())(settings)

    def data_sources(self, settings: Settings) -> tuple[str, ...]:
        """Labelled data that it opens beside the sweep's own, for a driver to check first; by default none."""
        return self._declared("data_sources", lambda _: ())(settings)

    def check_data(self, settings: Settings, root: Path) -> Source | None:
        """Refuse data of a kind that only this evaluation opens, and return it; by default there is none.

        Raises:
            DataError: it is missing or damaged. Relative folders are below `root`.
        """
        return self._declared("check_data", lambda _settings, _root: None)(settings, root)

    def check_encoder(self, settings: Settings, encoder: Encoder) -> None:
        """Refuse settings that do not fit an encoder, before a sweep begins; by default all do.

        The encoder may be changed and has no memory.

        Raises:
            ValueError: they do not; the message begins with the knob, and has a remedy after a semicolon.
        """
        self._declared("check_encoder", lambda _settings, _encoder: None)(settings, encoder)

    def _declared(self, name: str, default: Callable[..., T]) -> Callable[..., T]:
        declared: Callable[..., T] = getattr(self._module, name, default)
        return declared

    def _full_names(self, metrics: Iterable[str]) -> tuple[str, ...]:
        return tuple(f"{self.name}/{metric}" for metric in metrics)


def without_validation(metrics: Iterable[str]) -> list[str]:
    """The metrics that are measured where no validation images are held out: none of them, and no best epoch."""
    return [metric for metric in metrics if not metric.endswith("_val") and "_best" not in metric.rpartition("/")[2]]


def load_evaluation(name: str) -> Evaluation:
    """The evaluation of that name.

    Raises:
        UnknownNameError: there is none; the error proposes the nearest.
        PluginError: it is a plugin's and cannot be used.
    """
    return Evaluation(name, knobs.load_module("evaluations", name))
