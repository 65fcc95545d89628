"""The values of a searched knob: a list, a range, or the branches of a searched section."""

import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Self

from pydantic import Field, model_serializer, model_validator

from ssl_sweep.knobs.problems import Finding, validation_error
from ssl_sweep.spec.section import Section

MAX_STEPS = 100_000  # in a range: a few characters could mean a billion values


class Categorical(Section):
    """A list: the knob takes one of these values."""

    values: tuple[Any, ...]

    def listed(self) -> tuple[Any, ...]:
        """Every value."""
        return self.values

    @model_serializer
    def _as_list(self) -> list[Any]:
        return list(self.values)


class Range(Section):
    """A range: the knob takes a value from low to high; both are whole numbers exactly if the knob is."""

    called: ClassVar[str] = "a range"

    low: Annotated[int | float, Field(description="smallest value")]
    high: Annotated[int | float, Field(description="largest value, included")]
    log: Annotated[bool, Field(description="search the logarithm")] = False
    step: Annotated[int | float | None, Field(gt=0, description="only low, low + step, ..., high")] = None

    @property
    def is_int(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def listed(self) -> tuple[int | float, ...]:
        """Every value, by decimal arithmetic (0.3, not 0.30000000000000004); empty without a step."""
        if self.step is None:
            return ()
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        count = int((Decimal(str(self.high)) - low) / step) + 1
        number = int if self.is_int else float
        return tuple(number(low + index * step) for index in range(count))

    def nearest(self, value: int | float) -> int | float:
        """The value of `listed` that differs from this one by rounding only; without one, the value itself."""
        if self.step is None or self.is_int:
            return value
        low, step = Decimal(str(self.low)), Decimal(str(self.step))
        listed = float(low + round((Decimal(str(value)) - low) / step) * step)
        return listed if math.isclose(value, listed, rel_tol=1e-9, abs_tol=1e-9 * self.step) else value

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if findings := list(self._findings()):
            raise validation_error(*findings)
        return self

    def _findings(self) -> Iterator[Finding]:
        if self.low >= self.high:
            yield Finding(("low",), self.low, f"must be below high, {self.high}", "exchange them, or fix the knob")
        if self.log and self.low <= 0:
            yield Finding(("log",), True, f"a logarithm needs a low above 0, not {self.low}", "raise low, or drop log")
        if self.step is None or self.low >= self.high:
            return
        if self.log:
            yield Finding(("step",), self.step, "cannot be joined with log", "drop one of them, or list the values")
        if self.is_int and not isinstance(self.step, int):
            yield Finding(("step",), self.step, "must be a whole number, as the knob is", "use 1 or more")
        elif (self.high - self.low) / self.step > MAX_STEPS:
            yield Finding(("step",), self.step, f"makes more than {MAX_STEPS:,} values", "make it larger, or drop it")
        elif self.listed()[-1] != self.high:
            yield Finding(("step",), self.step, f"does not lead to high, {self.high}", f"use high: {self.listed()[-1]}")


class Branch(Section):
    """One method or encoder of a searched section, with its knobs by name: fixed ones and searched ones."""

    name: str
    fixed: dict[str, Any]
    space: dict[str, Categorical | Range]

    @model_serializer
    def _as_written(self) -> dict[str, Any]:
        # a list means choices here: a value that is a list is wrapped in one
        fixed = {knob: [value] if isinstance(value, list | tuple) else value for knob, value in self.fixed.items()}
        return {"name": self.name, **fixed, **{knob: values.model_dump() for knob, values in self.space.items()}}


class Branches(Section):
    """The branches of a searched section; the knobs of a branch are searched only where it is chosen."""

    choices: tuple[Branch, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(branch.name for branch in self.choices)
