"""Display names of tables: knobs and metrics in the header, values in cells, rows by the values of their knobs."""

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from typing import Any

from ssl_sweep.tracking.transcript import text, value_of
from ssl_sweep.trialdir.states import TrialState

NOTHING = "–"
FRONT = "●"  # marks a row on the Pareto front of two objectives
SELECTED = "†"  # marks the row that validation selects
SPLITS = ("train", "val", "test")
PER_CLASS = "mean_per_class"
PERCENT = ("top1", "top5", "ap", "ap50", "ap75", "nmi", "ari")  # words of metrics that go up to 100
MARKS = {  # of a trial's states, distinct without colour
    TrialState.COMPLETE: "✓",
    TrialState.RUNNING: "◐",
    TrialState.PRUNED: "✂",
    TrialState.FAILED: "✕",
    TrialState.STOPPED: "■",
    TrialState.INTERRUPTED: "▮",
    TrialState.PAUSED: "‖",
    TrialState.CREATED: "○",
}


class Key(tuple[Any, ...]):
    """The values of a row. A boolean is no number here: true and 1 are two rows, 1 and 1.0 are one."""

    __slots__ = ()
    __hash__ = tuple.__hash__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, tuple) and super().__eq__(other) and _booleans(self) == _booleans(other)


def _booleans(key: tuple[Any, ...]) -> list[bool]:
    return [isinstance(value, bool) for value in key]


def duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`."""
    whole = round(seconds)
    for size, unit, below, small in ((86_400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            return f"{whole // size} {unit} {whole % size // below} {small}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{whole} s"


def display_name(name: str, among: Sequence[str] = ()) -> str:
    """`views.flip` -> `flip`, unless `among` has two of that name; `knn/top1_test` -> `knn top1 (test)`."""
    stage, slash, metric = name.rpartition("/")
    if not slash:
        path = name.removesuffix(".name")
        short = path.rpartition(".")[2]
        alike = [other for other in among if other.removesuffix(".name").rpartition(".")[2] == short]
        return short if len(alike) < 2 else path
    words = metric.split("_")
    shown = [*words[:-1], f"({words[-1]})"] if len(words) > 1 and words[-1] in SPLITS else words
    return " ".join([*stage.split("/"), *shown])


def in_percent(metric: str) -> bool:
    """Whether a metric is a percentage, by its name: `transfer/top1_pets_test` is."""
    name = metric.rpartition("/")[2]
    return name.startswith(PER_CLASS) or any(word in PERCENT for word in name.split("_"))


def name_with_unit(metric: str) -> str:
    """`knn/top1_test` -> `knn top1 (test), %`."""
    return display_name(metric) + (", %" if in_percent(metric) else "")


def value_text(value: Any) -> str:
    """A knob's value in a table."""
    if value is None:
        return NOTHING
    return f"{value:g}" if isinstance(value, float) else text(value)


def views_text(knobs: Mapping[str, Any]) -> str:
    """`crop_scale_min 0.08, gray 0.2`: the views of trials, by the knobs that differ from recipe none."""
    return ", ".join(f"{knob} {value_text(value)}" for knob, value in knobs.items()) or "crops and flips only"


def row_name(key: Key, knobs: Sequence[str]) -> str:
    """`method=moco, overlay_alpha=0.3`: a row in a note."""
    return ", ".join(f"{display_name(name, knobs)}={value_text(part)}" for name, part in zip(knobs, key, strict=True))


def row_label(values: Sequence[Any]) -> str:
    """A row's name in `published` and `baseline`: its knobs' values, joined by commas."""
    return ", ".join(map(text, values))


def label_text(label: Any) -> str:
    """A label as text: a text, a value, or a tuple or list of values."""
    return label if isinstance(label, str) else row_label(label if isinstance(label, (tuple, list)) else [label])


def label_meant(label: Any, labels: Collection[str]) -> str | None:
    """The one of these labels that a user's label means; None if there is none, or several."""
    alike = labels_alike(label, labels)
    return alike[0] if len(alike) == 1 else None


def labels_alike(label: Any, labels: Collection[str]) -> list[str]:
    """The label of the same text, else those with the same values: 0, 0.0 and "0" have, as have null and None.

    Only a text has a text of its own: YAML reads 1.10 as the number 1.1.
    """
    if isinstance(label, str) and label in labels:
        return [label]
    return [other for other in dict.fromkeys(labels) if row_key(other) == row_key(label)]


def row_key(label: Any) -> tuple[Any, ...]:
    """A label's values, as far as its text tells: "1" is a number."""
    return _values(label_text(label))


@lru_cache(maxsize=100_000)
def _values(label: str) -> tuple[Any, ...]:
    return tuple(_value(part.strip()) for part in label.split(","))


def _value(written: str) -> Any:
    constant = written.lower().replace("none", "null")
    try:
        value = value_of(constant if constant in ("true", "false", "null") else written)
    except ValueError:
        return written
    if value != value:
        return written  # a text "nan" must equal itself
    return float(f"{value:.12g}") if isinstance(value, float) else value
