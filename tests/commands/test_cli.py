"""The commands as a user types them: real processes, a real Ray, a real MLflow store, small sweeps of digits."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import mlflow
import pytest
import torch
import yaml
from PIL import Image
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.storage.database_urls import sqlite_url
from ssl_sweep.trial.export import read

ROOT = Path(__file__).parents[2]
STORAGE = "runs?mode=ro 100% {x}#me@host:1"  # any folder can be a storage
SPEC: dict[str, Any] = {
    "name": "tiny",
    "data": {"source": "digits", "image_size": 8},
    "encoder": {"name": "resnet18", "width": 8},
    "method": "autoencoder",
    "pretrain": {"epochs": 2, "batch_size": 256, "optimizer": "adamw", "lr": 0.003},
    "evaluate": {"knn": {}, "linear": {"epochs": 2}},
    "precision": "fp32",
    "search": {"space": {"views.overlay_alpha": [0.0, 0.2]}, "seeds": 2, "objective": "maximize knn/top1_val"},
    "table": {"columns": ["knn/top1_test", "linear/top1_test"], "published": {"knn/top1_test": {0.2: 38.1}}},
}


def command(*words: object) -> list[str]:
    return [sys.executable, "-m", "ssl_sweep", *map(str, words)]


def ssl_sweep(*words: object, expect: int = 0) -> str:
    """A command in this process, which has imported everything already; what it printed, after its code was checked."""
    ran = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert ran.exit_code == expect, ran.output
    return ran.stdout if expect == 0 else ran.output


def run_sweep(spec: Path, storage: Path) -> str:
    """`ssl-sweep run` in a process of its own, to a good end; what it printed."""
    ran = subprocess.run(command("run", spec, "--storage", storage), capture_output=True, text=True, timeout=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@contextmanager
def started(*words: object) -> Iterator[subprocess.Popen[str]]:
    """`ssl-sweep` in a process of its own, which does not outlive the block, however that ends."""
    process = subprocess.Popen(command(*words), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=60)


def written(folder: Path, **changes: Any) -> Path:
    path = folder / "spec.yaml"
    path.write_text(yaml.safe_dump({**SPEC, **changes}, sort_keys=False))
    return path


def status(storage: Path) -> dict[str, Any]:
    counts: dict[str, Any] = json.loads(ssl_sweep("status", "tiny", "--storage", storage, "--json"))
    return counts


def child_runs(storage: Path) -> list[Any]:
    client = mlflow.MlflowClient(sqlite_url(storage / "mlflow.db"))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(experiments, max_results=1000)
    return [run for run in runs if "mlflow.parentRunId" in run.data.tags]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The storage of a sweep that ran undisturbed."""
    folder = tmp_path_factory.mktemp("finished")
    storage = folder / STORAGE
    printed = run_sweep(written(folder), storage)
    assert "4 of 4 trials complete" in printed
    for hint in ("ssl-sweep ui", "ssl-sweep table tiny --format tex", "ssl-sweep status tiny"):
        assert hint in printed
    return storage


def test_ledger_and_mlflow_agree(finished: Path) -> None:
    counted = status(finished)
    assert (counted["complete"], counted["total"], counted["failed"]) == (4, 4, 0)
    runs = child_runs(finished)
    assert len(runs) == 4
    assert {run.info.status for run in runs} == {"FINISHED"}
    by_id = {trial["trial_id"]: trial["results"] for trial in counted["trials"]}
    for run in runs:
        results = by_id[run.data.tags["ssl_sweep.trial_id"]]
        assert {name: run.data.metrics[name] for name in results} == results
        assert run.data.params["pretrain.lr"] == "0.003"
        assert "data.val_fraction" in run.data.params


def test_list_and_status(finished: Path) -> None:
    listed = json.loads(ssl_sweep("list", "--storage", finished, "--json"))
    assert [(sweep["name"], sweep["complete"]) for sweep in listed] == [("tiny", 4)]
    assert "tiny" in ssl_sweep("list", "--storage", finished)
    shown = ssl_sweep("status", "tiny", "--storage", finished)
    assert "complete 4" in shown
    assert "overlay_alpha=0.2" in shown


