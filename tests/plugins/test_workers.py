"""Ray brings a folder of plugins to its workers: on several nodes, anew after an edit, and to a gang."""

import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from quick_sweeps import METRIC, Silent
from ray import cloudpickle
from ray.cluster_utils import Cluster

from ssl_sweep.cluster.errors import ClusterError
from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.knobs import knobs
from ssl_sweep.knobs.pins import check_pins
from ssl_sweep.ledger.open import open_ledger, open_notes
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.plugins import catalog
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage, cache_folder
from ssl_sweep.sweep.pins import take_pins
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir.record import TrialRecord

USERS = Path(__file__).with_name("users_folder")
NODES = 2


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.delenv(catalog.FOLDER_VARIABLE, raising=False)
    made = tmp_path / "plugins"
    shutil.copytree(USERS, made)
    yield made
    catalog.use(None)


@pytest.fixture
def cluster(tmp_path: Path, folder: Path) -> Iterator[Cluster]:
    """Two nodes whose workers are told a folder of plugins without this one's methods."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file
    (tmp_path / "other" / "methods").mkdir(parents=True)
    told = {catalog.FOLDER_VARIABLE: str(tmp_path / "other")}
    own = [
        {"num_cpus": 1, "env_vars": {**told, "SSL_SWEEP_CACHE": str(tmp_path / f"node{number}")}}
        for number in range(NODES)
    ]
    made = Cluster(initialize_head=True, head_node_args={**own[0], "include_dashboard": False})
    try:
        for settings in own[1:]:
            made.add_node(**settings)
        yield made
    finally:
        ray.shutdown()
        made.shutdown()


def make(root: Path, name: str, folder: Path) -> tuple[Ledger, Storage]:
    catalog.use(folder)
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "local/noisy"}
    spec = SweepSpec.model_validate({"name": name, **base, "evaluate": {"knn": {}}, "search": {"seeds": 4}})
    storage = FolderStorage(root)
    storage.sweep(name).mkdir(parents=True)
    take_pins(spec, storage, open_notes(storage.ledger_url, spec), extends=False)
    return open_ledger(storage.ledger_url, spec), storage


def work(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
    """Load the plugin, write down what was loaded and where, and wait for a trial on the other node."""
    check_pins(record.config)
    method = knobs.load("methods", "local/noisy")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "loaded").write_text(f"{cache}\n{catalog.local_folder()}\n{getattr(method, 'mark', None)}")
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if len({path.read_text().partition("\n")[0] for path in folder.parent.glob("*/loaded")}) == NODES:
            break
        time.sleep(0.1)
    return Outcome("COMPLETE", {METRIC: 1.0})


def loaded(storage: Storage, ledger: Ledger) -> list[list[str]]:
    return [path.read_text().split("\n") for path in storage.sweep(ledger.spec.name).glob("trials/*/loaded")]


@pytest.mark.slow
def test_every_node_gets_the_files_and_gets_them_anew_after_an_edit(
    tmp_path: Path, folder: Path, cluster: Cluster
) -> None:
    """Slow: two raylets, and two drivers after one another, as in a notebook."""
    for mark in (None, "edited"):
        if mark:
            with (folder / "methods" / "noisy.py").open("a") as file:
                file.write(f"\n    mark = {mark!r}\n")
        ledger, storage = make(tmp_path / "runs", f"sweep-{mark}", folder)
        run_sweep(ledger, storage, Silent(), address=cluster.address, work=work)
        assert [(trial.state, trial.message) for trial in ledger.trials] == [("COMPLETE", None)] * 4
        caches, folders, marks = zip(*loaded(storage, ledger), strict=True)
        assert set(caches) == {str(tmp_path / f"node{number}") for number in range(NODES)}
        assert {Path(name).name for name in folders} == {"ssl_sweep_local"}
        assert set(marks) == {str(mark)}
    assert cache_folder() not in {Path(cache) for cache in caches}  # the driver's own was not used


def test_a_ray_that_runs_already_is_refused(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    ledger, storage = make(tmp_path / "runs", "sweep", folder)
    with pytest.raises(ClusterError, match=r"call ray.shutdown\(\) first, or set SSL_SWEEP_PLUGINS before ray.init"):
        run_sweep(ledger, storage, Silent(), work=work)
