"""The views that a sweep's trials had, in words."""

from typing import Any

from ssl_sweep.data.recipes import DEFAULTS
from ssl_sweep.report.sweep import Sweep
from ssl_sweep.tables.labels import row_key, views_text

PREFIX, METHOD = "views.", "method.name"


def views_of(sweep: Sweep) -> str:
    """`simclr: crop_scale_min 0.08, gray 0.2; byol: ...`: one part for each set of views; searched knobs are left out.

    Empty before a trial has begun.
    """
    fixed = [f"{PREFIX}{knob}" for knob in DEFAULTS if f"{PREFIX}{knob}" not in sweep.label_paths]
    columns = [path for path in fixed if path in sweep.runs.columns]
    if not columns or METHOD not in sweep.runs.columns:
        return ""
    had = sweep.runs[[METHOD, *columns]].dropna(subset=[METHOD]).drop_duplicates()
    names: dict[str, list[str]] = {}
    for method, *values in had.itertuples(index=False):
        known = names.setdefault(views_text(_unusual(dict(zip(columns, values, strict=True)))), [])
        known += [method] if method not in known else []
    return next(iter(names)) if len(names) == 1 else "; ".join(f"{', '.join(of)}: {text}" for text, of in names.items())


def _unusual(views: dict[str, Any]) -> dict[str, Any]:
    """The knobs whose value, as MLflow has it, differs from recipe none."""
    knobs = {path.removeprefix(PREFIX): value for path, value in views.items()}
    return {knob: value for knob, value in knobs.items() if row_key(value) != row_key(DEFAULTS[knob])}
