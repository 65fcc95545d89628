"""Hyperparameter sweeps for self-supervised image learning."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`ssl_sweep.Client`, imported when it is asked for: a trial needs no HTTP."""
    if name != "Client":
        raise AttributeError(f"module 'ssl_sweep' has no attribute {name!r}")
    from ssl_sweep.client import Client

    return Client
