"""What share of the training images the figures of a table had, beside published figures, which had all."""

from collections.abc import Iterable

import pandas as pd

from ssl_sweep.tables.pivot import plain

HELD, SAMPLED = "data.val_fraction", "data.train_images"


def difference_note(runs: pd.DataFrame, columns: Iterable[str]) -> str:
    """The note on a table's differences to published figures, by the parameters of its trials.

    columns: those with published figures.
    """
    words = "difference: our mean minus the published figure"
    held, sampled = _values(runs, HELD), [value for value in _values(runs, SAMPLED) if value is not None]
    fractions = [float(value) for value in held if isinstance(value, int | float)]
    if not fractions or (not any(fractions) and not sampled):
        return words
    had = f"{_several(f'{100 * (1 - fraction):g} %' for fraction in fractions)} ({HELD} {_several(map(str, held))})"
    if sampled:
        had = f"{_several(map(str, sampled))} ({SAMPLED})"
    refits = [name for name in dict.fromkeys(column.partition("/")[0] for column in columns) if _refits(runs, name)]
    more = f", and the last training of {', '.join(refits)} those held out as well (refit)" if refits else ""
    return f"{words}, which had all training images where ours had {had}{more}"


def _refits(runs: pd.DataFrame, evaluation: str) -> bool:
    return True in _values(runs, f"evaluate.{evaluation}.refit")


def _values(runs: pd.DataFrame, name: str) -> list[object]:
    """The different values of a parameter."""
    return list(dict.fromkeys(plain(value) for value in runs[name])) if name in runs.columns else []


def _several(texts: Iterable[str]) -> str:
    return " or ".join(texts)