@pytest.mark.parametrize("form", ["md", "tex", "csv", "json", "html"])
def test_the_table_holds_the_means_that_the_ledger_gives(finished: Path, form: str) -> None:
    trials = [trial for trial in status(finished)["trials"] if trial["knobs"]["views.overlay_alpha"] == 0.2]
    mean = sum(trial["results"]["knn/top1_test"] for trial in trials) / 2
    printed = ssl_sweep("table", "tiny", "--format", form, "--storage", finished)
    assert (f"{mean:.1f}" if form in ("md", "tex", "html") else repr(mean)[:10]) in printed
    assert "38.1" in printed


@pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning")  # MLflow's, of its own modules
def test_the_best_encoder_is_a_model_in_mlflow_and_a_file(finished: Path, tmp_path: Path) -> None:
    printed = ssl_sweep("export", "tiny", tmp_path / "out.safetensors", "--storage", finished)
    client = mlflow.MlflowClient(sqlite_url(finished / "mlflow.db"))
    experiment = client.get_experiment_by_name("ssl_sweep/tiny").experiment_id
    (parent,) = client.search_runs([experiment], "tags.ssl_sweep.role = 'parent'")
    (model,) = client.search_logged_models([experiment])
    assert parent.data.tags["ssl_sweep.best_model"] == f"models:/{model.model_id}"
    assert parent.data.tags["ssl_sweep.best_trial"] in printed
    images = torch.rand(3, 3, 8, 8)
    with torch.no_grad():
        expected = read(tmp_path / "out.safetensors")(images)
    shown = mlflow.pyfunc.load_model(model.artifact_location).predict(images.numpy())
    torch.testing.assert_close(torch.from_numpy(shown), expected, atol=1e-5, rtol=0)


def test_a_finished_sweep_run_again_runs_nothing(finished: Path) -> None:
    before = {run.info.run_id for run in child_runs(finished)}
    assert "4 of 4 trials complete" in run_sweep(written(finished), finished)
    assert {run.info.run_id for run in child_runs(finished)} == before
    assert [trial["attempts"] for trial in status(finished)["trials"]] == [1] * 4


def test_a_copy_of_a_moved_storage_goes_on_by_itself(finished: Path, tmp_path: Path) -> None:
    moved, copy = tmp_path / "moved", tmp_path / "copy"
    shutil.copytree(finished, moved)  # the other tests need it where it is
    before = files_of(finished)
    shutil.copytree(moved, copy)
    assert "4 of 4 trials complete" in run_sweep(written(tmp_path), copy)
    assert files_of(finished) == before
    assert files_of(moved) == before
    ssl_sweep("report", "tiny", "--out", tmp_path / "page.html", "--storage", moved)
    assert files_of(moved) == before
    assert len(child_runs(copy)) == 4
    assert all(str(run.info.artifact_uri).startswith(copy.as_uri()) for run in child_runs(copy))


def files_of(storage: Path) -> dict[Path, bytes]:
    return {path.relative_to(storage): path.read_bytes() for path in storage.rglob("*") if path.is_file()}


def test_the_same_spec_in_another_storage_gives_the_same_metrics_to_the_last_digit(
    finished: Path, tmp_path: Path
) -> None:
    run_sweep(written(tmp_path), tmp_path)
    results = [
        [(trial["knobs"], trial["seed"], trial["results"]) for trial in status(storage)["trials"]]
        for storage in (finished, tmp_path)
    ]
    assert results[0] == results[1]


