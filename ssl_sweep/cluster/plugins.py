"""Brings a folder of local plugins to the workers, as a package of Ray's runtime environment."""

import os
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ssl_sweep.plugins import catalog


@contextmanager
def runtime_env(pins: Mapping[str, str]) -> Iterator[dict[str, Any] | None]:
    """What `ray.init` takes so that workers can import the local plugins among `pins`; None without any.

    Ray stores the files in the cluster by their contents: workers import what was there when the driver started, also
    where a file is edited while the sweep runs.

    Raises:
        PluginError: the folder is far too large.
    """
    if not are_local(pins):
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ssl_sweep_plugins_") as folder:
        yield {"py_modules": [str(catalog.copy_local(Path(folder)))]}


def are_local(pins: Mapping[str, str]) -> bool:
    """Whether one of them is a local plugin's."""
    return any(pin.split()[-1].startswith(catalog.LOCAL) for pin in pins)


def seen_by_all(pins: Mapping[str, str]) -> bool:
    """Whether workers of a Ray that is running already can import the plugins: they have the driver's environment."""
    return not are_local(pins) or bool(os.environ.get(catalog.FOLDER_VARIABLE))
