"""The base class of a spec's sections, and the sections that do not depend on what is trained."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ssl_sweep.knobs.problems import Finding, translated, validation_error
from ssl_sweep.storage.urls import redacted


class Section(BaseModel):
    """A mapping of the spec file with fixed keys; an empty one means the defaults.

    Values are not converted: neither `"1"` nor `true` is a number.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, validate_default=True)
    called: ClassVar[str] = "the spec"

    @model_validator(mode="wrap")
    @classmethod
    def _explain(cls, value: Any, handler: ModelWrapValidatorHandler[Self]) -> Self:
        try:
            return handler({} if value is None else value)
        except ValidationError as error:
            raise translated(error, cls, value, f"a key of {cls.called}") from None


class Resources(Section):
    """The resources of one trial, and how many trials run at a time."""

    called: ClassVar[str] = "resources"

    workers: Annotated[int, Field(ge=1, description="processes a trial; above 1 the batch is split over them")] = 1
    cpus: Annotated[float, Field(gt=0, description="CPU cores a worker")] = 1
    gpus: Annotated[float, Field(ge=0, description="GPUs a worker; a fraction shares one between trials")] = 0
    max_concurrent: Annotated[
        int | None, Field(ge=1, description="maximum number of trials at a time; null: as many as fit the cluster")
    ] = None
    timeout: Annotated[
        float | None,
        Field(
            gt=0,
            description="seconds without progress (a step, a batch, a report) after which a trial counts as hung: its "
            "process is ended, and it is tried again; null: never",
        ),
    ] = None

    @field_validator("gpus")
    @classmethod
    def _placeable(cls, gpus: float, info: ValidationInfo) -> float:
        if gpus == int(gpus):
            return gpus
        if gpus > 1:
            raise validation_error(
                Finding((), gpus, "must be a whole number above 1", f"use {int(gpus)} or {int(gpus) + 1}")
            )
        if info.data.get("workers", 1) > 1:
            message = "must be a whole number with several workers (NCCL refuses two ranks on one device)"
            raise validation_error(Finding((), gpus, message, "use `gpus: 1`, or `workers: 1`"))
        return gpus


class Tracking(Section):
    """Where the runs are shown."""

    called: ClassVar[str] = "tracking"

    uri: Annotated[
        str | None, Field(min_length=1, description="MLflow tracking URI; null: SQLite under the storage folder")
    ] = None
    models: Annotated[
        Literal["none", "best", "all"],
        Field(description="which encoders MLflow gets as models that return features: none, the best trial's, or all"),
    ] = "best"

    @field_validator("uri")
    @classmethod
    def _without_secrets(cls, uri: str | None) -> str | None:
        """The spec is stored with the sweep and shown in MLflow: it must not contain a password."""
        if uri is not None and redacted(uri) != uri:
            remedy = "put it into MLFLOW_TRACKING_URI, or MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            raise validation_error(
                Finding((), redacted(uri), "has a password in it, and specs are shown in MLflow", remedy)
            )
        return uri
