"""What a spec from the network may be: all that `run` takes, but no folder or address that is not the service's."""

import atexit
import gc
import json
import re
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from ssl_sweep.knobs.problems import Loc, Problem, SpecError, key_text
from ssl_sweep.spec.file import parse_spec
from ssl_sweep.spec.plan import count_trials
from ssl_sweep.spec.sweep import SweepSpec

MAX_CHARS = 100_000  # of a spec; a long one has some 5,000
MAX_OVERRIDES, MAX_OVERRIDE_CHARS = 100, 5_000
MAX_TRIALS = 10_000
FILE = "spec"  # its name in messages
SEARCHED = ("data", "evaluate", "search")  # sections that can name data
OWN_FILES = (".db", ".db-wal", ".db-shm", ".db-journal", ".lock")  # what lies beside the sweeps' folders ends so


def submitted(text: str, overrides: Sequence[str], roots: Sequence[Path]) -> SweepSpec:
    """The sweep of a spec that somebody sent; its relative data starts at the first of the roots.

    Raises:
        SpecError: with every problem, as `run` names them; or with what a spec of the network's may not have.
    """
    if len(text) > MAX_CHARS:
        raise _too_large(f"has {len(text):,} characters", f"a spec has at most {MAX_CHARS:,}")
    if len(overrides) > MAX_OVERRIDES or any(len(each) > MAX_OVERRIDE_CHARS for each in overrides):
        raise _too_large("has too many or too long overrides", "write them into the spec")
    spec = parse_spec(text, FILE, overrides, roots[0])
    check(spec, roots)
    _keep_imports()
    return spec


@cache
def _keep_imports() -> None:
    """Have the garbage collector pass over what is there after the first check: torch, methods, evaluations.

    It stays for good, and to walk through it takes half a second, in which nobody is answered.
    """
    gc.collect()
    gc.freeze()
    atexit.register(gc.unfreeze)  # at the end libraries complain of what nobody has collected


def check(spec: SweepSpec, roots: Sequence[Path]) -> None:
    """Refuse what a spec of the network's may not have.

    Raises:
        SpecError: it has some of it.
    """
    problems = [_problem(loc, source, *wrong) for loc, source in _sources(spec) if (wrong := _outside(source, roots))]
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


def _sources(spec: SweepSpec) -> Iterator[tuple[Loc, str]]:
    """Everything written `kind:argument`, whether it is fixed or searched: only data is written so."""
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
    """What is wrong with a source, and the remedy; None for one below the roots."""
    kind, _, argument = source.partition(":")
    if kind == "torchvision":  # a name, of a set below the root
        return None
    remedy = f"name a folder below {' or '.join(map(str, roots))}"
    if "://" in argument:
        return "is an address, and the service reads folders", remedy
    try:
        folder = (roots[0] / Path(argument).expanduser()).resolve()
    except (ValueError, RuntimeError, OSError):  # a zero byte, an unknown user's home, links in a circle
        return "is no folder's name", remedy
    if not any(folder.is_relative_to(root.resolve()) for root in roots):
        return "is outside the folders that the service reads", remedy
    return None


def _problem(loc: Loc, value: Any, message: str, remedy: str) -> Problem:
    return Problem(FILE, None, key_text(loc), value, message, remedy)


def _too_large(message: str, remedy: str) -> SpecError:
    return SpecError([_problem((), None, message, remedy)])
