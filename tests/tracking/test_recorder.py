import logging
import math
import re
import shutil
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
import pytest
import torch
import yaml
from mlflow import MlflowClient
from mlflow.entities import Run
from servers import Mlflow, eventually, free_port

from ssl_sweep.models.encoders import ENCODERS
from ssl_sweep.storage.urls import redacted
from ssl_sweep.tables.ablation import ablation
from ssl_sweep.tracking import reader
from ssl_sweep.tracking.recorder import Recorder, sync
from ssl_sweep.tracking.writer import RunDeletedError, SweepRuns
from ssl_sweep.trialdir import checkpoint
from ssl_sweep.trialdir.events import ArtifactAdded, AttemptStarted, Ended, MetricsReported, StageFinished, TagsSet
from ssl_sweep.trialdir.journal import Journal

# MLflow 3.17 uses a loader that SQLAlchemy 2.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")

SPEC = {
    "name": "demo",
    "data": {"source": "digits"},
    "method": {"name": "moco", "momentum": 0.99},
    "search": {"objective": "maximize finetune/top1_val"},
    "table": {"published": {"finetune/top1_test": {0.3: 38.1}}},
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "demo").mkdir()
    return tmp_path / "demo"


def begin_trial(
    folder: Path, choice: int, seed: int, config: dict[str, Any] | None = None, attempt: int = 1
) -> Journal:
    """A trial that has reported two epochs of pretraining."""
    name = f"uuid-{choice}-{seed}"
    alpha = [0.0, 0.1, 0.3][choice % 3]
    sections = {
        "data": {"source": "digits", "short_side": None},
        "method": {"name": "moco", "sizes": [1, 2]},
        "encoder": {"name": "resnet18"},
        "views": {"overlay_alpha": alpha, "auto_augment": True},
        "seed": seed,
    }
    known = {"trial_id": name, "sweep": "demo", "choice": choice, "seed": seed, "knobs": {"views.overlay_alpha": alpha}}
    trial = folder / "trials" / name
    trial.mkdir(parents=True, exist_ok=True)
    (trial / "config.yaml").write_text(yaml.safe_dump({**known, "config": {**sections, **(config or {})}}))
    journal = Journal(trial)
    commit = "c0ffee"
    journal.append(AttemptStarted(attempt=attempt, host="node7", pid=1, git_commit=commit, versions={"torch": "2.11"}))
    for step in range(2):
        journal.report({"pretrain/loss": 1.0 / (1 + step + choice), "pretrain/odd": [math.nan, math.inf][step]}, step)
    return journal


def end_trial(journal: Journal, top1: float = 50.0) -> None:
    folder = journal.path.parent
    (folder / "artifacts").mkdir(exist_ok=True)
    (folder / "artifacts" / "reconstruction.png").write_bytes(b"picture")
    journal.append(ArtifactAdded(path="artifacts/reconstruction.png"))
    journal.report({"finetune/top1_test": top1 - 1}, 0)
    journal.report({"finetune/top1_test": top1}, 1)
    journal.append(StageFinished(stage="finetune", key="k1", seconds=2.5, results={"top1_test": top1}))
    journal.append(StageFinished(stage="knn", key="k2", seconds=0.5, results={"top1_test": top1 - 10}))
    journal.append(Ended(state="COMPLETE", reason=None, message=None, traceback=None))


def fail_trial(journal: Journal) -> None:
    journal.append(Ended(state="FAILED", reason="oom", message="out of memory", traceback="Traceback: out of memory"))


def make_sweep(folder: Path) -> None:
    for choice in range(3):
        for seed in range(2):
            end_trial(begin_trial(folder, choice, seed), 50.0 + choice + seed)


def runs_of(uri: str, sweep: str = "demo") -> dict[str, Run]:
    """All runs of a sweep's experiment, by name."""
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(f"ssl_sweep/{sweep}")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id])
    assert len({run.info.run_name for run in found}) == len(found)
    return {run.info.run_name: run for run in found}


def history(uri: str, run: Run, name: str) -> list[tuple[int, float]]:
    return sorted((point.step, point.value) for point in MlflowClient(uri).get_metric_history(run.info.run_id, name))


def files_of(uri: str, run: Run) -> set[str]:
    return {file.path for file in MlflowClient(uri).list_artifacts(run.info.run_id)}


def test_every_name_in_mlflow_is_documented(folder: Path, uri: str) -> None:
    end_trial(begin_trial(folder, 1, 0))
    recorder = Recorder("demo", folder, uri, SPEC)
    recorder.start()
    recorder.log_best("uuid-1-0")
    assert recorder.close(60) == 0
    page = (Path(__file__).parents[2] / "dashboards" / "README.md").read_text()
    schema = page.split("\n## What MLflow holds\n")[1].split("\n## ")[0]
    names = set(re.findall(r"`([^`]+)`", schema))
    tags = {tag for run in runs_of(uri).values() for tag in run.data.tags if tag.startswith("ssl_sweep.")}
    assert {"ssl_sweep.role", "ssl_sweep.best_trial", "ssl_sweep.knob.views.overlay_alpha"} <= tags
    assert [tag for tag in tags if not {tag, tag.removeprefix("ssl_sweep.")} & names and "knob." not in tag] == []


