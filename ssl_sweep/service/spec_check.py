"""Checks of a spec from the network: it may name no folder or address outside the service's, and has size limits."""

import atexit
import gc
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from ssl_sweep.knobs.problems import Loc, Problem, SpecError, key_text
from ssl_sweep.models.weights import SUFFIX
from ssl_sweep.plugins import catalog
from ssl_sweep.spec.file import parse_spec
from ssl_sweep.spec.plan import count_trials
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.spec.weights import weights_findings

MAX_CHARS = 100_000  # of a spec; long ones have about 5,000
MAX_OVERRIDES, MAX_OVERRIDE_CHARS = 100, 5_000
MAX_TRIALS = 10_000
FILE = "spec"  # its name in messages
SEARCHED = ("data", "evaluate", "search")  # sections that can name data
LOCAL_REFUSED = (
    "is a plugin of a folder, and the service has installed ones only",
    "install it as a package with entry points where the service and its workers run, and leave out `local/`",
)
OWN_FILES = (".db", ".db-wal", ".db-shm", ".db-journal", ".lock")  # of the service and the ledger, in the storage


def parse_submitted(text: str, overrides: Sequence[str], roots: Sequence[Path]) -> SweepSpec:
    """Parse and check a submitted spec; its relative data paths start at the first root.

    Raises:
        SpecError: the spec is invalid, or is not allowed in a submission; it names every problem.
    """
    if len(text) > MAX_CHARS:
        raise _too_large(f"has {len(text):,} characters", f"a spec has at most {MAX_CHARS:,}")
    if len(overrides) > MAX_OVERRIDES or any(len(each) > MAX_OVERRIDE_CHARS for each in overrides):
        raise _too_large("has too many or too long overrides", "write them into the spec")
    catalog.find_installed_anew()
    try:
        spec = parse_spec(text, FILE, overrides, roots[0], within=roots)
    except SpecError as error:
        raise SpecError([_without_local(problem) for problem in error.problems]) from None
    check_submitted(spec, roots)
    _keep_imports()
    return spec


@cache
def _keep_imports() -> None:
    """Exclude the modules that the first check imports (torch, methods, ...) from garbage collection.

    They stay for good, and traversing them blocks all requests for half a second.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # libraries warn at exit of objects that were not collected


def check_submitted(spec: SweepSpec, roots: Sequence[Path]) -> None:
    """Check what only submissions must obey.

    Raises:
        SpecError: with every problem.
    """
    problems = [_problem(loc, source, *wrong) for loc, source in _sources(spec) if (wrong := _outside(source, roots))]
    problems += [_problem(loc, name, *LOCAL_REFUSED) for loc, name in _local_names(spec)]
    outside = [_problem(loc, file, *wrong) for loc, file in _weights(spec) if (wrong := _outside(f":{file}", roots))]
    problems += outside or [_problem(*finding) for finding in weights_findings(spec)]
    if spec.root != roots[0]:
        problems.append(_problem(("root",), None, "is the service's", "leave it out"))
    if spec.tracking.uri is not None:
        remedy = "leave it out: all sweeps of the service are in its MLflow"
        problems.append(_problem(("tracking", "uri"), spec.tracking.uri, "is the service's to say", remedy))
    if spec.name.endswith(OWN_FILES):
        problems.append(_problem(("name",), spec.name, "ends as the service's own files do", "rename it"))
    if (trials := count_trials(spec)) > MAX_TRIALS:
        problems.append(_problem(("search",), None, f"makes {trials:,} trials", f"search at most {MAX_TRIALS:,}"))
    if re.search(r"\\u0000|\\ud[89a-f]", json.dumps(spec.model_dump(mode="json"))):
        problems.append(_problem((), None, "has a character that is no text", "remove zero bytes and lone surrogates"))
    if problems:
        raise SpecError(problems)


def _local_names(spec: SweepSpec) -> Iterator[tuple[Loc, str]]:
    """All names of local plugins: the operator may have a folder of them, but the drivers and workers have none."""
    dump = spec.model_dump(mode="json")
    texts = (each for section in ("method", "encoder", *SEARCHED) for each in _texts((section,), dump[section]))
    keys = ((("evaluate", name), name) for name in spec.evaluate)
    yield from ((loc, text) for loc, text in (*texts, *keys) if text.startswith(catalog.LOCAL))


def _without_local(problem: Problem) -> Problem:
    """The problem, in the service's words where it is a local plugin that is not there."""
    is_local = problem.message.startswith("there is no ") and f"'{catalog.LOCAL}" in problem.message
    return replace(problem, message=LOCAL_REFUSED[0], remedy=LOCAL_REFUSED[1]) if is_local else problem


def _weights(spec: SweepSpec) -> Iterator[tuple[Loc, str]]:
    """All names of files of weights, fixed or searched: nothing else in these sections has their ending."""
    dump = spec.model_dump(mode="json")
    texts = (each for section in ("encoder", "search") for each in _texts((section,), dump[section]))
    yield from ((loc, text) for loc, text in texts if text.endswith(SUFFIX))


def _sources(spec: SweepSpec) -> Iterator[tuple[Loc, str]]:
    """All values of the form `kind:argument`, fixed or searched: only data sources have it."""
    dump = spec.model_dump(mode="json")
    for section in SEARCHED:
        yield from ((loc, text) for loc, text in _texts((section,), dump[section]) if ":" in text)


def _texts(loc: Loc, value: Any) -> Iterator[tuple[Loc, str]]:
    if isinstance(value, str):
        yield loc, value
    elif isinstance(value, dict | list):
        for key, below in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _texts((*loc, key), below)


def _outside(source: str, roots: Sequence[Path]) -> tuple[str, str] | None:
    """The problem with a source and the remedy; None for one below the roots."""
    kind, _, argument = source.partition(":")
    if kind == "torchvision":  # names a data set below the root
        return None
    if kind.startswith(catalog.LOCAL):  # refused as such
        return None
    remedy = f"name a folder below {' or '.join(map(str, roots))}"
    if "://" in argument:
        return "is an address, and the service reads folders", remedy
    try:
        folder = (roots[0] / Path(argument).expanduser()).resolve()
    except (ValueError, RuntimeError, OSError):  # a zero byte, an unknown user's home, circular links
        return "is no folder's name", remedy
    if not any(folder.is_relative_to(root.resolve()) for root in roots):
        return "is outside the folders that the service reads", remedy
    return None


def _problem(loc: Loc, value: Any, message: str, remedy: str) -> Problem:
    return Problem(FILE, None, key_text(loc), value, message, remedy)


def _too_large(message: str, remedy: str) -> SpecError:
    return SpecError([_problem((), None, message, remedy)])
