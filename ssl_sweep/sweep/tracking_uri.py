"""The MLflow store of a sweep."""

import os
import re
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage.database_urls import sqlite_file, sqlite_url
from ssl_sweep.storage.layout import Storage, StorageError
from ssl_sweep.storage.stored_spec import FILE, stored_spec
from ssl_sweep.storage.urls import redacted

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SERVERS = ("http", "https", "databricks", "databricks-uc", "uc")


def tracking_uri(spec: SweepSpec, storage: Storage) -> str:
    """The MLflow store of a sweep: the spec's, else the storage's."""
    return spec.tracking.uri or storage.tracking_uri


def stored_tracking_uri(storage: Storage, name: str) -> str:
    """The same by the sweep's name, also where the ledger is elsewhere: from the spec beside its trials."""
    storage.fetch(storage.sweep(name) / FILE)
    tracking = (stored_spec(storage.sweep(name)) or {}).get("tracking") or {}
    return tracking.get("uri") or storage.tracking_uri


def check_own_store(spec: SweepSpec) -> None:
    """Check the spec's own address of MLflow, before a new sweep runs.

    Raises:
        StorageError: it is no address, or means another place in another folder.
    """
    if spec.tracking.uri is not None:
        _check_tracking("tracking.uri", spec.tracking.uri)


def check_environment() -> None:
    """The same for the addresses of MLflow and of the ledger in the environment."""
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        _check_tracking("MLFLOW_TRACKING_URI", uri)
    if ledger := os.environ.get("SSL_SWEEP_LEDGER"):
        _check_database("SSL_SWEEP_LEDGER", ledger)


def _check_tracking(name: str, uri: str) -> None:
    scheme = re.match(r"([\w.-]+)(\+\w+)?:", uri)
    known = {*DATABASES, *SERVERS, *(point.name for point in entry_points(group="mlflow.tracking_store"))}
    remedy = "name a server (http://HOST:5000) or a database, or leave it out: SQLite in the storage"
    if uri in ("databricks", "uc"):
        return
    if scheme is None or scheme[1] == "file":
        file = sqlite_url(Path(re.sub(r"^file:(//)?", "", uri)).absolute() / "mlflow.db")
        raise StorageError(f"{name} {uri!r} is a folder, which MLflow has given up; write {file}, or {remedy}")
    if scheme[1] not in known:
        raise StorageError(f"{name} {redacted(uri)!r}: MLflow knows no {scheme[1]}:// addresses; {remedy}")
    if scheme[1] in DATABASES:
        _check_database(name, uri)
    elif scheme[1] in ("http", "https") and not _has_host(uri):
        raise StorageError(f"{name} {redacted(uri)!r} is no address of a server; {remedy}")


def _check_database(name: str, url: str) -> None:
    from sqlalchemy.exc import ArgumentError

    try:
        file = sqlite_file(url)
    except (ArgumentError, ValueError):  # a port that is no number
        remedy = "write sqlite:////FULL/PATH.db or postgresql://USER@HOST:5432/DATABASE"
        raise StorageError(f"{name} {redacted(url)!r} is no address of a database; {remedy}") from None
    if file is not None and not file.is_absolute():
        remedy = f"write its full path: {sqlite_url(file.absolute())}"
        raise StorageError(f"{name} {url!r} means another file in each folder that a command is run in; {remedy}")


def _has_host(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
        return bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False