def test_a_sweep_is_a_parent_run_with_a_child_a_trial(folder: Path, uri: str) -> None:
    make_sweep(folder)
    assert sync("demo", folder, uri) == 6 * 9
    runs = runs_of(uri)
    parent, child = runs["demo"], runs["overlay_alpha=0.3 seed=1"]
    assert len(runs) == 7
    assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert child.info.status == "FINISHED"
    assert child.data.params == {
        "data.source": "digits",
        "data.short_side": "null",
        "method.name": "moco",
        "method.sizes": "[1, 2]",
        "encoder.name": "resnet18",
        "views.overlay_alpha": "0.3",
        "views.auto_augment": "true",
        "seed": "1",
    }
    tags = {
        name: child.data.tags[f"ssl_sweep.{name}"]
        for name in ("trial_id", "choice", "seed", "attempt", "host", "state")
    }
    assert list(tags.values()) == ["uuid-2-1", "2", "1", "1", "node7", "COMPLETE"]
    assert child.data.tags["mlflow.source.git.commit"] == "c0ffee"
    picked = ("method", "encoder", "data", "knob.views.overlay_alpha")
    assert [child.data.tags.get(f"ssl_sweep.{name}") for name in picked] == ["moco", "resnet18", "digits", "0.3"]
    assert files_of(uri, child) == {"config.yaml", "reconstruction.png"}


def test_metrics_keep_their_time_and_a_stage_adds_what_it_did_not_report(folder: Path, uri: str) -> None:
    journal = begin_trial(folder, 0, 0)
    journal.append(MetricsReported(metrics={"pretrain/loss": 0.25}, step=2, time=1234.5))
    end_trial(journal)
    sync("demo", folder, uri)
    run = runs_of(uri)["overlay_alpha=0.0 seed=0"]
    assert history(uri, run, "pretrain/loss") == [(0, 1.0), (1, 0.5), (2, 0.25)]
    assert MlflowClient(uri).get_metric_history(run.info.run_id, "pretrain/loss")[0].timestamp == 1_234_500
    assert history(uri, run, "finetune/top1_test") == [(0, 49.0), (1, 50.0)]
    assert history(uri, run, "knn/top1_test") == [(0, 40.0)]
    assert history(uri, run, "finetune/seconds") == [(0, 2.5)]


def test_delivered_again_nothing_doubles(folder: Path, uri: str) -> None:
    make_sweep(folder)
    sync("demo", folder, uri)
    before = reader.runs(["demo"], uri)
    (folder / "recorded.json").unlink()
    assert sync("demo", folder, uri) == 6 * 9
    pd.testing.assert_frame_equal(reader.runs(["demo"], uri), before)
    for name, run in runs_of(uri).items():
        if name != "demo":
            for metric in run.data.metrics:
                steps = [step for step, _ in history(uri, run, metric)]
                assert steps == sorted(set(steps)), (name, metric)


def test_runs_are_typed_rows_in_the_order_of_choices(folder: Path, uri: str) -> None:
    make_sweep(folder)
    begin_trial(folder, 3, 0, {"method": {"name": "0.5x", "sizes": [1]}})
    runs_before = time.time()
    sync("demo", folder, uri)
    found = reader.runs(["demo"], uri)
    assert list(found["trial_id"]) == [f"uuid-{c}-{s}" for c in range(3) for s in range(2)] + ["uuid-3-0"]
    assert found["views.overlay_alpha"].tolist() == [0.0, 0.0, 0.1, 0.1, 0.3, 0.3, 0.0]
    assert found["views.auto_augment"].tolist() == [True] * 7
    assert found["method.name"].tolist() == ["moco"] * 6 + ["0.5x"]
    assert found["data.short_side"].isna().all()
    assert found["seed"].tolist() == [0, 1, 0, 1, 0, 1, 0]
    assert found["finetune/top1_test"].tolist()[:6] == [50.0, 51.0, 51.0, 52.0, 52.0, 53.0]
    assert math.isnan(found["finetune/top1_test"].iloc[6])
    assert found["pretrain/odd"].tolist() == [math.inf] * 7
    assert found["state"].tolist() == ["COMPLETE"] * 6 + ["RUNNING"]
    assert found["end"].isna().tolist() == [False] * 6 + [True]
    assert abs(found["start"].iloc[0].timestamp() - runs_before) < 60
    table = ablation(found, rows=["views.overlay_alpha"], columns=["finetune/top1_test"])
    assert [row.cells[0].mean for row in table.body] == [50.5, 51.5, 52.5]


def test_histories_are_all_that_was_reported(folder: Path, uri: str) -> None:
    make_sweep(folder)
    sync("demo", folder, uri)
    found = reader.histories("demo", uri)
    assert list(found.columns) == ["trial_id", "name", "step", "value", "time"]
    assert list(found["trial_id"].unique()) == [f"uuid-{c}-{s}" for c in range(3) for s in range(2)]
    one = found[found["trial_id"] == "uuid-2-1"]
    reported = [("finetune/seconds", 0, 2.5), ("finetune/top1_test", 0, 52.0), ("finetune/top1_test", 1, 53.0)]
    reported += [("knn/seconds", 0, 0.5), ("knn/top1_test", 0, 43.0), ("pretrain/loss", 0, 1 / 3)]
    reported += [("pretrain/loss", 1, 0.25), ("pretrain/odd", 0, math.nan), ("pretrain/odd", 1, math.inf)]
    expected = pd.DataFrame(reported, columns=["name", "step", "value"])
    pd.testing.assert_frame_equal(one[["name", "step", "value"]].reset_index(drop=True), expected, check_dtype=False)
    assert (pd.Timestamp.now("UTC") - found["time"]).dt.total_seconds().between(0, 60).all()
    chosen = reader.histories("demo", uri, ["pretrain/loss", "none/such"])
    assert set(chosen["name"]) == {"pretrain/loss"}
    assert len(chosen) == 12
    assert reader.histories("demo", uri, []).empty


