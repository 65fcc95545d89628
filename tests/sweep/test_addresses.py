"""Addresses of MLflow and the ledger are checked before anything runs."""

from pathlib import Path

import pytest

from ssl_sweep.spec.sweep import SweepSpec, from_dump
from ssl_sweep.storage.layout import StorageError
from ssl_sweep.sweep.tracking_uri import check_environment, check_own_store


def spec(uri: str | None) -> SweepSpec:
    base = {"name": "a", "data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    return from_dump({**base, "evaluate": {"knn": {}}, "tracking": {"uri": uri}})


@pytest.mark.parametrize(
    "uri",
    [
        None,
        "sqlite:////lab/mlflow.db",
        "sqlite+pysqlite:////lab%20a/mlflow.db",
        "http://localhost:5000",
        "https://mlflow.lab",
        "http://[::1]:5000",
        "postgresql://me@db/mlflow",
        "postgresql+psycopg://me@db:5432/mlflow",
        "databricks",
        "databricks://profile",
    ],
)
def test_a_server_or_a_full_path_is_taken(uri: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    check_own_store(spec(uri))
    if uri is not None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    check_environment()


RELATIVE = {
    "sqlite:///relative.db": "write its full path: sqlite:///{cwd}/relative.db",
    "sqlite:///./b/relative.db": "write its full path: sqlite:///{cwd}/b/relative.db",
}
FOLDERS = {
    "mlruns": "sqlite:///{cwd}/mlruns/mlflow.db",
    "./x": "sqlite:///{cwd}/x/mlflow.db",
    "/lab/mlruns": "sqlite:////lab/mlruns/mlflow.db",
    "file:///lab/mlruns": "sqlite:////lab/mlruns/mlflow.db",
    "file:mlruns": "sqlite:///{cwd}/mlruns/mlflow.db",
}
UNKNOWN = {
    "htp://host:5000": "MLflow knows no htp://",
    "redis://host": "MLflow knows no redis://",
    "http://": "no address of a server",
    "http://host:port": "no address of a server",
    "postgresql://host:port/db": "no address of a database",
}


@pytest.mark.parametrize(("uri", "said"), (RELATIVE | FOLDERS | UNKNOWN).items())
def test_others_are_refused_with_what_to_write(
    uri: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    for name, check in (
        ("MLFLOW_TRACKING_URI", check_environment),
        ("tracking.uri", lambda: check_own_store(spec(uri))),
    ):
        with pytest.raises(StorageError) as refused:
            check()
        assert str(refused.value).startswith(name)
        assert said.format(cwd=tmp_path) in str(refused.value)


@pytest.mark.parametrize(("url", "said"), (RELATIVE | {"nonsense": "no address of a database"}).items())
def test_so_is_the_ledgers(url: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SSL_SWEEP_LEDGER", url)
    with pytest.raises(StorageError, match="SSL_SWEEP_LEDGER") as refused:
        check_environment()
    assert said.format(cwd=tmp_path) in str(refused.value)
