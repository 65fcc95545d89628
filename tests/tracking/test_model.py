"""Encoders as MLflow models: logged by the recorder into a real store, loaded by MLflow, held against our own."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import LoggedModel, LoggedModelStatus
from mlflow.exceptions import MlflowException

from ssl_sweep.models.encoders import ENCODERS, Encoder, build_encoder
from ssl_sweep.tracking import locations, reader
from ssl_sweep.tracking.model import mlflow, save
from ssl_sweep.tracking.recorder import Recorder, sync
from ssl_sweep.trial.export import Trained, read_trial, write
from ssl_sweep.trialdir import checkpoint
from ssl_sweep.trialdir.events import AttemptStarted, BestTrialChosen, DescriptionSet, Ended
from ssl_sweep.trialdir.journal import Journal
from ssl_sweep.trialdir.record import TrialRecord

# MLflow 3.17 uses a loader that SQLAlchemy 2.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


@pytest.fixture(autouse=True)
def _no_pickle(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a careful user sets it: MLflow then refuses to unpickle anything."""
    monkeypatch.setenv("MLFLOW_ALLOW_PICKLE_DESERIALIZATION", "false")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "demo").mkdir()
    return tmp_path / "demo"


def config_of(**encoder: Any) -> dict[str, Any]:
    return {"encoder": encoder, "method": {"name": "moco"}, "data": {"source": "digits", "image_size": 16}}


def add_trial(folder: Path, seed: int) -> Encoder:
    """A trial that has ended well and left an encoder, the one that is traced most quickly."""
    torch.manual_seed(seed)
    built = ENCODERS["drlim"](16, dim=8)
    trial = folder / "trials" / f"uuid-{seed}"
    config = config_of(name="drlim", dim=8)
    record = {"trial_id": trial.name, "sweep": "demo", "choice": 0, "seed": seed, "knobs": {"method.dim": 64}}
    checkpoint.save(trial / "encoder.pt", {"encoder": built.state_dict()})
    (trial / "config.yaml").write_text(yaml.safe_dump({**record, "config": config}))
    journal = Journal(trial)
    journal.append(AttemptStarted(attempt=1))
    journal.report({"knn/top1_val": 40.0 + seed}, 0)
    journal.report({"knn/top1_val": 50.0 + seed}, 1)
    journal.append(Ended(state="COMPLETE"))
    return built.eval()


def name_best(folder: Path, seed: int) -> None:
    Journal(folder).append(BestTrialChosen(trial=f"uuid-{seed}"))


def models_of(uri: str) -> list[LoggedModel]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("ssl_sweep/demo")
    assert experiment is not None
    return list(client.search_logged_models([experiment.experiment_id]))


def tags_of(uri: str) -> dict[str, dict[str, str]]:
    """The tags of each run by the run's trial; those of the parent under its sweep."""
    client = MlflowClient(uri)
    runs = client.search_runs([client.get_experiment_by_name("ssl_sweep/demo").experiment_id])
    tags = [{key.removeprefix("ssl_sweep."): value for key, value in run.data.tags.items()} for run in runs]
    return {each.get("trial_id", each["sweep"]): each for each in tags}


