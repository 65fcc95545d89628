"""Sweeps as Python objects: one real sweep of two trials, one of which diverges; the rest is read from its storage."""

import json
import pickle
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from rich.console import Console
from typer.testing import CliRunner

import ssl_sweep
from ssl_sweep.api.handle import Sweep
from ssl_sweep.cli import app
from ssl_sweep.data.images import DataError
from ssl_sweep.errors import UserError
from ssl_sweep.sweep.outcome import outcome

SPEC: dict[str, Any] = {
    "name": "two",
    "data": {"source": "digits", "image_size": 8},
    "encoder": {"name": "resnet18", "width": 8},
    "method": "autoencoder",
    "pretrain": {"epochs": 9, "batch_size": 256, "optimizer": "adamw"},
    "evaluate": {"knn": {}},
    "precision": "fp32",
    "search": {"space": {"pretrain.lr": np.array([0.003, 1e30])}, "objective": "maximize knn/top1_val"},
    "table": {"columns": ["knn/top1_test"]},
}
pytestmark = [
    pytest.mark.slow,  # starts Ray once
    pytest.mark.filterwarnings("ignore:.*Any type hint is inferred:UserWarning"),  # MLflow's, of its own modules
]


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SSL_SWEEP_CACHE", str(tmp_path_factory.mktemp("cache")))
        return ssl_sweep.run(SPEC, ["pretrain.epochs=1"], storage=tmp_path_factory.mktemp("runs"))


def test_a_sweep_has_a_state_counts_and_the_spec_that_it_ran(sweep: Sweep) -> None:
    assert (sweep.name, sweep.state) == ("two", "FAILED")
    assert (sweep.counts["complete"], sweep.counts["failed"], sweep.counts["total"]) == (1, 1, 2)
    assert sweep.spec.pretrain["epochs"] == 1
    assert len(sweep.summary.failed) == 1
    assert repr(sweep) == "<Sweep two: FAILED, 1 of 2 trials complete>"


def test_every_trial_is_a_row_and_a_failed_one_says_why(sweep: Sweep) -> None:
    trials = sweep.trials.set_index("pretrain.lr")
    assert list(trials["state"]) == ["COMPLETE", "FAILED"]
    assert trials.loc[1e30, "reason"] == "diverged"
    assert "loss" in trials.loc[1e30, "message"]
    assert trials.loc[0.003, ["reason", "message"]].isna().all()
    assert trials.loc[0.003, "knn/top1_test"] > 30
    assert Path(trials.loc[1e30, "folder"]).is_dir()


def test_the_best_trial_gives_its_encoder_and_exports_it(sweep: Sweep, tmp_path: Path) -> None:
    best = sweep.best
    assert (best.knobs, best.seed, best.state) == ({"pretrain.lr": 0.003}, 0, "COMPLETE")
    images = torch.rand(4, 3, 8, 8)
    features = best.encoder()(images)
    file = tmp_path / "best.safetensors"
    assert best.export(file)["encoder"] == "resnet18"
    assert torch.equal(ssl_sweep.export.read(file)(images), features)
    with pytest.raises(UserError, match="exists already"):
        best.export(file)


def test_a_trial_is_found_by_the_start_of_its_id_and_has_a_log(sweep: Sweep) -> None:
    failed = sweep.trials.set_index("state").loc["FAILED"]
    found = sweep.trial(failed["trial_id"][:8])
    assert (found.id, found.reason) == (failed["trial_id"], "diverged")
    assert "Diverged" in found.log()
    with pytest.raises(UserError, match="no trial 'zz'"):
        sweep.trial("zz")


def test_the_table_is_a_data_frame_that_shows_itself_as_the_command_does(sweep: Sweep) -> None:
    table = sweep.table()
    assert isinstance(table, pd.DataFrame)
    assert table.loc[0.003, ("knn/top1_test", "n")] == 1
    mean = table["knn/top1_test"]["mean"]
    assert f"{mean.loc[0.003]:.1f} (1)" in repr(table)
    assert 'class="ablation"' in table._repr_html_()
    assert table.to_latex().startswith("\\begin{table}[t]\n\\centering\n\\caption{two}")
    assert table.to_markdown().startswith("|    lr | knn top1 (test) |\n")
    assert table.notes[-1] == "not in the means: 1 FAILED of 2 trials"
    assert pickle.loads(pickle.dumps(table)).to_latex() == table.to_latex()


def test_a_changed_table_shows_what_it_holds_now(sweep: Sweep) -> None:
    table = sweep.table()
    table["mine", ""] = 7.0
    assert 'class="ablation"' not in table._repr_html_()
    assert "mine" in repr(table)
    assert type(table.copy()) is pd.DataFrame