def test_histories_of_a_sweep_without_trials_have_their_types(folder: Path, uri: str) -> None:
    Journal(folder).append(AttemptStarted())
    sync("demo", folder, uri)
    found = reader.histories("demo", uri)
    assert [str(kind) for kind in found.dtypes[["step", "value"]]] == ["int64", "float64"]
    assert found.empty


def test_artifacts_are_read_by_trial_and_path(folder: Path, uri: str) -> None:
    make_sweep(folder)
    sync("demo", folder, uri)
    assert reader.artifact("demo", "uuid-0-0", "reconstruction.png", uri) == b"picture"
    assert reader.artifact("demo", "uuid-0-0", "folder/none.png", uri) is None
    assert reader.artifact("demo", None, "table.md", uri) is None
    with pytest.raises(reader.NotTrackedError, match=r"no trial 'uuid-0-7' of sweep 'demo' .* did you mean 'uuid-0-"):
        reader.artifact("demo", "uuid-0-7", "reconstruction.png", uri)
    with pytest.raises(reader.NotTrackedError, match='no trial "it\'s"'):
        reader.artifact("demo", "it's", "reconstruction.png", uri)


def test_a_resumed_trial_goes_on_in_its_run(folder: Path, uri: str) -> None:
    fail_trial(begin_trial(folder, 0, 0))
    sync("demo", folder, uri)
    failed = runs_of(uri)["overlay_alpha=0.0 seed=0"]
    assert failed.info.status == "FAILED"
    assert (failed.data.tags["ssl_sweep.reason"], failed.data.tags["ssl_sweep.message"]) == ("oom", "out of memory")
    assert "traceback.txt" in files_of(uri, failed)
    resumed = begin_trial(folder, 0, 0, attempt=2)
    sync("demo", folder, uri)
    assert runs_of(uri)["overlay_alpha=0.0 seed=0"].info.status == "RUNNING"
    assert reader.runs(["demo"], uri)["end"].isna().all()
    end_trial(resumed)
    sync("demo", folder, uri)
    done = runs_of(uri)["overlay_alpha=0.0 seed=0"]
    assert (done.info.run_id, done.info.status) == (failed.info.run_id, "FINISHED")
    assert (done.data.tags["ssl_sweep.attempt"], done.data.tags["ssl_sweep.reason"]) == ("2", "")
    assert history(uri, done, "pretrain/loss") == [(0, 1.0), (1, 0.5)]


def test_a_trial_that_never_ran_is_shown_with_its_knobs_and_its_end(folder: Path, uri: str) -> None:
    end_trial(begin_trial(folder, 0, 0))
    journal = begin_trial(folder, 1, 1)
    journal.path.write_text("")
    journal.append(Ended(state="PRUNED", message="not run: seed 0 pruned at epoch 3"))
    sync("demo", folder, uri)
    found = reader.runs(["demo"], uri).set_index("state")
    assert found["views.overlay_alpha"].to_dict() == {"COMPLETE": 0.0, "PRUNED": 0.1}
    assert found["message"]["PRUNED"] == "not run: seed 0 pruned at epoch 3"
    table = ablation(reader.runs(["demo"], uri), rows=["views.overlay_alpha"], columns=["finetune/top1_test"])
    assert [row.cells[0].n for row in table.body] == [1, 0]
    assert "not in the means: 1 PRUNED of 2 trials" in table.notes


@pytest.mark.parametrize(
    ("state", "status"),
    [
        ("PRUNED", "KILLED"),
        ("STOPPED", "KILLED"),
        ("PAUSED", "KILLED"),
        ("INTERRUPTED", "KILLED"),
        ("FAILED", "FAILED"),
    ],
)
def test_states_have_their_status(folder: Path, uri: str, state: str, status: str) -> None:
    begin_trial(folder, 0, 0).append(Ended(state=state, reason=None, message=None, traceback=None))
    sync("demo", folder, uri)
    assert runs_of(uri)["overlay_alpha=0.0 seed=0"].info.status == status
    assert reader.runs(["demo"], uri)["state"].tolist() == [state]


FILTERS = {  # the trials that each finds, of `every_state`
    "tags.ssl_sweep.state = 'COMPLETE'": ["0-0", "0-1", "1-0", "1-1"],
    "tags.ssl_sweep.state = 'FAILED'": ["2-0"],
    "tags.ssl_sweep.state = 'FAILED' and tags.ssl_sweep.reason = 'oom'": ["2-0"],
    "tags.ssl_sweep.state = 'PRUNED'": ["2-1"],
    "tags.ssl_sweep.state = 'RUNNING'": ["3-0"],
    "tags.ssl_sweep.collapsed = 'true'": ["1-1"],
    "tags.ssl_sweep.seed = '0'": ["0-0", "1-0", "2-0", "3-0"],
    "tags.ssl_sweep.method = 'moco' and tags.ssl_sweep.role = 'trial'": [
        "0-0",
        "0-1",
        "1-0",
        "1-1",
        "2-0",
        "2-1",
        "3-0",
    ],
    "params.`views.overlay_alpha` = '0.1'": ["1-0", "1-1"],
    "metrics.`knob/views.overlay_alpha` >= 0.1": ["1-0", "1-1", "2-0", "2-1"],
    "metrics.`finetune/top1_test` > 50.5": ["0-1", "1-0", "1-1"],
    "tags.ssl_sweep.sweep = 'demo' and metrics.`knn/top1_test` >= 41": ["0-1", "1-0", "1-1"],
    "tags.ssl_sweep.role = 'parent'": ["demo"],
    "tags.ssl_sweep.confirms = 'true'": ["3-0"],
}


