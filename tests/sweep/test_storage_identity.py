"""Storages that are moved, copied, linked, or lose the files that say what they are: real ledgers and MLflow stores."""

import hashlib
import shutil
import socket
import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run
from short_sweeps import NAME, next_trial
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.storage.identity import FILE, Identity, whereabouts
from ssl_sweep.storage.layout import Storage
from ssl_sweep.storage.open import find_storage
from ssl_sweep.sweep.storage_identity import NOTE, check, mend
from ssl_sweep.tracking.reader import artifact, runs
from ssl_sweep.tracking.recorder import sync


@pytest.fixture
def begun(tmp_path: Path, empty_store: Path) -> Storage:
    """A storage with a sweep that has run one of its trials."""
    place = tmp_path / "runs"
    place.mkdir()
    shutil.copy(empty_store, place / "mlflow.db")
    storage = find_storage(place)
    next_trial(storage)
    return storage


def tree(root: Path) -> dict[str, str]:
    """Every file of a folder with a hash of its content."""
    files = (path for path in root.rglob("*") if path.is_file())
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def copied(storage: Storage, name: str = "copy") -> Storage:
    place = storage.root.parent / name
    shutil.copytree(storage.root, place)
    return find_storage(place)


def moved(storage: Storage, name: str = "moved") -> Storage:
    return find_storage(storage.root.rename(storage.root.parent / name))


def experiment_runs(uri: str) -> list[Run]:
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name(f"ssl_sweep/{NAME}")
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def locations(storage: Storage) -> Iterator[str]:
    """All locations in its MLflow store."""
    client = MlflowClient(storage.tracking_uri)
    experiment = client.get_experiment_by_name(f"ssl_sweep/{NAME}")
    assert experiment is not None
    yield experiment.artifact_location
    yield from (run.info.artifact_uri for run in experiment_runs(storage.tracking_uri))
    yield from (model.artifact_location for model in client.search_logged_models([experiment.experiment_id]))
    for version in client.search_model_versions():
        yield version.source
        yield client.get_model_version_download_uri(version.name, version.version)


def is_whole(storage: Storage, trials: int) -> None:
    """Each trial is one run, whose picture is in the storage, as all locations say."""
    uri = storage.tracking_uri
    ids = sorted(trial.trial_id for trial in load_ledger(storage.ledger_url, NAME).trials)
    assert sorted(runs([NAME], uri)["trial_id"]) == ids
    assert len(experiment_runs(uri)) == len(ids) + 1 == trials + 1
    for trial in ids:
        assert artifact(NAME, trial, "pictures.png", uri) == trial.encode()
    assert len(list((storage.root / "mlartifacts").rglob("pictures.png"))) == trials
    for location in locations(storage):
        assert location.startswith(f"{storage.root.as_uri()}/mlartifacts")


def add_model(storage: Storage) -> None:
    """A model of a user's, registered from its files."""
    client = MlflowClient(storage.tracking_uri)
    run = experiment_runs(storage.tracking_uri)[0].info
    model = client.create_logged_model(run.experiment_id, "encoder", run.run_id)
    client.create_registered_model("best")
    client.create_model_version("best", model.artifact_location)


def test_a_moved_storage_goes_on_where_it_is(begun: Storage) -> None:
    add_model(begun)
    before = Identity.read(begun.root)
    storage = moved(begun)
    next_trial(storage)
    is_whole(storage, 2)
    after = Identity.read(storage.root)
    assert before is not None
    assert after == replace(before, path=str(storage.root))
    assert not begun.root.exists()


def test_a_copy_and_its_original_go_on_apart(begun: Storage) -> None:
    copy = copied(begun)
    original_files = tree(begun.root)
    next_trial(copy)
    assert tree(begun.root) == original_files
    is_whole(copy, 2)
    copied_files = tree(copy.root)
    next_trial(begun)
    next_trial(begun)
    assert tree(copy.root) == copied_files
    is_whole(begun, 3)
    ids = {identity.id for root in (begun.root, copy.root) if (identity := Identity.read(root))}
    assert len(ids) == 2


def test_a_copy_that_was_made_by_an_earlier_version_goes_on_apart(begun: Storage) -> None:
    (begun.root / FILE).unlink()
    for name in ("ledger.db", "mlflow.db"):
        forget_identity(begun.root / name)
    copy = copied(begun)
    original_files = tree(begun.root)
    next_trial(copy)
    assert tree(begun.root) == original_files
    is_whole(copy, 2)


def forget_identity(database: Path) -> None:
    with sqlite3.connect(database) as connection:
        connection.execute("DROP TABLE IF EXISTS ssl_sweep_storage")
    connection.close()