def test_options_of_the_table_are_those_of_the_command(sweep: Sweep) -> None:
    table = sweep.table("two", rows="sweep, pretrain.lr", columns=["knn/top1_val"])
    assert (table.index.names, table.columns.get_level_values(0).unique().tolist()) == (
        ["sweep", "pretrain.lr"],
        ["knn/top1_val"],
    )
    with pytest.raises(UserError, match="interval: 'sd' is not known; use one of std, t, bootstrap"):
        sweep.table(interval="sd")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"views\.flop"):
        sweep.table(rows=["views.flop"])


def test_curves_and_page_come_from_mlflow(sweep: Sweep, tmp_path: Path) -> None:
    curve = sweep.history("knn/top1_val")
    assert curve["name"].unique().tolist() == ["knn/top1_val"]
    assert "two" in sweep.report(tmp_path / "pages" / "two.html").read_text()


def test_a_notebook_shows_state_table_and_the_next_step(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = sweep._repr_html_()
    assert "<strong>two</strong> FAILED" in shown
    assert "1 of 2 trials complete, 1 failed, best knn/top1_val" in shown
    assert 'class="ablation"' in shown
    place = sweep.storage.place
    assert f"ssl_sweep.open(&#x27;two&#x27;, storage=&#x27;{place}&#x27;).resume(failed=True)" in shown
    monkeypatch.setenv("SSL_SWEEP_STORAGE", place)
    assert "ssl_sweep.open(&#x27;two&#x27;).resume(failed=True)" in sweep._repr_html_()


def test_a_display_survives_an_mlflow_that_cannot_be_read(sweep: Sweep, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////nowhere/mlflow.db")
    assert "no table: no MLflow store at sqlite:////nowhere/mlflow.db" in sweep._repr_html_()


def test_an_unknown_sweep_and_a_wrong_extension_are_told_as_on_the_command_line(sweep: Sweep) -> None:
    with pytest.raises(UserError, match="no sweep named 'three' here; there is two"):
        ssl_sweep.open("three", storage=sweep.storage.place)
    with pytest.raises(UserError, match="has all its choices already"):
        ssl_sweep.open("two", storage=sweep.storage.place).extend("+2")
    with pytest.raises(UserError, match="two has ended: there is nothing to stop"):
        sweep.stop()


def test_a_plan_is_that_of_the_command_and_runs_nothing(tmp_path: Path) -> None:
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump({**SPEC, "search": {"space": {"pretrain.lr": [0.003, 1e30]}}}))
    planned = ssl_sweep.plan(file, "search.seeds=3")
    printed = CliRunner().invoke(app, ["plan", str(file), "--set", "search.seeds=3", "--json"])
    assert json.loads(printed.stdout) == json.loads(json.dumps(planned))
    assert (planned["name"], planned["trials"], planned["data"]["classes"]) == ("two", 6, 10)
    with pytest.raises(UserError, match=r"the spec: pretrain\.lr: 'fast'"):
        ssl_sweep.plan({**SPEC, "pretrain": {"lr": "fast"}})
    assert "nowhere" in ssl_sweep.plan(file, "data.source=imagefolder:nowhere")["data"]["problem"]
    with pytest.raises(DataError, match=r"^data\.classes: 'ten' is not a class"):
        ssl_sweep.plan(file, "data.classes=['0', ten]")


def test_what_diverged_runs_again_with_clipped_gradients_as_a_row_of_its_own(
    sweep: Sweep, capsys: pytest.CaptureFixture[str]
) -> None:
    """Last of those that use the sweep: it changes it."""
    before = sweep.trials.set_index("trial_id")
    assert "ssl-sweep resume two --set pretrain.clip_norm=1" in outcome("two", sweep.summary)
    clipped = ["pretrain.clip_norm=1.0e-32", "pretrain.optimizer=sgd", "pretrain.weight_decay=0"]
    sweep.resume(failed=True, overrides=clipped)
    assert "1 failed choice runs again with pretrain.optimizer = sgd, pretrain." in capsys.readouterr().err
    assert list(sweep.trials["state"]) == ["COMPLETE", "FAILED", "COMPLETE"]
    assert sweep.trials.set_index("trial_id").loc[before.index, before.columns].equals(before)
    table = sweep.table()
    assert table.index.names == [f"pretrain.{knob}" for knob in ("lr", "optimizer", "weight_decay", "clip_norm")]
    assert list(table["knn/top1_test"]["n"]) == [1, 0, 1]
    assert not sweep.resume(failed=True).summary.ending.interrupted  # neither runs again
    assert list(sweep.trials["attempts"]) == [1, 1, 1]


def test_another_thread_than_the_main_one_is_refused_before_anything_starts(tmp_path: Path) -> None:
    told: list[str] = []

    def call() -> None:
        with pytest.raises(UserError) as refused:
            ssl_sweep.run(SPEC, storage=tmp_path / "runs", console=Console(quiet=True))
        told.append(str(refused.value))

    thread = threading.Thread(target=call, name="second")
    thread.start()
    thread.join()
    assert "a sweep runs in the main thread, not in 'second'" in told[0]
    assert not (tmp_path / "runs").exists()