def every_state(folder: Path) -> None:
    for choice in range(2):
        for seed in range(2):
            journal = begin_trial(folder, choice, seed)
            if (choice, seed) == (1, 1):
                journal.append(TagsSet(tags={"collapsed": "true"}))
            end_trial(journal, 50.0 + choice + seed)
    fail_trial(begin_trial(folder, 2, 0))
    begin_trial(folder, 2, 1).append(Ended(state="PRUNED", reason=None, message=None, traceback=None))
    path = begin_trial(folder, 3, 0).path.parent / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "confirms": True}))


def test_the_filters_find_what_they_say(folder: Path, uri: str) -> None:
    every_state(folder)
    sync("demo", folder, uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("ssl_sweep/demo").experiment_id
    for query, expected in FILTERS.items():
        tags = [run.data.tags for run in client.search_runs([experiment], query)]
        found = [each.get("ssl_sweep.trial_id", each["ssl_sweep.sweep"]).removeprefix("uuid-") for each in tags]
        assert sorted(found) == expected, query
    complete = "tags.ssl_sweep.state = 'COMPLETE'"
    best = client.search_runs([experiment], complete, order_by=["metrics.`finetune/top1_test` DESC"])
    assert best[0].data.tags["ssl_sweep.trial_id"] == "uuid-1-1"


def test_every_filter_of_the_documents_is_tried_here() -> None:
    page = (Path(__file__).parents[2] / "dashboards" / "README.md").read_text()
    shown = re.findall(r"\| ``(.+?)`` \|$", page, flags=re.MULTILINE)
    assert len(shown) > 5
    assert [query for query in shown if query not in FILTERS] == []


def test_knobs_sort_as_numbers_and_are_no_results(folder: Path, uri: str) -> None:
    for choice, size in enumerate([8, 64, 512]):
        journal = begin_trial(folder, choice, 0)
        path = journal.path.parent / "config.yaml"
        known = yaml.safe_load(path.read_text())
        path.write_text(yaml.safe_dump({**known, "knobs": {"method.dim": size, "views.flip": True, "case": "b"}}))
    sync("demo", folder, uri)
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("ssl_sweep/demo").experiment_id
    role = "tags.ssl_sweep.role = 'trial'"
    found = client.search_runs([experiment], role, order_by=["metrics.`knob/method.dim` ASC"])
    assert [run.data.params["method.dim"] for run in found] == ["8", "64", "512"]
    as_texts = client.search_runs([experiment], role, order_by=["params.`method.dim` ASC"])
    assert [run.data.params["method.dim"] for run in as_texts] == ["512", "64", "8"]
    assert {name for name in found[0].data.metrics if name.startswith("knob/")} == {"knob/method.dim", "knob/seed"}
    sync("demo", folder, uri)
    assert len(client.get_metric_history(found[0].info.run_id, "knob/method.dim")) == 1
    assert not [name for name in reader.runs(["demo"], uri).columns if "knob" in name]
    assert not [name for name in reader.histories("demo", uri)["name"] if "knob" in name]


def test_more_than_mlflow_takes_at_once(folder: Path, uri: str) -> None:
    many = {"many": {f"knob{i}": i for i in range(250)}, "long": "x" * 7_000}
    journal = begin_trial(folder, 0, 0, many)
    for step in range(3):
        journal.report({f"stage/metric{i}": float(i) for i in range(500)}, step)
    journal.report({"transfer/parquet:../a=b (50%)/top1": 1.0}, 0)
    journal.append(Ended(state="FAILED", reason="crash", message="a\0b" + "y" * 9_000, traceback=None))
    sync("demo", folder, uri)
    run = runs_of(uri)["overlay_alpha=0.0 seed=0"]
    assert len(run.data.params["long"]) == 6_000
    assert sum(name.startswith("many.knob") for name in run.data.params) == 250
    assert history(uri, run, "stage/metric499") == [(0, 499.0), (1, 499.0), (2, 499.0)]
    assert run.data.metrics["transfer/parquet:../a_b _50__/top1"] == 1.0
    assert run.data.tags["ssl_sweep.message"].startswith("aby")


def test_recorder_follows_a_sweep(folder: Path, uri: str) -> None:
    recorder = Recorder("demo", folder, uri, SPEC)
    recorder.start()
    journal = begin_trial(folder, 0, 0)
    assert eventually(lambda: recorder.pending() == 0)
    assert runs_of(uri)["overlay_alpha=0.0 seed=0"].info.status == "RUNNING"
    assert runs_of(uri)["demo"].info.status == "RUNNING"
    end_trial(journal)
    recorder.log_table({"table.md": "| alpha |", "table.tex": r"\toprule"})
    recorder.finish("COMPLETE")
    assert recorder.close(20) == 0
    parent = runs_of(uri)["demo"]
    assert parent.info.status == "FINISHED"
    assert parent.data.tags["mlflow.note.content"] == "| alpha |"
    assert {parent.data.tags[f"ssl_sweep.{name}"] for name in ("method", "data")} == {"moco", "digits"}
    assert files_of(uri, parent) == {"spec.yaml", "spec.json", "table.md", "table.tex"}
    spec = reader.spec_of("demo", uri)
    assert spec["method"] == SPEC["method"]
    assert spec["table"]["published"] == {"finetune/top1_test": {"0.3": 38.1}}
    assert reader.list_sweeps(uri) == ["demo"]


def test_files_of_the_sweep_are_shown_on_the_parent(folder: Path, uri: str) -> None:
    recorder = Recorder("demo", folder, uri, SPEC)
    recorder.log_files({"report.html": "<p>first</p>"})
    sync("demo", folder, uri)
    recorder.log_files({"report.html": "<p>second</p>"})
    sync("demo", folder, uri)
    assert reader.artifact("demo", None, "report.html", uri) == b"<p>second</p>"


def test_a_second_driver_goes_on_where_the_first_was_killed(folder: Path, uri: str) -> None:
    journal = begin_trial(folder, 0, 0)
    sync("demo", folder, uri)
    ids = {name: run.info.run_id for name, run in runs_of(uri).items()}
    end_trial(journal)
    recorder = Recorder("demo", folder, uri, SPEC)
    assert recorder.pending() == 6
    recorder.start()
    assert recorder.close(20) == 0
    run = runs_of(uri)["overlay_alpha=0.0 seed=0"]
    assert {name: run.info.run_id for name, run in runs_of(uri).items()} == ids
    assert history(uri, run, "finetune/top1_test") == [(0, 49.0), (1, 50.0)]  # the stage's result was reported before
    assert history(uri, run, "knn/top1_test") == [(0, 40.0)]


def test_a_lost_store_is_written_anew(folder: Path, uri: str, tmp_path: Path, empty_store: Path) -> None:
    make_sweep(folder)
    sync("demo", folder, uri)
    before = reader.runs(["demo"], uri)
    elsewhere = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'other.db')}"
    recorder = Recorder("demo", folder, elsewhere, SPEC)
    recorder.start()
    assert recorder.close(30) == 0
    pd.testing.assert_frame_equal(reader.runs(["demo"], elsewhere), before)


