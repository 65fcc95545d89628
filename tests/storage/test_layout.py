"""Where sweeps lie, and where they cannot."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.storage.layout import StorageError
from ssl_sweep.storage.open import find_storage


def test_another_object_store_is_refused_with_what_to_do() -> None:
    with pytest.raises(StorageError, match=r"gs://bucket/sweeps is neither a folder nor s3://BUCKET/PREFIX"):
        find_storage("gs://bucket/sweeps")


@pytest.mark.parametrize("place", ["s3://bucket/sweeps", "s3://bucket/sweeps/", Path("s3://bucket/sweeps")])
def test_a_bucket_has_a_copy_on_each_machine(place: str | Path, cache: Path) -> None:
    storage = find_storage(place)
    assert storage.place == "s3://bucket/sweeps"
    assert storage.root.is_relative_to(cache)
    assert storage.root != find_storage("s3://bucket/others").root


def test_a_bucket_has_no_databases(monkeypatch: pytest.MonkeyPatch) -> None:
    storage = find_storage("s3://bucket/sweeps")
    for name, read in {
        "SSL_SWEEP_LEDGER": lambda: storage.ledger_url,
        "MLFLOW_TRACKING_URI": lambda: storage.tracking_uri,
        "SSL_SWEEP_SERVICE_DB": lambda: storage.service_url,
    }.items():
        with pytest.raises(StorageError, match=rf"s3://bucket/sweeps keeps files, no database: set {name} to a server"):
            read()
        monkeypatch.setenv(name, "http://server")
        assert read() == "http://server"


@pytest.mark.parametrize("place", ["runs", "/runs", "a:b/runs", "C:/runs"])
def test_a_folder_is_not(place: str) -> None:
    assert find_storage(place).root == Path(place).resolve()


def test_the_user_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_SWEEP_STORAGE", "gs://bucket/sweeps")
    for arguments in (["list"], ["list", "--storage", "gs://bucket/other"]):
        ran = CliRunner().invoke(app, arguments)
        assert ran.exit_code == 2
        assert "is neither a folder" in ran.output