@pytest.mark.slow
def test_killed_half_way_and_started_again_no_trial_is_lost_and_none_is_twice(finished: Path, tmp_path: Path) -> None:
    """Slow: two starts of Ray, and a sweep in between."""
    spec = written(tmp_path)
    driver = subprocess.Popen(
        command("run", spec, "--storage", tmp_path), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    wait_for(lambda: len(list(tmp_path.glob("tiny/trials/*/stages.json"))) >= 2, driver)
    driver.kill()
    driver.communicate(timeout=60)
    assert status(tmp_path)["complete"] < 4
    run_sweep(spec, tmp_path)
    assert status(tmp_path)["complete"] == 4
    assert len(child_runs(tmp_path)) == 4
    expected = {run.data.params["views.overlay_alpha"] + run.data.params["seed"]: run for run in child_runs(finished)}
    for run in child_runs(tmp_path):
        undisturbed = expected[run.data.params["views.overlay_alpha"] + run.data.params["seed"]]
        assert run.info.status == "FINISHED"
        for name, value in undisturbed.data.metrics.items():
            assert "second" in name or run.data.metrics[name] == value  # times are the one thing that may differ


@pytest.mark.slow
def test_interrupted_it_stops_cleanly_and_says_how_to_go_on(tmp_path: Path) -> None:
    """Slow: it starts Ray, and the trials are long enough to be interrupted. SIGTERM: tests/faults."""
    spec = written(tmp_path, pretrain={**SPEC["pretrain"], "epochs": 100_000})
    with started("run", spec, "--storage", tmp_path) as driver:
        wait_for(lambda: len(list(tmp_path.glob("tiny/stages/*/checkpoint.pt"))) >= 1, driver)
        driver.send_signal(signal.SIGINT)
        printed, errors = driver.communicate(timeout=500)
    assert driver.returncode == 130, printed + errors
    assert "interrupted" in printed
    assert "ssl-sweep resume tiny" in printed
    assert "Traceback" not in errors
    counted = status(tmp_path)
    assert (counted["state"], counted["running"]) == ("INTERRUPTED", 0)
    assert counted["interrupted"] >= 1
    assert {run.info.status for run in child_runs(tmp_path)} == {"KILLED"}  # in MLflow nothing looks as if it ran on


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "nowhere.yaml"], "nowhere.yaml"),
        (["status", "nothing"], "no sweep named 'nothing'"),
        (["table", "nothing"], "no MLflow store at"),
        (["resume", "nothing"], "no sweep named 'nothing'"),
    ],
)
def test_a_users_mistake_is_one_message_and_exit_code_2(tmp_path: Path, words: list[str], said: str) -> None:
    place = ["--storage", tmp_path] if words[0] != "run" else []
    printed = ssl_sweep(*words, *place, expect=2)
    assert said in printed
    assert "Traceback" not in printed


def test_every_mistake_of_a_spec_is_told_at_once(tmp_path: Path) -> None:
    spec = written(tmp_path, views={"overlay_alpha": 0.7}, pretrain={"epoch": 2})
    printed = ssl_sweep("run", spec, "--storage", tmp_path, expect=2)
    assert "overlay_alpha" in printed
    assert "dominate" in printed
    assert "epochs" in printed
    assert not (tmp_path / "ledger.db").exists()


def test_missing_data_is_told_before_anything_starts(tmp_path: Path) -> None:
    spec = written(tmp_path, data={"source": "imagefolder:nowhere", "image_size": 8})
    assert "nowhere" in ssl_sweep("run", spec, "--storage", tmp_path, expect=2)
    assert not (tmp_path / "ledger.db").exists()


def test_a_source_without_labels_is_no_aim_of_a_transfer(tmp_path: Path) -> None:
    for number in range(10):
        path = tmp_path / "flat" / f"{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8), number).save(path)
    spec = written(tmp_path, evaluate={**SPEC["evaluate"], "transfer": {"sources": ["imagefolder:flat"]}})
    said = " ".join(ssl_sweep("run", spec, "--storage", tmp_path, expect=2).split())
    assert "evaluate.transfer: no training image of 'imagefolder:flat' has a label; name a set with labels" in said
    assert not (tmp_path / "ledger.db").exists()


def test_missing_boxes_are_told_before_anything_starts(tmp_path: Path) -> None:
    spec = written(tmp_path, evaluate={**SPEC["evaluate"], "detection": {"source": "voc:nowhere"}})
    printed = " ".join(ssl_sweep("run", spec, "--storage", tmp_path, expect=2).split())
    assert "evaluate.detection.source: 'voc:nowhere': " in printed
    assert "is not a folder; give an absolute folder" in printed
    assert not (tmp_path / "ledger.db").exists()


def test_plan_counts_what_will_run(tmp_path: Path) -> None:
    search = {**SPEC["search"], "space": {"evaluate.linear.lr": [0.1, 0.3, 1.0]}}
    spec = written(tmp_path, search=search, table={})
    planned = json.loads(ssl_sweep("plan", spec, "--json"))
    assert (planned["trials"], planned["choices"], planned["pretrains"]) == (6, 3, 2)
    assert (planned["pretrain_epochs"], planned["evaluation_epochs"]) == (4, {"linear": 12})
    assert "6  (3 choices x 2 seeds)" in ssl_sweep("plan", spec)
    assert "does not fit: a trial wants 4096 CPU" in ssl_sweep("plan", spec, "--set", "resources.cpus=4096")