def test_a_deleted_run_is_written_anew(folder: Path, uri: str) -> None:
    make_sweep(folder)
    sync("demo", folder, uri)
    before = reader.runs(["demo"], uri)
    MlflowClient(uri).delete_run(runs_of(uri)["overlay_alpha=0.1 seed=0"].info.run_id)
    sync("demo", folder, uri)
    pd.testing.assert_frame_equal(reader.runs(["demo"], uri), before)


def test_a_deleted_parent_is_written_anew_and_gets_its_trials_back(folder: Path, uri: str) -> None:
    make_sweep(folder)
    sync("demo", folder, uri)
    before = reader.runs(["demo"], uri)
    MlflowClient(uri).delete_run(runs_of(uri)["demo"].info.run_id)
    sync("demo", folder, uri)
    pd.testing.assert_frame_equal(reader.runs(["demo"], uri), before)
    assert len(runs_of(uri)) == 7


@pytest.mark.parametrize("deleted", ["overlay_alpha=0.0 seed=0", "demo"])
def test_a_run_that_is_deleted_while_its_trial_reports_is_written_anew(
    folder: Path, uri: str, caplog: pytest.LogCaptureFixture, deleted: str
) -> None:
    end_trial(begin_trial(folder, 1, 0), 60.0)
    journal = begin_trial(folder, 0, 0)
    recorder = Recorder("demo", folder, uri, SPEC)
    recorder.start()
    assert eventually(lambda: recorder.pending() == 0)
    before = runs_of(uri)
    MlflowClient(uri).delete_run(before[deleted].info.run_id)
    end_trial(journal)
    assert eventually(lambda: recorder.pending() == 0)
    recorder.finish("COMPLETE")
    assert recorder.close(30) == 0
    after = runs_of(uri)
    assert after.keys() == before.keys()
    assert {run.info.status for run in after.values()} == {"FINISHED"}
    assert after[deleted].info.run_id != before[deleted].info.run_id
    assert after["demo"].data.tags["ssl_sweep.method"] == "moco"
    assert history(uri, after["overlay_alpha=0.0 seed=0"], "pretrain/loss") == [(0, 1.0), (1, 0.5)]
    assert reader.runs(["demo"], uri)["finetune/top1_test"].tolist() == [50.0, 60.0]
    assert f"run {before[deleted].info.run_id} has been deleted in MLflow" in caplog.text
    assert "cannot be reached" not in caplog.text


