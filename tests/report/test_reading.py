"""What the page reads from MLflow, and what it says of it in words."""

import base64
import io
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.report import curves as curves_module
from ssl_sweep.report import summary
from ssl_sweep.report.curves import Curves, health_plots, learning_plots, read_curves
from ssl_sweep.report.page import MAX_ROWS, make_page, render_page
from ssl_sweep.report.pictures import MAX_BYTES, MAX_SIDE, feature_map, picture, read_gallery
from ssl_sweep.report.sweep import Sweep, read_sweep
from ssl_sweep.tables.labels import duration
from ssl_sweep.trialdir.events import Ended
from ssl_sweep.trialdir.journal import Journal

KNOB = "views.overlay_alpha"


def noise(width: int, height: int) -> bytes:
    out = io.BytesIO()
    Image.effect_noise((width, height), 100).convert("RGB").save(out, "PNG")
    return out.getvalue()


def image_of(src: str) -> Image.Image:
    return Image.open(io.BytesIO(base64.b64decode(src.partition(",")[2])))


@pytest.fixture(scope="module")
def sweep(full: Any) -> Sweep:
    return read_sweep(full.name, full.uri)


def test_the_head_says_what_when_and_how_much(sweep: Sweep) -> None:
    facts = summary.facts(sweep)
    assert facts["objective"] == "maximize finetune/top1_val"
    assert (facts["method"], facts["encoder"], facts["data"]) == ("autoencoder", "resnet18", "digits")
    assert facts["commit"] == "c0ffee1234"
    assert facts["when"].startswith("since ")  # two trials still run
    assert facts["cost"] == f"{22 * 62 / 3600:.3g} trial hours; 1 min 2 s a trial"
    assert sweep.planned == 28


def test_the_head_says_which_methods_a_search_has_tried(sweep: Sweep) -> None:
    tried = [f"method{index % 6}" for index in range(len(sweep.runs))]
    runs = sweep.runs.assign(**{"method.name": tried})
    facts = summary.facts(replace(sweep, runs=runs))
    assert facts["method"] == "method0, method1, method2, method3 and 2 more"
    assert facts["encoder"] == "resnet18"
    assert summary.facts(replace(sweep, runs=runs.head(0)))["method"] == "autoencoder"  # as the spec has it


def test_the_head_says_the_views_of_each_method(sweep: Sweep) -> None:
    methods = ["simclr" if index % 2 else "moco" for index in range(len(sweep.runs))]
    views = {"views.gray": 0.2, "views.flip": 0.5, "views.overlay_alpha": 0.1, "views.blur_second": "null"}
    runs = sweep.runs.assign(**{"method.name": methods, **views})
    assert summary.facts(replace(sweep, runs=runs))["views"] == "gray 0.2"  # alpha is searched
    blurred = runs.assign(**{"views.blur": [0.5 if name == "moco" else 0.0 for name in methods]})
    assert summary.facts(replace(sweep, runs=blurred))["views"] == "moco: gray 0.2, blur 0.5; simclr: gray 0.2"
    assert "views" not in summary.facts(replace(sweep, runs=runs.head(0)))


def test_the_best_choice_has_the_best_mean(sweep: Sweep) -> None:
    means = sweep.runs.groupby("choice")["finetune/top1_val"].mean()
    assert sweep.choices[0].number == means.idxmax()
    assert sweep.choices[0].objective == pytest.approx(means.max())
    found = summary.best(sweep)
    assert found is not None
    assert f"{means.max():.4g}\u202f%, mean of 2 seeds" in found.figure


def test_costs_are_those_of_the_finished_stages(sweep: Sweep) -> None:
    listed = [(stage.name, stage.trials, stage.mean_seconds) for stage in summary.costs(sweep)]
    assert listed == [("pretrain", 22, 40.0), ("finetune", 22, 20.0), ("knn", 22, 2.0)]
    assert sum(stage.share for stage in summary.costs(sweep)) == pytest.approx(1)


