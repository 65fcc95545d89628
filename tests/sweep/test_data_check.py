"""A sweep goes on with the data that it began with, wherever that lies; other data is refused, kept or restarted on."""

import io
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from rich.console import Console

from ssl_sweep.cluster.run import Ending
from ssl_sweep.knobs.pins import PinError
from ssl_sweep.ledger.entries import DATA, DataNote
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.report.summary import facts
from ssl_sweep.report.sweep import read_sweep
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.sweep import drive
from ssl_sweep.sweep.data_check import DataChanged
from ssl_sweep.tables.render import render
from ssl_sweep.trial import attempt
from ssl_sweep.trial.stage_keys import stage_key
from ssl_sweep.trialdir.record import TrialRecord
from ssl_sweep.trialdir.states import TrialState

SIDE = 8


def write_photos(folder: Path, classes: tuple[str, ...] = ("dark", "light"), count: int = 10) -> None:
    """Images of each class in train and test, which a random encoder tells apart."""
    for split in ("train", "test"):
        for level, name in enumerate(classes):
            (folder / split / name).mkdir(parents=True, exist_ok=True)
            for number in range(count):
                image = Image.new("RGB", (SIDE, SIDE), (number, 0, 0))
                image.paste((255, 255, 255), (0, 0, 2, SIDE) if level else (0, 0, SIDE, 2))
                image.save(folder / split / name / f"{number}.bmp")


def spec(root: Path, *, trials: int | None = None, **changes: Any) -> SweepSpec:
    """Two choices of a method that does not pretrain; with `trials`, so many of a range."""
    space: dict[str, Any] = {"evaluate.knn.k": [1, 2]}
    search: dict[str, Any] = {"space": space, "sampler": "grid"}
    if trials:
        search = {"space": {"evaluate.knn.k": {"low": 1, "high": 9}}, "sampler": "random", "trials": trials}
    made = {
        "name": "demo",
        "data": {"source": "imagefolder:photos", "image_size": SIDE, "val_fraction": 0.3},
        "encoder": {"name": "resnet18", "width": 2},
        "method": "supervised",
        "evaluate": {"knn": {}},
        "search": search,
        "root": root,
    }
    return SweepSpec.model_validate({**made, **changes})