def test_a_run_that_is_deleted_again_as_soon_as_it_is_made_is_an_outage(
    folder: Path, uri: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    tried = []

    def write(_: object, name: str, run_id: str, __: object) -> None:
        tried.append(name)
        raise RunDeletedError(f"run {run_id} has been deleted in MLflow")

    end_trial(begin_trial(folder, 0, 0))
    monkeypatch.setattr(SweepRuns, "write", write)
    with pytest.raises(RunDeletedError):
        sync("demo", folder, uri)
    assert len(tried) == 2  # a third would make run after run


def test_a_trial_whose_folder_is_deleted_gets_its_record_with_its_next_attempt(folder: Path, uri: str) -> None:
    end_trial(begin_trial(folder, 1, 0))
    trial = begin_trial(folder, 0, 0).path.parent
    recorder = Recorder("demo", folder, uri, SPEC)
    recorder.start()
    assert eventually(lambda: recorder.pending() == 0)
    shutil.rmtree(trial)
    journal = Journal(trial)
    journal.append(TagsSet(tags={"note": "x" * 2000}))  # what the dead attempt leaves, which no record is beside
    assert eventually(lambda: recorder.pending() == 0)
    end_trial(begin_trial(folder, 0, 0, attempt=2), 60.0)
    recorder.finish("COMPLETE")
    assert recorder.close(30) == 0
    assert runs_of(uri).keys() == {"demo", "overlay_alpha=0.0 seed=0", "overlay_alpha=0.1 seed=0"}
    frame = reader.runs(["demo"], uri)
    assert frame[["choice", "seed", "finetune/top1_test"]].to_numpy().tolist() == [[0, 0, 60], [1, 0, 50]]


def test_a_trial_that_goes_on_in_a_deleted_folder_gets_its_record_at_its_end(folder: Path, uri: str) -> None:
    begun = begin_trial(folder, 0, 0)
    recorder = Recorder("demo", folder, uri, SPEC)
    recorder.start()
    assert eventually(lambda: recorder.pending() == 0)
    record = (begun.path.parent / "config.yaml").read_text()
    shutil.rmtree(begun.path.parent)
    begun.path.parent.mkdir()  # as its next checkpoint does
    begun.report({"pretrain/loss": 0.25}, 2)
    assert eventually(lambda: recorder.pending() == 0)
    (begun.path.parent / "config.yaml").write_text(record)
    end_trial(begun)
    recorder.finish("COMPLETE")
    assert recorder.close(30) == 0
    run = runs_of(uri)["overlay_alpha=0.0 seed=0"]
    assert (run.data.tags["ssl_sweep.choice"], run.data.params["seed"]) == ("0", "0")
    assert history(uri, run, "pretrain/loss") == [(2, 0.25)]


def test_a_run_that_is_made_anew_may_have_been_damaged(folder: Path, uri: str) -> None:
    end_trial(begin_trial(folder, 1, 0))
    journal = begin_trial(folder, 0, 0)
    recorder = Recorder("demo", folder, uri, SPEC)
    recorder.start()
    assert eventually(lambda: recorder.pending() == 0)
    sound = journal.path.read_text()
    journal.path.write_text(sound + "no json\n")
    assert eventually(lambda: recorder._delivery.refused.keys() == {"uuid-0-0"})
    journal.path.write_text(sound)
    end_trial(begin_trial(folder, 0, 0, attempt=2))
    recorder.deliver_again(["uuid-0-0"])
    recorder.finish("COMPLETE")
    assert recorder.close(30) == 0
    assert reader.runs(["demo"], uri)["state"].tolist() == ["COMPLETE"] * 2


def test_a_new_sweep_of_an_old_name_stays_apart(folder: Path, uri: str) -> None:
    make_sweep(folder)
    sync("demo", folder, uri)
    shutil.rmtree(folder)
    end_trial(begin_trial(folder, 3, 0), 70.0)  # trials of another sweep have other ids
    sync("demo", folder, uri)
    assert reader.runs(["demo"], uri)["finetune/top1_test"].tolist() == [70.0]


def test_what_mlflow_refuses_holds_up_nobody(folder: Path, uri: str, caplog: pytest.LogCaptureFixture) -> None:
    make_sweep(folder)
    sync("demo", folder, uri)
    begin_trial(folder, 0, 0).append(ArtifactAdded(path="../../../mlflow.db"))
    spoilt = folder / "trials" / "uuid-0-1" / "journal.jsonl"
    spoilt.write_text(spoilt.read_text() + "no json\n")
    begin_trial(folder, 1, 1).report({"late": 2.0}, 9)
    recorder = Recorder("demo", folder, uri, SPEC)
    recorder.start()
    assert recorder.close(20) == 3
    assert reader.runs(["demo"], uri)["late"].tolist()[3] == 2.0
    refused = sorted(re.findall(r"no further events of trial (\S+) are delivered to MLflow: (.*)", caplog.text))
    assert [name for name, _ in refused] == ["uuid-0-0", "uuid-0-1"]
    assert "lies outside" in refused[0][1]
    assert "not a line of JSON" in refused[1][1]


def test_a_parameter_keeps_its_first_value(folder: Path, uri: str, caplog: pytest.LogCaptureFixture) -> None:
    begin_trial(folder, 0, 0)
    sync("demo", folder, uri)
    end_trial(begin_trial(folder, 0, 0, {"data": {"source": "moved", "new": 1}}, attempt=2))
    sync("demo", folder, uri)
    run = runs_of(uri)["overlay_alpha=0.0 seed=0"]
    assert (run.data.params["data.source"], run.data.params["data.new"]) == ("digits", "1")
    assert run.info.status == "FINISHED"
    assert "MLflow keeps the first value of data.source, digits; now moved" in caplog.text


def test_a_folder_that_was_replaced_by_another_settings_gets_a_run_of_its_own(folder: Path, uri: str) -> None:
    for alpha, top1 in ((0.0, 90.0), (0.7, 50.0)):
        shutil.rmtree(folder / "trials", ignore_errors=True)
        journal = begin_trial(folder, 0, 0, {"views": {"overlay_alpha": alpha}})
        record = folder / "trials" / "uuid-0-0" / "config.yaml"
        stored = yaml.safe_load(record.read_text())
        record.write_text(yaml.safe_dump(stored | {"knobs": {"views.overlay_alpha": alpha}}))
        end_trial(journal, top1)
        if alpha:  # longer than what was delivered
            journal.report({"finetune/top1_test": top1}, 2)
        recorder = Recorder("demo", folder, uri, SPEC)
        recorder.start()
        assert recorder.close(60) == 0
    frame = reader.runs(["demo"], uri)
    assert frame[["views.overlay_alpha", "finetune/top1_test"]].to_numpy().tolist() == [[0.7, 50.0]]


def test_an_evaluation_that_runs_again_has_its_newest_result_everywhere(folder: Path, uri: str) -> None:
    journal = begin_trial(folder, 0, 0)
    for key, scores in (("a", [90.0, 95.0, 100.0]), ("b", [60.0, 70.0])):
        journal.begin("linear", key)
        for step, score in enumerate(scores):
            journal.report({"linear/top1_test": score, "linear/loss": 100.0 - score}, step)
        journal.append(StageFinished(stage="linear", key=key, seconds=1.0, results={"top1_test": scores[-1] + 10}))
        journal.append(Ended(state="COMPLETE"))
        sync("demo", folder, uri)
    run = runs_of(uri)["overlay_alpha=0.0 seed=0"]
    assert run.data.metrics["linear/top1_test"] == 80.0
    frame = reader.runs(["demo"], uri)
    assert frame["linear/top1_test"].tolist() == [80.0]
    table = ablation(frame, rows=["views.overlay_alpha"], columns=["linear/top1_test"])
    assert table.body[0].cells[0].mean == 80.0
    curve = reader.histories("demo", uri, ["linear/loss", "linear/top1_test"]).groupby("name")["value"].apply(list)
    assert curve.to_dict() == {"linear/loss": [40.0, 30.0, 0.0], "linear/top1_test": [60.0, 70.0, 80.0]}


def name_case(folder: Path, choice: int, case: str) -> Path:
    """Give a trial's record another searched knob, a case."""
    record = folder / "trials" / f"uuid-{choice}-0" / "config.yaml"
    stored = yaml.safe_load(record.read_text())
    record.write_text(yaml.safe_dump(stored | {"knobs": {"case": case}}))
    return record


def test_names_that_look_like_values_are_rows_of_their_own(folder: Path, uri: str) -> None:
    cases = ["1.1", "1.10", "null", "nan", "true", "1e-3", "0.001", "2024-01-02"]
    for choice, case in enumerate(cases):
        journal = begin_trial(folder, choice, 0)
        name_case(folder, choice, case)
        end_trial(journal, 50.0 + choice)
    sync("demo", folder, uri)
    frame = reader.runs(["demo"], uri)
    assert frame["case"].tolist() == cases
    assert frame["views.auto_augment"].tolist() == [True] * len(cases)
    assert frame["method.sizes"].tolist() == ["[1, 2]"] * len(cases)
    table = ablation(frame, rows=["case"], columns=["finetune/top1_test"], published={"knn/top1_test": {"1.10": 1.0}})
    assert [(row.key, row.cells[0].mean) for row in table.body] == [((case,), 50.0 + i) for i, case in enumerate(cases)]


def test_a_sweep_that_an_earlier_version_tracked_has_the_types_of_its_newer_runs(folder: Path, uri: str) -> None:
    for choice, case in enumerate(("1.1", "1.10", "1.1")):
        journal = begin_trial(folder, choice, 0)
        name_case(folder, choice, case)
        end_trial(journal)
    sync("demo", folder, uri)
    exact, client = "ssl_sweep.parameters", MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name("ssl_sweep/demo").experiment_id])
    first, *others = sorted((run for run in found if exact in run.data.tags), key=lambda run: run.data.tags[exact])
    for run in others:
        client.delete_tag(run.info.run_id, exact)
    assert reader.runs(["demo"], uri)["case"].tolist() == ["1.1", "1.10", "1.1"]
    client.delete_tag(first.info.run_id, exact)
    assert reader.runs(["demo"], uri)["case"].tolist() == [1.1, 1.1, 1.1]  # as ever, until `sync`
    assert reader.runs(["demo"], uri)["views.overlay_alpha"].tolist() == [0.0, 0.1, 0.3]