def test_gpu_hours_count_every_gpu_of_every_worker(sweep: Sweep) -> None:
    spec = {**sweep.spec, "resources": {"workers": 4, "gpus": 2}}
    hours = 8 * 22 * 62 / 3600
    changed = Sweep("demo", spec, sweep.runs, sweep.started, (), frozenset(), None)
    assert f"{hours:.4g} GPU-hours" in summary.facts(changed)["cost"]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        (0.0, "0 s"),
        (0.512, "0.51 s"),
        (59.7, "1 min 0 s"),
        (185, "3 min 5 s"),
        (7800, "2 h 10 min"),
        (273_600, "3 d 4 h"),
    ],
)
def test_durations_are_said_in_two_units(seconds: float, said: str) -> None:
    assert duration(seconds) == said


def test_failures_alike_are_one(write: Callable[..., Any]) -> None:
    written = write()
    for choice, message in enumerate(["no room", "odd", "no room", "no room"]):
        written.trial(
            choice, 0, {KNOB: choice / 10}, state="FAILED", reason="oom", message=message, traceback=f"at {choice}"
        )
    written.deliver()
    first, second = summary.failures(read_sweep("demo", written.uri), written.uri)
    assert (first.reason, first.message, first.count, first.traceback) == ("oom", "no room", 3, "at 0")
    assert first.trials[1] == (
        "overlay_alpha=0.2, seed 0",
        'less "${SSL_SWEEP_STORAGE:-runs}"/demo/trials/trial-2-0/log.txt',
    )
    assert (second.message, second.count) == ("odd", 1)


def test_a_trial_that_died_before_it_said_what_it_is_spoils_no_axis(write: Callable[..., Any]) -> None:
    written = write()
    for choice, alpha in enumerate([0.0, 0.1]):
        written.trial(choice, 0, {KNOB: alpha})
    written.trial(2, 0, {}, state="FAILED", reason="lost", message="node gone")
    (written.folder / "trials" / "trial-2-0" / "config.yaml").unlink()
    written.deliver()
    sweep = read_sweep("demo", written.uri)
    assert [(knob.numeric, knob.values) for knob in sweep.knobs] == [(True, (0.0, 0.1))]
    assert [choice.number for choice in sweep.choices] == [0, 1]
    page = make_page("demo", written.uri)
    assert "1 × lost" in page
    assert "trial-2-0/log.txt" in page


def test_collapsed_trials_are_named(sweep: Sweep) -> None:
    named = summary.collapsed(sweep)
    assert len(named) == 2
    assert all("pool=mean" in name and name.endswith(f"seed {seed}") for seed, name in enumerate(named))


def test_curves_are_what_the_trials_reported(sweep: Sweep, full: Any) -> None:
    curves = read_curves(sweep, full.uri)
    points = curves.points[(curves.points["trial_id"] == "trial-0-0") & (curves.points["name"] == "finetune/top1_val")]
    last = float(sweep.runs.set_index("trial_id").loc["trial-0-0", "finetune/top1_val"])
    assert points["step"].tolist() == [1, 2, 3]
    assert points["value"].tolist()[-1] == last
    titles = [plot.title for plot in learning_plots(sweep, curves)]
    assert titles == ["pretrain loss", "pretrain knn top1 (val)", "finetune top1 (val)"]
    loss, *_ = learning_plots(sweep, curves)
    lines = sum(trace["x"].count(None) for trace in loss.data if trace["mode"] == "lines")
    assert lines + sum(trace["x"].count(None) for trace in loss.data if trace["mode"] == "lines+markers") == 28
    marks = {trace["hovertemplate"].split()[0]: (trace["x"], trace["marker"]["symbol"]) for trace in loss.data[-3:]}
    assert marks["pruned"] == ([2, 2], "x")
    assert marks["failed"] == ([2, 2], "triangle-down")
    assert marks["running"] == ([1, 1], "circle-open")


def test_an_end_is_marked_in_the_stage_that_it_came_in(write: Callable[..., Any]) -> None:
    written = write()
    folder = written.trial(0, 0, {KNOB: 0.1}, state=None, epochs=4)
    journal = Journal(folder)
    for epoch in (1, 2):
        journal.report({"finetune/top1_val": 10.0 * epoch}, epoch)
    journal.append(Ended(state="PRUNED"))
    written.deliver()
    sweep = read_sweep("demo", written.uri)
    plots = {plot.title: plot for plot in learning_plots(sweep, read_curves(sweep, written.uri))}
    assert len(plots["pretrain loss"].data) == 1
    assert plots["finetune top1 (val)"].data[-1]["x"] == [2]
    assert plots["finetune top1 (val)"].data[-1]["marker"]["symbol"] == "x"


