"""Hyperparameter sweeps for self-supervised image learning."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`ssl_sweep.Client` and `ssl_sweep.export`, imported on use: a trial needs no HTTP, and a client no torch.

    Exported files name `ssl_sweep.export.read`.
    """
    if name == "Client":
        from ssl_sweep.client.client import Client

        return Client
    if name == "export":
        from ssl_sweep.trial import export

        return export
    raise AttributeError(f"module 'ssl_sweep' has no attribute {name!r}")
