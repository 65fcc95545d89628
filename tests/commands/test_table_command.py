import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.tracking.recorder import Recorder
from ssl_sweep.trialdir.events import AttemptStarted, Ended, StageFinished
from ssl_sweep.trialdir.journal import Journal

TEST = "knn/top1_test"
ALPHA = "views.overlay_alpha"
SCORES = {"overlay": {0.0: [50.0, 52.0, 51.0], 0.3: [55.0, 56.9, 56.1]}, "moco": {0.0: [60.0, 61.0, 62.0]}}


def make_spec(name: str, method: str) -> SweepSpec:
    return SweepSpec.model_validate(
        {
            "name": name,
            "data": {"source": "digits", "image_size": 8},
            "encoder": "resnet18",
            "method": method,
            "evaluate": {"knn": {}},
            "search": {"space": {ALPHA: list(SCORES[name])}, "seeds": 3},
            "table": {"published": {TEST: {"0.0": 37.1}}},
        }
    )


def write_sweep(storage: Storage, name: str, method: str, uri: str) -> None:
    """A finished sweep in the ledger and in MLflow, as its driver and workers leave it."""
    spec = make_spec(name, method)
    ledger = open_ledger(storage.ledger_url, spec)
    while choice := ledger.ask():
        for trial, score in zip(choice.trials, SCORES[name][choice.knobs[ALPHA]], strict=True):
            folder = storage.trial(name, trial.trial_id)
            ledger.record(trial).write(folder)
            journal = Journal(folder)
            journal.append(AttemptStarted(attempt=1, host="node7", pid=1, git_commit=None, versions={}))
            results = {"top1_val": score - 1, "top1_test": score}
            journal.append(StageFinished(stage="knn", key="k", seconds=1.0, results=results))
            journal.append(Ended(state="COMPLETE", reason=None, message=None, traceback=None))
            named = {f"knn/{metric}": value for metric, value in results.items()}
            ledger.update(replace(trial, state="COMPLETE", attempts=1, results=named))
    recorder = Recorder(name, storage.sweep(name), uri, spec.model_dump(mode="json"))
    recorder.start()
    assert recorder.close(120.0) == 0


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Storage:
    """Two sweeps, the second of which has an MLflow store of its own."""
    folder = tmp_path_factory.mktemp("runs")
    made = FolderStorage(folder)
    shutil.copy(empty_store, made.tracking_uri.removeprefix("sqlite:///"))
    shutil.copy(empty_store, folder / "other.db")
    other = f"sqlite:///{folder / 'other.db'}"
    write_sweep(made, "overlay", "autoencoder", made.tracking_uri)
    write_sweep(made, "moco", "moco", other)
    (made.sweep("moco") / "spec.yaml").write_text(yaml.safe_dump({"tracking": {"uri": other}}))
    return made


def table(storage: Storage, *words: str) -> str:
    ran = CliRunner().invoke(app, ["table", *words, "--storage", str(storage.root)])
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def records(storage: Storage, *words: str) -> list[dict[str, Any]]:
    return list(json.loads(table(storage, *words, "--format", "json"))["rows"])


def test_a_sweep_as_its_spec_wants_it(storage: Storage) -> None:
    found = records(storage, "overlay")
    assert [(row[ALPHA], row[TEST]["mean"], row[TEST]["published"]) for row in found] == [
        (0.0, 51.0, 37.1),
        (0.3, pytest.approx(56.0), None),
    ]


def test_options_rule_over_the_spec(storage: Storage) -> None:
    words = ["--rows", f"method.name, {ALPHA}", "--columns", "knn/top1_val", "--interval", "t"]
    found = records(storage, "overlay", *words, "--baseline", "autoencoder, 0", "--test", "wilcoxon")
    assert [(row["method.name"], row[ALPHA], row["knn/top1_val"]["p"]) for row in found] == [
        ("autoencoder", 0.0, None),
        ("autoencoder", 0.3, 0.25),
    ]
    assert found[0]["knn/top1_val"]["low"] < 50.0 < found[0]["knn/top1_val"]["high"]


def test_several_sweeps_of_several_stores(storage: Storage) -> None:
    found = records(storage, "overlay", "moco")
    assert [(row["sweep"], row[ALPHA], row[TEST]["published"]) for row in found] == [
        ("overlay", 0.0, 37.1),
        ("overlay", 0.3, None),
        ("moco", 0.0, 37.1),
    ]
    best = table(storage, "overlay", "moco", "--group-by", "sweep", "--rows", f"method.name,{ALPHA}")
    assert "| overlay | autoencoder |           0.3 |" in best


def test_mistakes_are_said_in_a_line(storage: Storage) -> None:
    for words, text in (
        (["overlay", "--rows", "views.overlay_alhpa"], "did you mean 'views.overlay_alpha'?"),
        (["overlay", "mocco"], "no sweep 'mocco' in MLflow"),
        (["overlay", "--interval", "sem"], "'sem' is not one of"),
    ):
        ran = CliRunner().invoke(app, ["table", *words, "--storage", str(storage.root)])
        assert ran.exit_code == 2
        assert text in " ".join(ran.output.split())
