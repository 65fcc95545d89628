"""An encoder as an MLflow model that loads without this package: a traced graph and its weights, without pickle.

`torch.export` writes the graph as JSON and the weights as plain bytes. MLflow would pickle whole modules: code that
runs on every machine that loads the model from a shared store.
"""

import tempfile
import threading
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np

from ssl_sweep.tracking.locations import Files
from ssl_sweep.tracking.store import MAX_POINTS, MlflowRejectedError
from ssl_sweep.tracking.transcript import KNOB, labels, searched
from ssl_sweep.trial import export

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MLflow warns about its own type hints
    import mlflow.pyfunc
    import mlflow.pytorch
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Metric, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import Schema, TensorSpec

NAME = "encoder"  # of the model in its run: `runs:/RUN/encoder`
TRACING = threading.Lock()  # torch.export has process-wide state
EXAMPLES = 2  # images; a batch size of one would be traced as a constant
FILE_METADATA = ("format", "load", "metrics")  # describe an exported file; MLflow has the metrics itself
UNSUPPORTED_CODES = ("INVALID_PARAMETER_VALUE", "ENDPOINT_NOT_FOUND")  # of MLflow servers before version 3


def log_model(client: MlflowClient, files: Files, run_id: str, folder: Path) -> str | None:
    """Log the encoder of a trial's folder as a model of its run; returns the model's URI, or None without an encoder.

    The model gets the latest value of each metric of the run, so that models can be compared like runs. The call may be
    repeated: each step first looks for the result of an earlier call.

    Raises:
        MlflowRejectedError: the encoder cannot be read or traced, or the server does not support models.
    """
    if not export.has_encoder(folder):
        return None
    run = client.get_run(run_id)
    try:
        model = _find(client, run)
        if model is None or model.status != LoggedModelStatus.READY:
            model = _upload(client, files, run, folder, model)
        _link(client, run, model)
    except MlflowException as error:
        if error.error_code in UNSUPPORTED_CODES:
            raise MlflowRejectedError(str(error)) from error
        raise
    return f"models:/{model.model_id}"


def save(trained: export.Trained, folder: Path) -> Model:
    """Write an encoder as an MLflow model: (B, 3, S, S) float32 in [0, 1] -> (B, D) float32, for any B, on the CPU."""
    encoder, model = trained.encoder, Model()
    shape = (3, encoder.image_size, encoder.image_size)
    inputs = Schema([TensorSpec(np.dtype("float32"), (-1, *shape))])
    outputs = Schema([TensorSpec(np.dtype("float32"), (-1, encoder.feature_dim))])
    # quarters: JSON writes out every pixel
    example = np.resize(np.arange(5, dtype="float32") / 4, (EXAMPLES, *shape))
    mlflow.pytorch.save_model(
        encoder,
        folder,
        mlflow_model=model,
        signature=ModelSignature(inputs, outputs),
        input_example=example,
        serialization_format="pt2",
        pip_requirements=_requirements(),  # else MLflow loads the model in another process to infer them
        metadata={key: value for key, value in export.describe(trained, {}).items() if key not in FILE_METADATA},
    )
    # the weights were traced on the CPU and stay there; pyfunc's default is a GPU
    model.flavors[mlflow.pyfunc.FLAVOR_NAME][mlflow.pyfunc.MODEL_CONFIG] = {"device": "cpu"}
    model.save(str(folder / "MLmodel"))
    return model


def _requirements() -> list[str]:
    return [f"{package}=={version(package).partition('+')[0]}" for package in ("mlflow", "torch", "numpy")]


def _find(client: MlflowClient, run: Run) -> LoggedModel | None:
    query = f"name = '{NAME}' and source_run_id = '{run.info.run_id}'"
    models = client.search_logged_models([run.info.experiment_id], query, max_results=1)
    return models[0] if models else None


def _upload(client: MlflowClient, files: Files, run: Run, folder: Path, started: LoggedModel | None) -> LoggedModel:
    """Upload the model's files; `started` is the entry of an interrupted call."""
    with tempfile.TemporaryDirectory() as scratch:
        saved = Path(scratch) / NAME
        try:
            trained = export.read_trial(folder)
            with TRACING:
                model = save(trained, saved)
        except Exception as error:  # tracing raises many types
            raise MlflowRejectedError(f"it cannot be traced ({type(error).__name__}: {error})") from error
        entry = started or client.create_logged_model(
            run.info.experiment_id, NAME, run.info.run_id, labels(trained.record), searched(trained.record), NAME
        )
        model.run_id, model.model_id, model.model_uuid = run.info.run_id, entry.model_id, entry.model_id
        model.artifact_path = entry.artifact_location
        model.save(str(saved / "MLmodel"))
        files.log_model(entry.artifact_location, saved)
    return client.finalize_logged_model(entry.model_id, LoggedModelStatus.READY)


def _link(client: MlflowClient, run: Run, model: LoggedModel) -> None:
    """Link the model to its run, and copy the run's metrics to the model."""
    if not model.metrics:
        names = [name for name in run.data.metrics if not name.startswith(KNOB)][:MAX_POINTS]
        histories = [client.get_metric_history(run.info.run_id, name) for name in names]
        latest = [max(history, key=lambda point: (point.step, point.timestamp)) for history in histories]
        ids = {"model_id": model.model_id, "run_id": run.info.run_id}
        points = [Metric(point.key, point.value, point.timestamp, point.step, **ids) for point in latest]
        client.log_batch(run.info.run_id, metrics=points)
    shown = run.outputs.model_outputs if run.outputs else []
    if model.model_id not in {output.model_id for output in shown}:
        client.log_outputs(run.info.run_id, [LoggedModelOutput(model.model_id, step=0)])