def test_a_lost_artifact_is_said(folder: Path, uri: str, caplog: pytest.LogCaptureFixture) -> None:
    begin_trial(folder, 0, 0).append(ArtifactAdded(path="artifacts/gone.png"))
    sync("demo", folder, uri)
    assert "gone.png is gone and cannot be logged" in caplog.text
    assert files_of(uri, runs_of(uri)["overlay_alpha=0.0 seed=0"]) == {"config.yaml"}


def test_without_mlflow_the_sweep_goes_on(folder: Path, uri: str, caplog: pytest.LogCaptureFixture) -> None:
    make_sweep(folder)
    away = f"http://user:s3cret@127.0.0.1:{free_port()}"
    recorder = Recorder("demo", folder, away, SPEC)
    recorder.start()
    recorder.finish("COMPLETE")
    assert eventually(lambda: "cannot be reached; the sweep" in caplog.text)
    started = time.monotonic()
    assert recorder.close(1.5) == 6 * 9 + 5
    assert time.monotonic() - started < 10  # where MLflow itself would retry for minutes
    warnings = [entry for entry in caplog.records if entry.levelno >= logging.WARNING and "ssl_sweep" in entry.name]
    assert len(warnings) == 1
    assert "s3cret" not in caplog.text
    assert sync("demo", folder, uri) == 6 * 9 + 5
    assert runs_of(uri)["demo"].info.status == "FINISHED"


