"""Checks of an installation for `ssl-sweep doctor`."""

import platform
import sys
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from typing import Any

from ssl_sweep.knobs.listing import Plugin, plugins
from ssl_sweep.plugins.catalog import PluginError
from ssl_sweep.storage.layout import Storage, cache_folder
from ssl_sweep.storage.urls import redacted

PACKAGES = ("torch", "torchvision", "ray", "optuna", "mlflow", "pandas")


def run_checks(storage: Storage) -> list[dict[str, Any]]:
    """Run all checks; each gives its name, whether it passed, and what it found or the error."""
    checks: dict[str, Callable[[], str]] = {
        "python": lambda: f"{platform.python_version()} at {sys.executable}",
        **{package: lambda package=package: version(package) for package in PACKAGES},  # type: ignore[misc]
        "devices": _devices,
        "storage": lambda: _writable(storage),
        "data cache": lambda: str(cache_folder()),
        "ledger": lambda: _ledger(storage),
        "mlflow store": lambda: _mlflow(storage),
        **{f"{plugin.kind.removesuffix('s')} {plugin.name}": partial(_usable, plugin) for plugin in plugins()},
    }
    return [_run_check(what, check) for what, check in checks.items()]


def _run_check(what: str, check: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"check": what, "ok": True, "found": check()}
    except Exception as error:  # any error of an installation is a result here
        return {"check": what, "ok": False, "found": redacted(f"{type(error).__name__}: {error}")}


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


def _ledger(storage: Storage) -> str:
    from ssl_sweep.ledger.open import sweep_names

    return f"{redacted(storage.ledger_url)}: {len(sweep_names(storage.ledger_url))} sweeps"


def _mlflow(storage: Storage) -> str:
    from ssl_sweep.tracking.reader import list_sweeps

    return f"{redacted(storage.tracking_uri)}: {len(list_sweeps(storage.tracking_uri))} sweeps"
