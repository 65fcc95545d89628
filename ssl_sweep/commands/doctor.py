"""Checks of an installation and a storage, as `ssl-sweep doctor` prints them."""

import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

from ssl_sweep.errors import UserError
from ssl_sweep.knobs.listing import Plugin, plugins
from ssl_sweep.plugins.catalog import PluginError
from ssl_sweep.storage.layout import Storage, cache_folder
from ssl_sweep.storage.urls import redacted

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "pandas")


def check_installation(storage: Storage) -> list[dict[str, Any]]:
    """Check the installation; each check gives its name, whether it passed, and what it found or the error."""
    checks: dict[str, Callable[[], str]] = {
        "python": lambda: f"{platform.python_version()} at {sys.executable}",
        **{package: lambda package=package: version(package) for package in PACKAGES},  # type: ignore[misc]
        "devices": _devices,
        "storage": lambda: _writable(storage),
        "data cache": lambda: str(cache_folder()),
        **{f"{plugin.kind.removesuffix('s')} {plugin.name}": partial(_usable, plugin) for plugin in plugins()},
    }
    return [_run_check(what, check) for what, check in checks.items()]


def check_place(storage: Storage, *, mend: bool, tell: Callable[[str], object]) -> list[dict[str, Any]]:
    """Check all of a storage, and mend what can be mended; `tell` gets words about the progress."""
    from ssl_sweep.sweep.storage_check import check_storage, mended

    checks = []
    try:
        for finding in check_storage(storage, tell):  # lazily: each check sees what was mended before it
            last = mended(finding) if mend else finding
            told = {"check": last.check, "ok": last.ok, "found": redacted(last.found), "source": last.source}
            checks.append({**told, "mendable": last.mend is not None})
    except UserError as error:
        checks.append({"check": "storage", "ok": False, "found": str(error), "source": None, "mendable": False})
    return checks


def _run_check(what: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"check": what, "ok": True, "found": check(), "source": None, "mendable": False}
    except Exception as error:  # any error of an installation is a result here
        found = redacted(f"{type(error).__name__}: {error}")
        return {"check": what, "ok": False, "found": found, "source": None, "mendable": False}


def _usable(plugin: Plugin) -> str:
    if plugin.error is not None:
        raise PluginError(plugin.error)
    return plugin.origin


def _devices() -> str:
    import torch

    from ssl_sweep.trial.stage_keys import resolve_precision

    gpus = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    device = torch.device("cuda" if gpus else "cpu")
    return (
        f"{', '.join(gpus) or 'no GPU: trials run on the CPU'}; precision auto is {resolve_precision('auto', device)}"
    )


def _writable(storage: Storage) -> str:
    storage.check_writable()
    return storage.place
