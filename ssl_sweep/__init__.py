"""Hyperparameter sweeps for self-supervised image learning.

import ssl_sweep

sweep = ssl_sweep.run("alphas.yaml", overrides=["search.seeds=3"])  # or a dict
sweep.table()
sweep.best.encoder()
ssl_sweep.open("alphas").resume(failed=True)
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ssl_sweep.api.handle import Sweep as Sweep
    from ssl_sweep.api.handle import open as open  # noqa: A004 - `ssl_sweep.open`
    from ssl_sweep.api.handle import run as run
    from ssl_sweep.api.plan import plan as plan
    from ssl_sweep.client.client import Client as Client
    from ssl_sweep.errors import UserError as UserError
    from ssl_sweep.trial import export as export

__version__ = "0.1.0"

# Imported on use: a trial needs no HTTP, and a client no torch. Exported files name `ssl_sweep.export.read`.
_PUBLIC = {
    "run": "api.handle",
    "open": "api.handle",
    "plan": "api.plan",
    "Sweep": "api.handle",
    "UserError": "errors",
    "Client": "client.client",
}


def __getattr__(name: str) -> Any:
    if name in _PUBLIC:
        return getattr(import_module(f"ssl_sweep.{_PUBLIC[name]}"), name)
    if name == "export":
        return import_module("ssl_sweep.trial.export")
    raise AttributeError(f"module 'ssl_sweep' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*globals(), *_PUBLIC, "export"]
