"""A method with knobs, for the tests of specs; it is put beside the project's own methods."""

from typing import Annotated

from pydantic import Field


class Method:
    def __init__(
        self,
        encoder: object,
        *,
        temperature: Annotated[float, Field(gt=0, lt=20, description="softness of the softmax")] = 0.3,
        queue: Annotated[int, Field(ge=1, description="number of keys")] = 64,
        layers: Annotated[tuple[int, ...], Field(description="widths of the head")] = (8, 8),
    ) -> None:
        raise AssertionError("a spec must not build a method")
