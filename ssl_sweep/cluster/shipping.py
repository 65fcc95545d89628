"""Ships functions to Ray's workers, which run them with the driver's code or not at all.

Ray's workers receive this module by value: what `import ssl_sweep` gives them is checked before it is imported.
"""

import hashlib
import importlib
import json
import pkgutil
import re
import socket
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from ray import cloudpickle

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # type: ignore[no-untyped-call]

PACKAGE = "ssl_sweep"
RUN_BY_TRIALS = ("data", "evaluations", "knobs", "methods", "models", "training", "trial", "trialdir")


class Code(NamedTuple):
    """What `import ssl_sweep` gives in a process."""

    version: str
    folder: str
    digest: str  # of all Python files, by their names within the folder

    def __str__(self) -> str:
        return f"ssl_sweep {self.version} of {self.folder}, files {self.digest[:8]}"


def code_here() -> Code:
    """What `import ssl_sweep` gives in this process; it need not be imported.

    Raises:
        ModuleNotFoundError: it is not installed here.
    """
    importlib.invalidate_caches()
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(f"No module named {PACKAGE!r}", name=PACKAGE)
    folder = Path(spec.origin).parent
    written = re.search(r"^__version__ = \"(.+)\"", Path(spec.origin).read_text(), flags=re.MULTILINE)
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        content = file.read_bytes()
        digest.update(f"{file.relative_to(folder).as_posix()} {len(content)}\n".encode() + content)
    return Code(written[1] if written else "of unknown version", str(folder), digest.hexdigest())


def shipped(function: Callable[..., Any], refuse: Callable[[str], Any]) -> Callable[..., Any]:
    """The function, to be called in a worker, where other code than this process's is refused.

    What trials run is imported at the first call: an edit later on changes nothing in that process.

    Args:
        function: what to call.
        refuse: called in its place, with the outcome of a refused attempt as JSON; it must do without ssl_sweep.
    """
    content: bytes = cloudpickle.dumps(function)  # type: ignore[no-untyped-call]
    expected = code_here()
    loaded: list[Callable[..., Any]] = []

    def call(*arguments: Any) -> Any:
        if not loaded:
            try:
                refusal = _mismatch(expected)
                if refusal is None:
                    loaded.append(cloudpickle.loads(content))
                    _import_what_trials_run()
            except Exception as error:  # whatever a broken installation raises when it is imported
                loaded.clear()
                refusal = _told(error)
            if refusal is not None:
                return refuse(json.dumps({"state": "FAILED", "reason": "code", "message": refusal}))
        return loaded[0](*arguments)

    return call


def _mismatch(expected: Code) -> str | None:
    """Why this worker must not run the driver's trials; None if it has the same code."""
    here, host = code_here(), socket.gethostname()
    if here.digest == expected.digest:
        return None
    if here.folder == expected.folder:
        why = f"the files of {expected} have changed since the driver started (now {here.digest[:8]})"
        remedy = "resume the sweep: a new driver and all of its workers take the files as they are then"
    else:
        why = f"a worker on {host} would run {here}; the driver is {expected}"
        remedy = "install one version of ssl_sweep on all nodes, then resume the sweep"
    return f"{why}: trials of both would not be comparable; {remedy}"


def _told(error: Exception) -> str:
    """The error, with the file and line that raised it."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
    what = f"{type(error).__name__}: {error}"
    if isinstance(error, ModuleNotFoundError) and error.name == PACKAGE:
        remedy = "install it there, or put its folder on PYTHONPATH"
    else:
        what, remedy = f"{what} ({frames[-1].filename}:{frames[-1].lineno})", "mend what is installed there"
    where = f"{sys.executable} on {socket.gethostname()}"
    return f"{where} cannot import {PACKAGE}: {what}; {remedy}, then resume the sweep"


def _import_what_trials_run() -> None:
    for name in RUN_BY_TRIALS:
        package = importlib.import_module(f"{PACKAGE}.{name}")
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            with suppress(ImportError):  # of an optional dependency
                importlib.import_module(module.name)
