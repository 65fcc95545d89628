"""Pins at launch: what a sweep writes down of the code that it uses, and when it is refused to go on."""

import io
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from rich.console import Console

from ssl_sweep.cluster.run import Ending
from ssl_sweep.knobs.pins import PinError
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.plugins import catalog
from ssl_sweep.plugins.catalog import PluginError
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep import drive

METHOD = '''
from torch import nn

class Method(nn.Module):  # {size}
    """Nothing."""

    def __init__(self, encoder, *, size: int = 1):
        super().__init__()
        self.encoder = encoder
'''
PIN = "method local/mine"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    made = tmp_path / "plugins"
    (made / "methods").mkdir(parents=True)
    edit(made, 1)
    yield made
    catalog.use(None)


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    return FolderStorage(tmp_path / "runs")


def edit(folder: Path, size: int, name: str = "mine") -> None:
    (folder / "methods" / f"{name}.py").write_text(METHOD.format(size=size))
    catalog.use(folder)


def spec(**search: Any) -> SweepSpec:
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    search = {"space": {"method": {"choices": ["local/mine", "autoencoder"]}}, **search}
    return SweepSpec.model_validate({"name": "demo", **base, "evaluate": {"knn": {}}, "search": search})


def run(
    storage: Storage,
    wanted: SweepSpec,
    monkeypatch: pytest.MonkeyPatch,
    *,
    states: tuple[str, ...] = ("FAILED",) * 2,
    said: io.StringIO | None = None,
) -> Ledger:
    """Drive a sweep whose trials end at once, in these states."""
    ledgers: list[Ledger] = []

    def run_sweep(ledger: Ledger, *_: Any, **__: Any) -> Ending:
        ledgers.append(ledger)
        while ledger.ask():
            pass
        for trial, state in zip(ledger.trials, states, strict=False):
            if not trial.ended:
                ledger.update(replace(trial, state=state, attempts=1, results={"knn/top1_val": 50.0}))
        return Ending(interrupted=False, halted=None)

    monkeypatch.setattr(drive, "run_sweep", run_sweep)  # Ray starts for seconds, and is not what is tested
    drive.drive(wanted, storage, Console(file=said or io.StringIO()))
    return ledgers[0]


def test_a_sweep_writes_the_identity_of_its_plugins_everywhere(
    storage: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = run(storage, spec(), monkeypatch)
    identity = catalog.identity("methods", "local/mine")
    assert load_ledger(storage.ledger_url, "demo").pins == {PIN: identity}
    mine, own = (ledger.config(choice.knobs, 0) for choice in ledger.choices)
    assert mine["pins"] == {PIN: identity}
    assert "pins" not in own
    client = MlflowClient(storage.tracking_uri)
    experiment = client.get_experiment_by_name("ssl_sweep/demo")
    parents = client.search_runs([experiment.experiment_id], "tags.`ssl_sweep.role` = 'parent'")
    assert parents[0].data.tags["ssl_sweep.pin.method local/mine"] == identity


def test_a_sweep_goes_on_with_the_same_plugins_only(
    storage: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(storage, spec(), monkeypatch)
    edit(folder, 2, "other")
    run(storage, spec(), monkeypatch)
    edit(folder, 2)
    with pytest.raises(PinError) as refusal:
        run(storage, spec(), monkeypatch)
    message = str(refusal.value)
    assert f"{PIN}: sha256:" in message
    assert str(folder / "methods" / "mine.py") in message
    assert "ssl-sweep run SPEC.YAML --set name=demo-2 --plugins DIR" in message
    edit(folder, 1)
    run(storage, spec(), monkeypatch)


def test_a_changed_plugin_that_no_open_trial_uses_does_no_harm(
    storage: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = run(storage, spec(), monkeypatch, states=("COMPLETE", "FAILED"))
    assert ledger.choices[0].knobs["method"] == "local/mine"
    edit(folder, 2)
    said = io.StringIO()
    assert run(storage, spec(), monkeypatch, said=said).pins == ledger.pins
    assert "no trial that is left to run uses what has changed; the results are of the old code" in said.getvalue()
    assert f"{PIN}: sha256:" in said.getvalue()
    with pytest.raises(PinError):
        run(storage, spec(confirm={"top": 1, "seeds": 1}), monkeypatch)


def test_a_sweep_that_has_not_run_takes_the_new_plugins(
    storage: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(storage, spec(), monkeypatch, states=())
    edit(folder, 2)
    assert run(storage, spec(), monkeypatch, states=()).pins == {PIN: catalog.identity("methods", "local/mine")}


def test_a_sweep_whose_plugins_are_gone_names_the_option(
    storage: Storage, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(storage, spec(), monkeypatch)
    stored = load_ledger(storage.ledger_url, "demo").spec
    catalog.use(None)
    with pytest.raises(PluginError, match=r"there is no method 'local/mine'; name its folder with --plugins DIR"):
        run(storage, stored, monkeypatch)
