"""What a contract is: checks in their order, each a function that raises `ContractError` or returns."""

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ssl_sweep.errors import UserError


class ContractError(UserError):
    """A method, an evaluation, an encoder or a source breaks a promise of its kind.

    Args:
        message: what is wrong, then the remedy.
        at: the class or function that is to be changed.
    """

    def __init__(self, message: str, at: Any = None) -> None:
        super().__init__(message)
        self.place = None if at is None else line_of(at)


class NotChecked(Exception):  # noqa: N818 - not an error: there is nothing to check
    """Raised by a check that lacks what it would check; the message says what."""


class Check(NamedTuple):
    """One promise: a function whose name is the promise, and the checks without which it says nothing."""

    run: Callable[[Any], None]
    needs: tuple[Callable[[Any], None], ...] = ()

    @property
    def title(self) -> str:
        """The promise in words."""
        return title(self.run)


class Contract(NamedTuple):
    """How what the checks of a kind receive is made, and which checks apply to it, in their order."""

    load: Callable[[str], Any]
    checks_of: Callable[[Any], tuple[Check, ...]]


def title(check: Callable[[Any], None]) -> str:
    """`its_shapes_are_declared` -> `its shapes are declared`."""
    return check.__name__.replace("_", " ")


def require(holds: bool, message: str, at: Any = None) -> None:
    """Raise a `ContractError` unless the promise holds."""
    if not holds:
        raise ContractError(message, at)


def line_of(target: Any) -> str | None:
    """`FILE:LINE` of a class or function; None for what has no source."""
    try:
        lines, number = inspect.getsourcelines(target)
        file = inspect.getsourcefile(target)
    except (OSError, TypeError):
        return None
    return f"{file}:{max(number, 1)}" if lines else None


def folder_of(target: Any) -> Path:
    """The folder of a class's or function's file."""
    return Path(inspect.getsourcefile(target) or ".").parent
