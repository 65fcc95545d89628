"""Lists plugins and tries each: what is broken is one line, and breaks nothing else."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ssl_sweep.errors import UserError
from ssl_sweep.knobs import knobs
from ssl_sweep.plugins import catalog


@dataclass(frozen=True)
class Plugin:
    """A plugin, where it comes from, and why it cannot be used; None if it can."""

    kind: catalog.Kind
    name: str
    origin: str
    error: str | None


def plugins() -> list[Plugin]:
    """Every plugin, installed and local, after an attempt to import it."""
    return [_tried(kind, name) for kind in catalog.KINDS for name in catalog.names(kind)]


def usable(kind: knobs.Kind) -> dict[str, Callable[..., Any]]:
    """What `knobs.load` gives for each name of a kind, without broken plugins."""
    return {name: knobs.load(kind, name) for name in knobs.names(kind) if not _error(kind, name)}


def _tried(kind: catalog.Kind, name: str) -> Plugin:
    return Plugin(kind, name, catalog.origin(kind, name), _error(kind, name))


def _error(kind: catalog.Kind, name: str) -> str | None:
    try:
        if kind == "sources":
            catalog.attribute(kind, name, "open_source")
        else:
            knobs.knobs_of(knobs.load(kind, name))
    except UserError as error:
        return str(error)
    return None