def test_health_shows_where_a_collapse_begins(sweep: Sweep, full: Any) -> None:
    plots = {plot.title: plot for plot in health_plots(sweep, read_curves(sweep, full.uri))}
    assert list(plots)[:2] == ["pretrain effective rank", "pretrain feature std (val)"]
    assert plots["pretrain feature std (val)"].layout["shapes"][0]["y0"] == 0.02
    assert "shapes" not in plots["pretrain effective rank"].layout


def test_of_many_trials_the_best_and_some_of_each_state_are_shown(
    sweep: Sweep, full: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(curves_module, "MAX_TRIALS", 10)
    curves = read_curves(sweep, full.uri)
    assert curves.note == f"{len(curves.shown)} of 28 trials: the best, and some of every state."
    assert 10 <= len(curves.shown) <= 14
    assert set(curves.shown["state"]) == set(sweep.runs["state"])
    assert set(sweep.best_first(sweep.runs).head(5)["trial_id"]) <= set(curves.shown["trial_id"])
    assert set(curves.points["trial_id"]) == set(curves.shown["trial_id"])


def test_few_choices_are_told_apart_and_many_coloured_by_their_objective(
    write: Callable[..., Any], sweep: Sweep, full: Any
) -> None:
    written = write()
    for choice, alpha in enumerate([0.0, 0.1, 0.3]):
        written.trial(choice, 0, {KNOB: alpha}, top1=40 + choice)
    written.deliver()
    few = read_curves(read_sweep("demo", written.uri), written.uri)
    assert few.labels == {0: "overlay_alpha=0", 1: "overlay_alpha=0.1", 2: "overlay_alpha=0.3"}
    assert len({(look.dash, look.color) for look in few.looks.values()}) == 3
    many = read_curves(sweep, full.uri)
    assert many.labels == {}
    assert list(many.looks)[-1] == sweep.choices[0].number  # drawn last, on top
    assert many.looks[sweep.choices[0].number].color == "--scale-6"


def test_pictures_are_of_the_best_trial_and_of_each_row(sweep: Sweep, full: Any) -> None:
    gallery = read_gallery(sweep, full.uri)
    assert gallery is not None
    best = sweep.best_first(sweep.runs[sweep.runs["choice"] == sweep.choices[0].number]).iloc[0]
    assert gallery.label.endswith(f"seed {best['seed']}")
    assert [each.title for each in gallery.reconstructions] == ["Before pretraining", "After pretraining"]
    assert [each.title for each in gallery.rows] == ["overlay_alpha=0", "overlay_alpha=0.1", "overlay_alpha=0.3"]
    for alpha, shown in zip([0.0, 0.1, 0.3], gallery.rows, strict=True):
        first = sweep.best_first(sweep.runs[sweep.runs[KNOB] == alpha]).iloc[0]
        stored = Path(full.folder / "trials" / first["trial_id"] / "artifacts" / "pictures.png").read_bytes()
        assert base64.b64decode(shown.src.partition(",")[2]) == stored


def test_rows_of_a_shared_pretraining_share_their_picture(write: Callable[..., Any]) -> None:
    written = write()
    same, other = noise(40, 40), noise(41, 40)
    for choice, (alpha, content) in enumerate([(0.0, same), (0.1, same), (0.3, other)]):
        written.trial(choice, 0, {KNOB: alpha}, files={"pictures.png": content})
    written.deliver()
    gallery = read_gallery(read_sweep("demo", written.uri), written.uri)
    assert gallery is not None
    assert [each.title for each in gallery.rows] == ["overlay_alpha=0; overlay_alpha=0.1", "overlay_alpha=0.3"]


def test_without_pictures_there_is_no_gallery(write: Callable[..., Any]) -> None:
    written = write()
    written.trial(0, 0, {KNOB: 0.0})
    written.trial(1, 0, {KNOB: 0.1}, files={"pictures.png": b"no picture", "map.json": b"{}"})
    written.deliver()
    assert read_gallery(read_sweep("demo", written.uri), written.uri) is None


def test_a_large_picture_is_shrunk_and_a_small_one_enlarged() -> None:
    content = noise(2000, 1000)
    assert len(content) > MAX_BYTES
    large = picture(content, "Large", "it")
    assert large is not None
    assert image_of(large.src).size == (MAX_SIDE, MAX_SIDE // 2)
    assert len(large.src) < len(content) / 2
    assert (large.width, large.enlarged) == (MAX_SIDE, False)
    small = picture(noise(82, 32), "Small", "it")
    assert small is not None
    assert image_of(small.src).size == (82, 32)
    assert (small.width, small.enlarged) == (6 * 82, True)


@pytest.mark.parametrize("content", [None, b"", b"no picture", noise(50, 50)[:200]])
def test_what_is_no_picture_is_left_out(content: bytes | None) -> None:
    assert picture(content, "title", "label") is None


@pytest.mark.parametrize("content", [None, b"", b"null", b"[]", b'{"points": [[1, 2]], "labels": [], "classes": []}'])
def test_what_is_no_map_is_left_out(content: bytes | None) -> None:
    assert feature_map(content) is None


def large_sweep(count: int) -> Sweep:
    """Trials of eight sampled knobs, one of them failed in a way of its own every tenth time."""
    knobs = [f"pretrain.k{index}" for index in range(8)]
    rows = {
        knob: [(7919 * place + 31 * index) % count / count for place in range(count)]
        for index, knob in enumerate(knobs)
    }
    numbers = list(range(count))
    metrics = {name: [50 + 20 * value for value in rows[knobs[0]]] for name in ("knn/top1_val", "knn/top1_test")}
    states = ["FAILED" if number % 10 == 0 else "COMPLETE" for number in numbers]
    runs = pd.DataFrame({"trial_id": [f"t{number}" for number in numbers], "sweep": "demo", "choice": numbers,
                         "seed": 0, "state": states, "reason": "crash", "message": [f"m{number}" for number in numbers],
                         **rows, **metrics})  # fmt: skip
    now = pd.Timestamp.now(tz="UTC")
    space = {knob: {"low": 0.0, "high": 1.0, "log": False, "step": None} for knob in knobs}
    spec = {"search": {"space": space, "sampler": "random", "trials": count, "seeds": [0],
                       "objective": "maximize knn/top1_val"},
            "table": {"rows": knobs, "columns": ["knn/top1_test"]}}  # fmt: skip
    return Sweep("demo", spec, runs.assign(start=now, end=now), now, (), frozenset(), count)


def test_a_large_sweep_makes_a_page_of_bounded_size() -> None:
    sweep = large_sweep(1000)
    no_curves = Curves(pd.DataFrame(columns=["trial_id", "name", "step", "value"]), sweep.runs.head(0), {}, {}, {}, "")
    page = render_page(sweep, no_curves, None, [])
    assert len(page) < 6_500_000  # of which plotly is 4.8
    assert f"{MAX_ROWS} of 1000 rows, the best by knn top1 (val)" in page
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    assert body.count("<tr>") == MAX_ROWS
    assert "Parallel coordinates of 300 of 900 choices" in page


def report(*words: object) -> Any:
    return CliRunner().invoke(app, ["report", *map(str, words)])


def test_the_command_writes_the_page(full: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    ran = report("demo", "--tracking-uri", full.uri)
    assert (ran.exit_code, ran.output.strip()) == (0, "wrote demo.html")
    page = (tmp_path / "demo.html").read_text(encoding="utf-8")
    assert page == make_page("demo", full.uri)
    assert page.startswith("<!doctype html>")
    assert report("demo", "--tracking-uri", full.uri, "--out", tmp_path / "new" / "page.html").exit_code == 0
    assert (tmp_path / "new" / "page.html").read_text(encoding="utf-8") == page


def test_an_unknown_sweep_is_a_users_mistake(full: Any, tmp_path: Path) -> None:
    ran = report("dmeo", "--tracking-uri", full.uri, "--out", tmp_path / "page.html")
    assert ran.exit_code == 2
    assert "did you mean 'demo'?" in ran.output
    assert not (tmp_path / "page.html").exists()
