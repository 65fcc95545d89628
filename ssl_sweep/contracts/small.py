"""The constant `CHECK` of a module: how the checks build a small one of what the module has."""

from types import ModuleType
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ssl_sweep.contracts.contract import ContractError


class Small(BaseModel):
    """The keys of `CHECK`, all optional; a module without it is checked with its defaults."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    knobs: Annotated[
        dict[str, Any], Field(description="knobs that make it small and quick; the others have their defaults")
    ] = {}
    encoder: Annotated[
        str | dict[str, Any] | None,
        Field(description="of a method: the encoder, as in a spec; null: the smallest that its annotation allows"),
    ] = None
    image_size: Annotated[int | None, Field(ge=8, description="pixels; null: 16 for methods, 32 for encoders")] = None
    argument: Annotated[
        str | None, Field(description="of a source: what follows its name, relative to the folder of its file")
    ] = None
    needs: Annotated[
        str | None, Field(description="of an evaluation: data that the checks cannot make, so that none runs it")
    ] = None


def small(module: ModuleType) -> Small:
    """The module's `CHECK`.

    Raises:
        ContractError: it has a key that is not known, or a value of another type.
    """
    try:
        return Small.model_validate(getattr(module, "CHECK", {}))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "CHECK"
        keys = ", ".join(Small.model_fields)
        raise ContractError(
            f"{module.__file__}: CHECK: {key}: {first['msg']}; CHECK is a dict with any of {keys}"
        ) from None
