"""What `ssl-sweep check` is to check: all that a name stands for, or all plugins of a folder."""

import os
from pathlib import Path

from ssl_sweep.contracts import sources
from ssl_sweep.contracts.contract import Contract
from ssl_sweep.contracts.encoders import ENCODERS
from ssl_sweep.contracts.evaluations import EVALUATIONS
from ssl_sweep.contracts.methods import METHODS
from ssl_sweep.contracts.report import Subject
from ssl_sweep.data.sources import USAGE
from ssl_sweep.knobs import knobs
from ssl_sweep.knobs.problems import did_you_mean
from ssl_sweep.models.library import is_library_name
from ssl_sweep.plugins import catalog
from ssl_sweep.plugins.catalog import KINDS, LOCAL, Kind, PluginError


def contracts(root: Path) -> dict[Kind, Contract]:
    """The contract of each kind; relative arguments of sources are below `root`."""
    return {
        "methods": METHODS,
        "evaluations": EVALUATIONS,
        "encoders": ENCODERS,
        "sources": sources.contract(root),
    }


def find(target: str, root: Path) -> list[Subject]:
    """The methods, evaluations, encoders and sources of a name, or of a folder, whose plugins are used from now on.

    Args:
        target: a name as specs write it, a source with its argument, `local/mine:ARGUMENT`, or a folder.
        root: the folder of relative arguments of sources.

    Raises:
        PluginError: there is no such name, or no plugin in the folder.
    """
    found = [(kind, target) for kind in KINDS if _has(kind, target)]
    if not found and Path(os.path.expanduser(target)).exists():
        found = _in_folder(Path(os.path.expanduser(target)))
    if not found:
        names = {name for kind in KINDS for name in _names(kind)}
        otherwise = "`ssl-sweep check DIR` checks the plugins of a folder"
        if target.startswith(LOCAL) and catalog.local_folder() is None:
            otherwise = f"name its folder with --plugins DIR or {catalog.FOLDER_VARIABLE}"
        remedy = did_you_mean(target, names, otherwise)
        raise PluginError(f"there is no method, evaluation, encoder or source {target!r}; {remedy}")
    return [Subject(kind, name, contracts(root)[kind]) for kind, name in found]


def _in_folder(path: Path) -> list[tuple[Kind, str]]:
    if path.is_file():
        remedy = f"check it by its name: ssl-sweep check {LOCAL}{path.stem} --plugins {path.parent.parent}"
        raise PluginError(f"{path} is a file; {remedy}")
    catalog.use(path)
    found: list[tuple[Kind, str]] = [
        (kind, name) for kind in KINDS for name in catalog.names(kind) if name.startswith(LOCAL)
    ]
    if not found:
        raise PluginError(f"{path} has folders for plugins, and no file in them; write {path}/methods/NAME.py")
    return found


def _names(kind: Kind) -> list[str]:
    return [*USAGE, *catalog.names(kind)] if kind == "sources" else knobs.names(kind)


def _has(kind: Kind, target: str) -> bool:
    name = target.partition(":")[0] if kind == "sources" else target
    return name in _names(kind) or (kind == "encoders" and is_library_name(name))
