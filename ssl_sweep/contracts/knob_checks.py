"""What the knobs of every kind promise: a spec can set them, search them and explain them."""

from collections.abc import Callable, Mapping
from typing import Any

from pydantic import ValidationError

from ssl_sweep.contracts.contract import ContractError, require
from ssl_sweep.knobs import knobs

EXAMPLE = 'Annotated[float, Field(gt=0, description="what it is")] = 0.1'


def check_knobs(target: Callable[..., Any], wiring: tuple[str, ...], *, required: tuple[str, ...] = ()) -> None:
    """Check that a class or function takes `wiring`, then keyword-only knobs with a type, a text and a default.

    required: knobs that need no default.
    """
    parameters = list(knobs.arguments(target).values())
    first = tuple(parameter.name for parameter in parameters[: len(wiring)])
    words = f"{target.__name__} takes first {', '.join(first) or 'nothing'}"
    require(first == wiring, f"{words}; let it take ({', '.join(wiring)}, *, KNOBS)", target)
    for knob in parameters[len(wiring) :]:
        if knob.kind is not knob.KEYWORD_ONLY:
            raise ContractError(f"{knob.name} is neither wiring nor a knob; put `*` before it, or remove it", target)
        if knob.default is knob.empty and knob.name not in required:
            raise ContractError(f"knob {knob.name} has no default; give it one: {knob.name}: {EXAMPLE}", target)
    for name, field in knobs.knobs_of(target).model_fields.items():
        require(bool(field.description), f"knob {name} has no text; write {name}: {EXAMPLE}", target)


def checked_knobs(target: Callable[..., Any], values: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Every knob as a sweep passes it: `values` of the module's CHECK, and the defaults of the others."""
    try:
        return knobs.check(target, values, name)
    except ValidationError as error:
        first = error.errors()[0]
        place, remedy = ".".join(map(str, first["loc"])), "correct CHECK, or the default"
        raise ContractError(f"knob {place}: {first['input']!r}: {first['msg']}; {remedy}", target) from error