def test_two_sweeps_start_at_once_in_a_new_storage(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    recorders = []
    for name in ("a", "b"):
        end_trial(begin_trial(tmp_path / name, 0, 0))
        recorders.append(Recorder(name, tmp_path / name, uri, SPEC))
        recorders[-1].start()
    assert [recorder.close(60) for recorder in recorders] == [0, 0]
    assert reader.runs(["a", "b"], uri)["sweep"].tolist() == ["a", "b"]


def test_unknown_sweeps_are_named_with_what_there_is(folder: Path, uri: str, tmp_path: Path) -> None:
    with pytest.raises(reader.NotTrackedError, match=r"no sweep 'demo' in MLflow at .*; there are: none"):
        reader.runs(["demo"], uri)
    make_sweep(folder)
    sync("demo", folder, uri)
    with pytest.raises(reader.NotTrackedError, match=r"did you mean 'demo'\?"):
        reader.runs(["dmeo"], uri)
    with pytest.raises(reader.NotTrackedError, match=r"sweep 'demo' has no spec\.json .* `ssl-sweep sync demo`"):
        reader.spec_of("demo", uri)
    with pytest.raises(reader.NotTrackedError, match="no MLflow store at"):
        reader.runs(["demo"], f"sqlite:///{tmp_path / 'none.db'}")
    assert reader.list_sweeps(f"sqlite:///{tmp_path / 'none.db'}") == []
    assert not (tmp_path / "none.db").exists()
    with pytest.raises(reader.NotTrackedError, match="no folder"):
        sync("other", tmp_path / "other", uri)


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("postgresql://lab:p@ss:w@db:5432/mlflow", "postgresql://lab:***@db:5432/mlflow"),
        ("https://user:secret@host/x failed", "https://user:***@host/x failed"),
        ("postgresql://db/m?user=a&password=b&x=1", "postgresql://db/m?user=a&password=***&x=1"),
        ("https://host/?api_TOKEN=abc", "https://host/?api_TOKEN=***"),
        ("http://127.0.0.1:5000/a@b", "http://127.0.0.1:5000/a@b"),
        ("sqlite:////tmp/mlflow.db", "sqlite:////tmp/mlflow.db"),
    ],
)
def test_passwords_are_not_shown(uri: str, shown: str) -> None:
    assert redacted(uri) == shown


@pytest.mark.slow  # an MLflow server takes some 10 s to start, and starts twice
def test_a_server_killed_and_started_again_has_everything_once(
    folder: Path, uri: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, stop = tmp_path / "mlflow.db", threading.Event()
    server = Mlflow(store)
    config = {"encoder": {"name": "drlim"}, "data": {"source": "digits", "image_size": 16}}
    journals = [begin_trial(folder, choice, 0, config) for choice in range(3)]
    encoder = ENCODERS["drlim"](16).eval()
    checkpoint.save(folder / "trials" / "uuid-0-0" / "encoder.pt", {"encoder": encoder.state_dict()})
    slowest, steps = 0.0, 0

    def train() -> None:
        nonlocal slowest, steps
        while not stop.wait(0.02):
            started = time.monotonic()
            for journal in journals:
                journal.report({"finetune/loss": 1.0 / (1 + steps), "finetune/top1_test": float(steps)}, steps)
            slowest = max(slowest, time.monotonic() - started)
            steps += 1

    training = threading.Thread(target=train)
    recorder = Recorder("demo", folder, server.url, SPEC)
    try:
        with server:
            recorder.start()
            training.start()
            assert eventually(lambda: len(rows(store, "metrics")) > 100)
        at_kill = steps
        assert eventually(lambda: "cannot be reached; the sweep" in caplog.text and steps > at_kill + 50)
        with server:
            assert eventually(lambda: "can be reached again" in caplog.text)
            stop.set()
            training.join()
            for journal in journals:
                end_trial(journal, 90.0)
            recorder.log_best("uuid-0-0")
            recorder.finish("COMPLETE")
            assert recorder.close(60) == 0
            served = server.url
            assert reader.spec_of("demo", served)["name"] == "demo"
            pd.testing.assert_frame_equal(reader.runs(["demo"], served), reader.runs(["demo"], uri))
            pd.testing.assert_frame_equal(reader.histories("demo", served), reader.histories("demo", uri))
            assert reader.artifact("demo", "uuid-0-0", "reconstruction.png", served) == b"picture"
            assert reader.artifact("demo", "uuid-0-0", "none.png", served) is None
            address = runs_of(served)["demo"].data.tags["ssl_sweep.best_model"]
            images = torch.rand(3, 3, 16, 16)
            monkeypatch.setenv("MLFLOW_TRACKING_URI", served)  # where `models:/` addresses lead
            predicted = torch.from_numpy(mlflow.pyfunc.load_model(address).predict(images.numpy()))
            torch.testing.assert_close(predicted, encoder(images).detach(), atol=1e-5, rtol=0)
    finally:
        stop.set()
    assert slowest < 5.0  # seconds; no report waited for MLflow, whose timeout is 20
    assert sum("cannot be reached; the sweep" in entry.message for entry in caplog.records) == 1
    runs = runs_of(uri)
    assert len(runs) == 4
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    for choice in range(3):
        run = next(run for run in runs.values() if run.data.tags.get("ssl_sweep.choice") == str(choice))
        assert [step for step, _ in history(uri, run, "finetune/loss")] == list(range(steps))


def rows(store: Path, table: str) -> list[Any]:
    with sqlite3.connect(store) as connection:
        return connection.execute(f"SELECT * FROM {table}").fetchall()