@torch.no_grad()
def features(encoder: Encoder, images: np.ndarray) -> np.ndarray:
    expected: np.ndarray = encoder(torch.from_numpy(images)).numpy()
    return expected


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "resnet18", "width": 8, "stem": "imagenet", "normalize": "imagenet"},
        {"name": "vit_tiny", "pool": "mean"},
        {"name": "exemplar"},
        {"name": "timm/test_resnet", "normalize": "imagenet"},
    ],
)
def test_both_flavours_give_our_features_for_any_batch(
    tmp_path: Path, settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_DEFAULT_PREDICTION_DEVICE", "cuda")  # as MLflow decides where there is a GPU
    encoder = build_encoder(settings, 16).eval()
    save(Trained(encoder, TrialRecord("one", config=config_of(**settings))), tmp_path / "model")
    shown = mlflow.pyfunc.load_model(str(tmp_path / "model"))
    module = mlflow.pytorch.load_model(str(tmp_path / "model"))
    for batch in (1, 2, 5):
        images = np.random.default_rng(batch).random((batch, 3, 16, 16), dtype=np.float32)
        expected = features(encoder, images)
        np.testing.assert_allclose(shown.predict(images), expected, atol=1e-5)
        np.testing.assert_allclose(module(torch.from_numpy(images)).detach().numpy(), expected, atol=1e-5)
    assert shown.metadata.signature.inputs.inputs[0].shape == (-1, 3, 16, 16)
    assert shown.metadata.signature.outputs.inputs[0].shape == (-1, encoder.feature_dim)
    assert shown.predict(shown.input_example).shape == (2, encoder.feature_dim)
    with pytest.raises(MlflowException, match="Shape of input"):
        shown.predict(np.zeros((1, 3, 17, 17), dtype=np.float32))


def test_a_model_holds_no_pickle_of_code(tmp_path: Path) -> None:
    save(Trained(ENCODERS["drlim"](16).eval(), TrialRecord("one", config=config_of(name="drlim"))), tmp_path / "model")
    assert not [path for path in tmp_path.rglob("*") if path.suffix in (".pkl", ".pth", ".pickle", ".py")]
    with zipfile.ZipFile(tmp_path / "model" / "data" / "model.pt2") as archive:
        pickled = {name: archive.read(name) for name in archive.namelist() if name.endswith(".pt")}
    assert list(pickled) == ["model/data/sample_inputs/model.pt"]
    (tmp_path / "inputs.pt").write_bytes(*pickled.values())
    torch.load(tmp_path / "inputs.pt", weights_only=True)  # tensors and containers only, or it raises


def test_the_best_becomes_a_model_once(folder: Path, uri: str) -> None:
    for seed in range(2):
        add_trial(folder, seed)
    name_best(folder, 1)
    sync("demo", folder, uri)
    (model,) = models_of(uri)
    assert (model.name, model.status, model.model_type) == ("encoder", LoggedModelStatus.READY, "encoder")
    assert model.params == {"method.dim": "64"}
    assert {metric.key: metric.value for metric in model.metrics} == {"knn/top1_val": 51.0}
    tags = tags_of(uri)
    assert (tags["demo"]["best_trial"], tags["demo"]["best_model"]) == ("uuid-1", f"models:/{model.model_id}")
    assert tags["uuid-1"]["model"] == f"models:/{model.model_id}"
    assert "model" not in tags["uuid-0"]
    before = reader.runs(["demo"], uri), reader.histories("demo", uri)
    assert list(before[1]["value"]) == [40.0, 50.0, 41.0, 51.0]  # the model's metrics are no second report
    sync("demo", folder, uri)
    recorder = Recorder("demo", folder, uri, {})
    recorder.start()
    recorder.log_best("uuid-1")
    assert recorder.close(60) == 0
    assert [each.model_id for each in models_of(uri)] == [model.model_id]
    run = MlflowClient(uri).get_run(model.source_run_id)
    assert [output.model_id for output in run.outputs.model_outputs] == [model.model_id]
    assert len(reader.histories("demo", uri)) == len(before[1])


def test_all_complete_trials_become_models(folder: Path, uri: str) -> None:
    for seed in range(2):
        add_trial(folder, seed)
    failed = add_trial(folder, 2)
    Journal(folder / "trials" / "uuid-2").append(Ended(state="FAILED", reason="crash"))
    (folder / "trials" / "uuid-1" / "encoder.pt").unlink()  # a method that does not pretrain
    recorder = Recorder("demo", folder, uri, {"tracking": {"models": "all"}})
    recorder.start()
    assert recorder.close(60) == 0
    assert failed is not None
    assert sorted(key for key, tags in tags_of(uri).items() if "model" in tags) == ["uuid-0"]


def test_no_trial_becomes_a_model(folder: Path, uri: str) -> None:
    add_trial(folder, 0)
    (folder / "spec.yaml").write_text(yaml.safe_dump({"tracking": {"models": "none"}}))
    name_best(folder, 0)
    sync("demo", folder, uri)
    assert models_of(uri) == []


def test_an_encoder_that_cannot_be_read_holds_up_nothing(
    folder: Path, uri: str, caplog: pytest.LogCaptureFixture
) -> None:
    add_trial(folder, 0)
    (folder / "trials" / "uuid-0" / "encoder.pt").write_bytes(b"spoilt")
    name_best(folder, 0)
    Journal(folder).append(DescriptionSet(text="after it"))
    sync("demo", folder, uri)
    assert models_of(uri) == []
    assert "the encoder of trial uuid-0 is not logged as a model: it cannot be traced (CheckpointError" in caplog.text
    assert MlflowClient(uri).get_run(parent_id(uri)).data.tags["mlflow.note.content"] == "after it"


def parent_id(uri: str) -> str:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("ssl_sweep/demo").experiment_id
    (run,) = client.search_runs([experiment], "tags.ssl_sweep.role = 'parent'")
    return str(run.info.run_id)


def test_a_model_whose_upload_was_cut_off_is_finished(folder: Path, uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    encoder = add_trial(folder, 0)
    name_best(folder, 0)

    def away(*_: Any) -> None:
        raise MlflowException("the server went away")

    with monkeypatch.context() as patched:
        patched.setattr(locations.Files, "log_model", away)
        with pytest.raises(MlflowException, match="went away"):
            sync("demo", folder, uri)
    (begun,) = models_of(uri)
    assert begun.status == LoggedModelStatus.PENDING
    sync("demo", folder, uri)
    (model,) = models_of(uri)
    assert (model.model_id, model.status) == (begun.model_id, LoggedModelStatus.READY)
    images = np.random.default_rng(0).random((3, 3, 16, 16), dtype=np.float32)
    loaded = mlflow.pyfunc.load_model(model.artifact_location)
    np.testing.assert_allclose(loaded.predict(images), features(encoder, images), atol=1e-5)


def test_a_deleted_trial_run_comes_back_with_its_model(folder: Path, uri: str) -> None:
    add_trial(folder, 0)
    name_best(folder, 0)
    sync("demo", folder, uri)
    before = reader.runs(["demo"], uri)
    (model,) = models_of(uri)
    MlflowClient(uri).delete_run(model.source_run_id)
    sync("demo", folder, uri)
    runs = reader.runs(["demo"], uri)
    assert runs["knn/top1_val"].tolist() == before["knn/top1_val"].tolist()
    assert {each.source_run_id for each in models_of(uri)} > {model.source_run_id}


# as the README has them: FILE is an exported file, MODEL the parent run's tag `ssl_sweep.best_model`
READ_FILE = """\
from ssl_sweep.trial.export import read

features = read(FILE)(images)  # images (B, 3, S, S) in [0, 1] -> (B, D)
"""
READ_MODEL = """\
import mlflow

features = mlflow.pyfunc.load_model(MODEL).predict(images.numpy())  # (B, D), without ssl_sweep
"""


@torch.no_grad()
def test_the_readmes_lines_give_features(
    folder: Path, uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder = add_trial(folder, 0)
    name_best(folder, 0)
    sync("demo", folder, uri)
    write(read_trial(folder / "trials" / "uuid-0"), tmp_path / "out.safetensors", {})
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    images = torch.rand(3, 3, 16, 16)
    names = {"FILE": str(tmp_path / "out.safetensors"), "MODEL": tags_of(uri)["demo"]["best_model"], "images": images}
    for lines in (READ_FILE, READ_MODEL):
        ran: dict[str, Any] = dict(names)
        exec(lines, ran)
        torch.testing.assert_close(torch.as_tensor(ran["features"]), encoder(images), atol=1e-5, rtol=0)


def test_the_readme_has_these_lines() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    blocks = re.findall(r"```python\n(.*?)```", readme, flags=re.DOTALL)
    loading = [block for block in blocks if "features = " in block and "class " not in block]
    assert [block for block in loading if block not in (READ_FILE, READ_MODEL, READ_FILE + READ_MODEL)] == []


LOAD = """
import json, sys
sys.modules["ssl_sweep"] = None  # as if it were not installed
import mlflow, numpy as np
images = np.load(sys.argv[1])
loaded = [mlflow.pyfunc.load_model(uri).predict(images) for uri in sys.argv[2:4]]
assert np.array_equal(*loaded)
np.save(sys.argv[4], loaded[0])
"""


@pytest.mark.slow  # a process of its own imports MLflow and torch
def test_a_model_loads_by_its_address_without_this_package(folder: Path, uri: str, tmp_path: Path) -> None:
    encoder = add_trial(folder, 0)
    name_best(folder, 0)
    sync("demo", folder, uri)
    (model,) = models_of(uri)
    images = np.random.default_rng(0).random((4, 3, 16, 16), dtype=np.float32)
    np.save(tmp_path / "images.npy", images)
    addresses = [tags_of(uri)["demo"]["best_model"], f"runs:/{model.source_run_id}/encoder"]
    shutil.rmtree(folder)  # nor does it need the sweep's folder
    environment = {**os.environ, "MLFLOW_TRACKING_URI": uri}
    command = [sys.executable, "-c", LOAD, tmp_path / "images.npy", *addresses, tmp_path / "features.npy"]
    subprocess.run(list(map(str, command)), env=environment, check=True, timeout=300, cwd=tmp_path)
    np.testing.assert_allclose(np.load(tmp_path / "features.npy"), features(encoder, images), atol=1e-5)