def test_sync_writes_to_the_moved_storage_only(begun: Storage) -> None:
    storage = moved(begun)
    shutil.rmtree(storage.root / "mlartifacts")
    (storage.sweep(NAME) / "sweep_id").unlink()
    assert CliRunner().invoke(app, ["sync", NAME, f"--storage={storage.root}"]).exit_code == 0
    is_whole(storage, 1)
    assert not begun.root.exists()


def test_reading_a_moved_storage_writes_nothing_and_finds_its_files(begun: Storage, tmp_path: Path) -> None:
    storage = moved(begun)
    before = tree(storage.root)
    for words in (["list"], ["status", NAME], ["table", NAME], ["report", NAME, f"--out={tmp_path / 'page.html'}"]):
        ran = CliRunner().invoke(app, [*words, f"--storage={storage.root}"])
        assert ran.exit_code in (0, 2), ran.output  # the table of trials without results
    (trial,) = load_ledger(storage.ledger_url, NAME).trials
    assert artifact(NAME, trial.trial_id, "pictures.png", storage.tracking_uri) == trial.trial_id.encode()
    assert tree(storage.root) == before


def test_a_copy_is_read_and_not_its_original(begun: Storage) -> None:
    copy = copied(begun)
    (trial,) = load_ledger(begun.ledger_url, NAME).trials
    (picture,) = (begun.root / "mlartifacts").rglob("pictures.png")
    picture.write_bytes(b"changed since")
    assert artifact(NAME, trial.trial_id, "pictures.png", copy.tracking_uri) == trial.trial_id.encode()


def test_a_link_is_no_copy(begun: Storage) -> None:
    link = begun.root.parent / "link"
    link.symlink_to(begun.root)
    before = Identity.read(begun.root)
    next_trial(find_storage(link))
    is_whole(begun, 2)
    assert Identity.read(begun.root) == before
    assert whereabouts(link, before) == "mounted"


def test_another_mount_of_the_same_folder_writes_there_and_changes_no_location(begun: Storage) -> None:
    identity = Identity.read(begun.root)
    assert identity is not None
    stored = list(locations(begun))
    replace(identity, host="another-node").write(begun.root)
    here = moved(begun, "mounted")  # the path that the other node knows is not there
    next_trial(here)
    assert whereabouts(here.root, Identity.read(here.root)) == "mounted"
    assert stored[0] in locations(here)
    assert len(list((here.root / "mlartifacts").rglob("pictures.png"))) == 2
    assert not begun.root.exists()
    assert socket.gethostname() != "another-node"
    assert check(here)
    assert mend(here)
    is_whole(here, 2)
    assert not check(here)


@pytest.mark.parametrize("content", [None, "", "cut"])
def test_a_lost_sweep_id_comes_back_from_the_ledger(begun: Storage, content: str | None) -> None:
    file = begun.sweep(NAME) / "sweep_id"
    before = file.read_text()
    file.unlink() if content is None else file.write_text(content)
    next_trial(begun)
    assert file.read_text() == before
    is_whole(begun, 2)


def test_a_lost_sweep_id_of_an_older_sweep_comes_back_from_mlflow(begun: Storage) -> None:
    file = begun.sweep(NAME) / "sweep_id"
    before = file.read_text()
    file.unlink()
    load_ledger(begun.ledger_url, NAME).notes.write(NOTE, None)
    next_trial(begun)
    assert file.read_text() == before
    is_whole(begun, 2)
    next_trial(begun)
    assert load_ledger(begun.ledger_url, NAME).notes.read()[NOTE]["id"] == before


def test_a_lost_identity_comes_back_from_a_database(begun: Storage) -> None:
    next_trial(begun)
    before = Identity.read(begun.root)
    (begun.root / FILE).write_text("{cut")
    forget_identity(begun.root / "mlflow.db")
    assert check(begun)
    mend(begun)
    assert Identity.read(begun.root) == before
    assert not check(begun)


def test_a_copy_that_shares_mlflow_has_runs_of_its_own(
    begun: Storage, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared" / "mlflow.db"
    shared.parent.mkdir()
    shutil.copy(empty_store, shared)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{shared}")
    sync(NAME, begun.sweep(NAME), begun.tracking_uri)
    copy = copied(begun)
    before, files = runs([NAME], begun.tracking_uri), tree(begun.root)
    next_trial(copy)
    assert tree(begun.root) == files
    assert len(runs([NAME], copy.tracking_uri)) == 2
    assert len(experiment_runs(f"sqlite:///{shared}")) == len(before) + 1 + 3
    assert not (shared.parent / "mlartifacts").exists()
    assert sorted(str(path) for path in shared.parent.iterdir()) == [str(shared)]
    for run in experiment_runs(f"sqlite:///{shared}"):
        assert run.info.artifact_uri.startswith((copy.root.as_uri(), begun.root.as_uri()))