class Runs:
    """A storage beside the folder of the data; trials run in this process."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root, self.storage, self.cache = folder / "data", FolderStorage(folder / "runs"), folder / "cache"
        self.photos = self.root / "photos"
        self.most, self.said = 100, ""
        monkeypatch.setattr(drive, "run_sweep", self._run_sweep)  # Ray starts for seconds, and is not what is tested

    def run(self, wanted: SweepSpec | None = None, changed: DataChanged | None = None, **how: Any) -> drive.Summary:
        console = Console(file=io.StringIO(), width=500)
        try:
            return drive.drive(wanted or spec(self.root), self.storage, console, data_changed=changed, **how)
        finally:
            self.said = console.file.getvalue()  # type: ignore[attr-defined]

    @property
    def ledger(self) -> LedgerReader:
        return load_ledger(self.storage.ledger_url, "demo")

    @property
    def scores(self) -> list[float | None]:
        return [trial.results and trial.results["knn/top1_test"] for trial in self.ledger.trials]

    def table(self) -> str:
        return render(read_sweep("demo", self.storage.tracking_uri).table, "md")

    def _run_sweep(self, ledger: Ledger, *_: Any, **__: Any) -> Ending:
        while ledger.ask():
            pass
        for trial in [trial for trial in ledger.trials if not trial.ended][: self.most]:
            knobs, number = ledger.choice(trial.choice).knobs, trial.attempts + 1
            config = ledger.config(knobs, trial.seed)
            record = TrialRecord(trial.trial_id, "demo", trial.choice, trial.seed, knobs=knobs, config=config)
            folder = self.storage.trial("demo", trial.trial_id)
            out = attempt.attempt(record, number, lambda metrics, step: None, folder, self.cache)
            ended = {"state": out.state, "results": out.results, "reason": out.reason, "message": out.message}
            ledger.update(replace(trial, attempts=number, **ended))
        return Ending(interrupted=False, halted=None)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runs:
    made = Runs(tmp_path, monkeypatch)
    write_photos(made.photos)
    return made


def swap_test_labels(photos: Path) -> None:
    (photos / "test" / "dark").rename(photos / "moved")
    (photos / "test" / "light").rename(photos / "test" / "dark")
    (photos / "moved").rename(photos / "test" / "light")


def test_a_set_that_was_moved_goes_on(runs: Runs, tmp_path: Path) -> None:
    runs.most = 1
    runs.run()
    shutil.copytree(runs.root, tmp_path / "elsewhere", copy_function=shutil.copyfile)
    shutil.rmtree(runs.root)
    runs.run(spec(tmp_path / "elsewhere"))
    assert runs.scores == [100.0, 100.0]
    assert len({*runs.ledger.data.identities.values()}) == 1


def test_the_same_spec_in_another_folder_with_other_images_is_refused(runs: Runs, tmp_path: Path) -> None:
    runs.run()
    write_photos(tmp_path / "other" / "photos", count=11)
    with pytest.raises(PinError) as refusal:
        runs.run(spec(tmp_path / "other"))
    message = str(refusal.value)
    assert "sweep 'demo' began with other data than is here" in message
    assert "data.source imagefolder:photos: " in message
    assert "files: 4 added (test/dark/10.bmp, test/light/10.bmp, train/dark/10.bmp, ...)" in message
    assert "ssl-sweep run SPEC.YAML --set name=demo-2" in message
    assert "--data-changed keep" in message
    assert "--data-changed restart" in message
    runs.run()  # with its own


def test_swapped_labels_are_refused_where_a_sweep_is_extended_or_resumed(runs: Runs) -> None:
    runs.run(spec(runs.root, trials=2))
    swap_test_labels(runs.photos)
    for how in ({"extends": True}, {"resume": drive.ResumeSelection()}, {}):
        with pytest.raises(PinError, match=r"data\.source imagefolder:photos: ") as refusal:
            runs.run(spec(runs.root, trials=3 if "extends" in how else 2), **how)
        assert "20 of 40 compared with another content (test/dark/0.bmp, " in str(refusal.value)
    assert len(runs.ledger.choices) == 2


@pytest.mark.parametrize("change", ["renamed", "added", "removed", "another size", "another split"])
def test_each_change_of_a_folder_is_refused(runs: Runs, change: str) -> None:
    runs.run()
    file = runs.photos / "train" / "dark" / "0.bmp"
    match change:
        case "renamed":
            file.rename(file.with_name("x.bmp"))
        case "added":
            shutil.copy(file, file.with_name("x.bmp"))
        case "removed":
            file.unlink()
        case "another size":
            Image.new("RGB", (SIDE + 1, SIDE)).save(file)
        case _:
            file.rename(runs.photos / "test" / "dark" / "x.bmp")
    with pytest.raises(PinError, match="files: "):
        runs.run()


def test_kept_results_stand_beside_those_of_the_new_data_and_the_table_says_so(runs: Runs) -> None:
    runs.most = 1
    runs.run()
    first = runs.ledger.data.identities["data.source"]
    swap_test_labels(runs.photos)
    runs.most = 2
    runs.run(changed="keep")
    assert runs.scores == [100.0, 0.0]
    assert "the data has changed, and finished trials keep their results:" in runs.said
    second = runs.ledger.data.identities["data.source"]
    page = read_sweep("demo", runs.storage.tracking_uri)
    assert facts(page)["data fingerprint"] == second[7:19]
    assert page.table.data == (f"imagefolder:photos {first[7:19]}", f"imagefolder:photos {second[7:19]}")
    assert [[cell.n for cell in row.cells] for row in page.table.body] == [[1, 0], [0, 1]]
    assert not any(cell.best for row in page.table.body for cell in row.cells)
    assert any("nothing is best, selected or tested across them" in note for note in page.table.notes)
    runs.run()  # it is the sweep's data now


def test_a_restart_forgets_the_old_results_and_keeps_ids(runs: Runs) -> None:
    runs.run()
    before = {trial.trial_id: trial.attempts for trial in runs.ledger.trials}
    swap_test_labels(runs.photos)
    runs.most = 1
    runs.run(changed="restart")
    assert runs.scores == [0.0, None]
    assert {trial.trial_id for trial in runs.ledger.trials} == before.keys()
    assert runs.ledger.trials[0].attempts == 2
    states = read_sweep("demo", runs.storage.tracking_uri).runs.set_index("choice")
    assert states["state"].to_dict() == {0: TrialState.COMPLETE, 1: TrialState.INTERRUPTED}
    assert "100" not in runs.table()
    runs.most = 2
    runs.run()
    assert runs.scores == [0.0, 0.0]
    assert "data sets" not in runs.table()
    assert len(read_sweep("demo", runs.storage.tracking_uri).runs) == 2


@pytest.mark.parametrize("how", [{}, {"resume": drive.ResumeSelection()}])
def test_data_that_was_repaired_is_taken_where_it_has_failed_all_trials(runs: Runs, how: dict[str, Any]) -> None:
    file = runs.photos / "train" / "dark" / "0.bmp"
    image = file.read_bytes()
    file.write_bytes(image[:20])
    runs.run()
    assert [(trial.state, trial.reason) for trial in runs.ledger.trials] == [(TrialState.FAILED, "data")] * 2
    file.write_bytes(image)
    runs.run(**how)
    assert runs.scores == [100.0, 100.0]
    assert "the data has changed, and all trials run again:" in runs.said
    assert "data sets" not in runs.table()
    file.write_bytes(image[:20])
    with pytest.raises(PinError):
        runs.run(**how)


def test_a_restart_whose_driver_dies_is_finished_by_the_next(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.run()
    swap_test_labels(runs.photos)
    finish = drive.finish_restart

    def dies(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(drive, "finish_restart", dies)
    with pytest.raises(KeyboardInterrupt):
        runs.run(changed="restart")
    assert runs.scores == [None, None]
    monkeypatch.setattr(drive, "finish_restart", finish)
    runs.most = 0
    runs.run()
    assert {*read_sweep("demo", runs.storage.tracking_uri).runs["state"]} == {TrialState.INTERRUPTED}
    assert not runs.ledger.data.restarting


def test_a_restarted_search_learns_from_the_new_results_alone(runs: Runs) -> None:
    wanted = spec(runs.root, trials=4)
    wanted = wanted.model_copy(update={"search": wanted.search.model_copy(update={"sampler": "nsga2"})})
    runs.run(wanted)
    swap_test_labels(runs.photos)
    learned = [key for trial in runs.ledger._study.get_trials() for key in trial.system_attrs]
    assert learned
    runs.most = 0
    runs.run(wanted, changed="restart")
    study = runs.ledger._study
    assert [trial.values for trial in study.get_trials()] == [None] * 4
    assert not any(trial.intermediate_values for trial in study.get_trials())
    assert {key for trial in study.get_trials() for key in trial.system_attrs} <= {"fixed_params"}
    runs.most = 100
    runs.run(wanted)
    assert max(score for score in runs.scores if score is not None) < 50
    assert None not in runs.scores


def test_a_sweep_that_began_before_data_had_an_identity_goes_on(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    runs.most = 1
    with monkeypatch.context() as earlier:
        earlier.setattr(drive, "take_data", lambda *_: None)
        runs.run()
    assert runs.ledger.data == DataNote()
    old = runs.ledger.config({"evaluate.knn.k": 1}, 0)
    runs.most = 2
    runs.run()
    assert runs.scores == [100.0, 100.0]
    assert runs.ledger.data.unkeyed == ["data.source"]
    new = runs.ledger.config({"evaluate.knn.k": 1}, 0)
    assert stage_key(new, "knn", "fp32") == stage_key(old, "knn", "fp32")
    assert "data sets" not in runs.table()
    swap_test_labels(runs.photos)
    with pytest.raises(PinError):
        runs.run()
    runs.run(changed="keep")
    changed = runs.ledger.config({"evaluate.knn.k": 1}, 0)
    assert stage_key(changed, "knn", "fp32") != stage_key(old, "knn", "fp32")
    assert changed["unkeyed"] == []


def test_a_sweep_that_has_not_run_takes_the_data_that_is_there(runs: Runs) -> None:
    runs.most = 0
    runs.run()
    swap_test_labels(runs.photos)
    runs.most = 1
    runs.run()
    assert runs.scores == [0.0, None]
    assert runs.ledger.data.unkeyed == []


def test_a_node_that_sees_other_data_fails_its_trials_without_a_retry(runs: Runs) -> None:
    runs.most = 0
    runs.run()
    ledger = runs.ledger
    swap_test_labels(runs.photos)
    config = ledger.config({"evaluate.knn.k": 1}, 0)
    record = TrialRecord("one", "demo", 0, 0, config=config)
    out = attempt.attempt(record, 1, lambda metrics, step: None, runs.root / "trial", runs.cache)
    assert (out.state, out.reason) == (TrialState.FAILED, "data")
    assert "data.source: 'imagefolder:photos' is" in (out.message or "")
    assert "let the node see the same files, then resume the sweep" in (out.message or "")


def test_the_source_of_an_evaluation_counts_for_that_evaluation_alone(runs: Runs) -> None:
    write_photos(runs.root / "birds", ("owl", "swan"))
    transfer = {"sources": ["imagefolder:birds"], "protocol": "knn"}
    wanted = spec(runs.root, evaluate={"knn": {}, "transfer": transfer})
    runs.most = 1
    runs.run(wanted)
    config = runs.ledger.config({"evaluate.knn.k": 1}, 0)
    assert config["identities"].keys() == {"data.source", "evaluation transfer imagefolder:birds"}
    (runs.root / "birds" / "train" / "owl" / "0.bmp").unlink()
    with pytest.raises(PinError, match=r"evaluation transfer imagefolder:birds: .*files: 1 gone \(train/owl/0.bmp\)"):
        runs.run(wanted)
    runs.run(wanted, changed="keep")
    changed = runs.ledger.config({"evaluate.knn.k": 1}, 0)
    keys = {
        name: [stage_key(each, name, "fp32") for each in (config, changed)] for name in ("pretrain", "knn", "transfer")
    }
    assert keys["pretrain"][0] == keys["pretrain"][1]
    assert keys["knn"][0] == keys["knn"][1]
    assert keys["transfer"][0] != keys["transfer"][1]
    assert changed["identities"]["data.source"] == config["identities"]["data.source"]


def test_lost_listings_cost_only_the_names(runs: Runs) -> None:
    runs.run()
    (listing,) = runs.storage.sweep("demo").glob("data-*.tsv.gz")
    listing.write_bytes(b"cut")
    os.remove(runs.photos / "train" / "dark" / "0.bmp")
    with pytest.raises(PinError, match=r"imagefolder:photos: [0-9a-f]{12} became [0-9a-f]{12}\n"):
        runs.run()
    assert DATA in runs.ledger.notes.read()
