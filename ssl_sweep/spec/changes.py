"""What has changed between two specs of a sweep."""

from collections.abc import Iterator
from typing import Any

from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.spec.views import ViewSet, view_sets

# keys that may change while a sweep is under way: they change no result
FREE = (
    "description", "resources", "retries", "lost_retries", "keep_encoders", "table", "tracking", "root",
    "search.confirm",
)  # fmt: skip
SKIPS = ".on_error: raise became skip"  # a trial that has finished met no corrupt file: its result stays the same


def is_free(difference: str) -> bool:
    """Whether a line of `differences` says nothing that changes what finished trials mean."""
    return difference.startswith(FREE) or difference.endswith(SKIPS)


def differences(old: SweepSpec, new: SweepSpec) -> list[str]:
    """One line for each key in which two specs differ: `search.seeds: [0, 1] became [0, 1, 2]`.

    Views are compared as trials get them, whether a recipe or the file gives their values.
    """
    before, after = (dict(_leaves((), spec.model_dump(mode="json"))) for spec in (old, new))
    changed = [
        f"{'.'.join(key)}: {before.get(key, 'nothing')} became {after.get(key, 'nothing')}"
        for key in before | after
        if before.get(key) != after.get(key) or (key in before) != (key in after)
    ]
    if not any(line.startswith("views.") for line in changed):
        return changed
    return [line for line in changed if not line.startswith("views.")] + _of_views(view_sets(old), view_sets(new))


def _of_views(old: list[ViewSet], new: list[ViewSet]) -> list[str]:
    """One line for each knob of the views of each method or case."""
    lines = []
    for before, after in zip(old, new, strict=False):  # of unequal lengths only where the search differs too
        where = f" ({after.of})" if len(new) > 1 else ""
        lines += [
            f"views.{knob}: {before.views[knob]} became {value}{where}"
            for knob, value in after.views.items()
            if before.views[knob] != value
        ]
    return lines


def _leaves(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], Any]]:
    if isinstance(value, dict):
        for key, below in value.items():
            yield from _leaves((*path, key), below)
    else:
        yield path, value