def test_plan_counts_the_images_where_they_are(tmp_path: Path) -> None:
    spec = written(tmp_path)
    counts = {"train_images": 1294, "val_images": 144, "test_images": 359, "classes": 10, "unlabelled": 0}
    found = json.loads(ssl_sweep("plan", spec, "--json"))["data"]
    assert found == {
        **counts,
        "pretrained_on": [counts["train_images"]],
        "lacking": [],
        "warnings": [],
        "labelled": None,
    }
    assert "1,294 to train on, 144 for validation, 359 for testing, of 10 classes\n" in ssl_sweep("plan", spec)
    with_queue = ("plan", spec, "--set", "method=moco")
    assert json.loads(ssl_sweep(*with_queue, "--json"))["sizes"] == {"moco": {"queue_size": [1280]}}
    assert re.search(r"sizes +queue_size 1280, of 1294 training images *\n", ssl_sweep(*with_queue))
    printed = ssl_sweep("plan", spec, "--set", "data.source=imagefolder:nowhere")
    assert "6  (" not in printed
    assert "4  (2 choices x 2 seeds)" in printed
    assert "run would refuse this, as its images are not here: data.source: 'imagefolder:nowhere': " in printed
    assert len([line for line in printed.splitlines() if "nowhere" in line]) == 1


def test_plan_refuses_images_that_are_here_and_wrong(tmp_path: Path) -> None:
    spec = written(tmp_path)
    printed = ssl_sweep("plan", spec, "--set", "data.classes=['0', ten]", expect=2)
    assert printed.startswith("data.classes: 'ten' is not a class of these images")
    printed = ssl_sweep("plan", spec, "--set", f"data.source=imagefolder:{tmp_path}", "--json", expect=2)
    assert printed.startswith(f"data.source: {tmp_path}: no class folders here")


def test_images_without_labels_are_pretrained_on_and_not_judged_by(tmp_path: Path) -> None:
    for number in range(30):
        Image.new("L", (8, 8), number).save(tmp_path / f"{number}.png")
    spec = written(tmp_path, data={"source": "imagefolder:.", "labelled": "digits", "image_size": 8})
    printed = ssl_sweep("plan", spec)
    assert "30 to train on, without labels" in printed
    assert "evaluated on  1,294 to train on, 144 for validation, 359 for testing, of 10 classes\n" in printed
    for words in (("plan", spec), ("run", spec, "--storage", tmp_path)):
        said = ssl_sweep(*words, "--set", "data.labelled=null", expect=2).splitlines()
        assert [line.partition(":")[0] for line in said] == ["evaluate.knn", "evaluate.linear"]
        assert all(
            line.endswith("name images with labels, as data.labelled: imagefolder:DIR, or use label_free")
            for line in said
        )
    assert not (tmp_path / "ledger.db").exists()
    alone = ("--set", "data.labelled=null", "--set", "evaluate={label_free: {}}", "--set", "table={}")
    printed = ssl_sweep("plan", spec, *alone, "--set", "search.objective=maximize label_free/lidar_val")
    assert "22 to train on, 2 for validation, 6 for testing, without labels\n" in printed
    assert "data: health measures no knn_top1_val, which needs labels: no image of 'imagefolder:.' has one" in printed


@pytest.mark.parametrize("spec", sorted((ROOT / "experiments").rglob("*.yaml")), ids=lambda path: path.stem)
def test_every_experiment_passes_plan_without_its_data(spec: Path) -> None:
    planned = ssl_sweep("plan", spec, "--json")
    assert json.loads(planned)["trials"] > 0


def test_schema_and_doctor(tmp_path: Path) -> None:
    assert json.loads(ssl_sweep("schema"))["properties"]["method"]
    ssl_sweep("schema", tmp_path / "schema.json")
    assert json.loads((tmp_path / "schema.json").read_text())["properties"]["search"]
    checks = json.loads(ssl_sweep("doctor", "--storage", tmp_path, "--json"))
    assert all(check["ok"] for check in checks)
    assert {"torch", "devices", "storage", "ledger"} <= {check["check"] for check in checks}


def test_ui_serves_mlflow_on_loopback(finished: Path) -> None:
    import socket
    import urllib.request

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(
        command("ui", "--storage", finished, "--port", port),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:

        def answers() -> bool:
            try:
                return urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).status == 200
            except OSError:
                return False

        wait_for(answers, server)
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        printed = server.communicate(timeout=30)[0]
    assert f"http://127.0.0.1:{port}" in printed


def wait_for(condition: Any, process: subprocess.Popen[Any], seconds: float = 180) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)
