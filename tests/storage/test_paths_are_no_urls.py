"""Folders whose names mean something in a URL, a template or a shell: databases lie in them, or they are refused."""

import os
import shutil
from pathlib import Path

import pytest
from short_sweeps import next_trial
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.ledger.database import LedgerUnreachableError, open_storage
from ssl_sweep.service.store import Store
from ssl_sweep.storage.database_urls import sqlite_file
from ssl_sweep.storage.layout import StorageError
from ssl_sweep.storage.open import find_storage
from ssl_sweep.tracking.reader import artifact, runs

NAMES = [
    "two words",
    "what?",
    "x?mode=ro",
    "a#b",
    "100%",
    "50%s%(x)s%%",
    "{x}",
    "{",
    "{{}}",
    "{SCHEMA_VERSION}",
    "me@host",
    "user:pass@host",
    "a:b",
    "file:x",
    ":memory:",
    "caf\u00e9",
    "cafe\u0301",
    "\u5b9f\u9a13",
    "-rf",
    "--",
    "it's",
    '"quoted"',
    "a&b;c",
    "back\\slash",
    "$HOME `x` ~",
    "[bold]",
    "new\nline",
    "tab\t",
    "+plus+",
    "x" * 200,
]
WORST = ["x?mode=ro", "a #100%{x}{", "user:pass@host", "-caf\u00e9 cafe\u0301 \u5b9f", "it's \"a&b;c\\\n[bold]"]


@pytest.mark.parametrize("name", NAMES)
def test_a_url_leads_to_its_file_by_every_reader(name: str, tmp_path: Path) -> None:
    place = tmp_path / "parent" / name
    place.mkdir(parents=True)
    storage = find_storage(place)
    for url, file in (
        (storage.ledger_url, "ledger.db"),
        (storage.tracking_uri, "mlflow.db"),
        (storage.service_url, "service.db"),
    ):
        assert sqlite_file(url) == place / file
        assert url.format() == url  # Optuna calls it
        engine = create_engine(url)
        with engine.begin() as connection:
            connection.execute(text("CREATE TABLE made (here INTEGER)"))
        engine.dispose()
    assert sorted(os.listdir(place)) == ["ledger.db", "mlflow.db", "service.db"]
    assert os.listdir(tmp_path) == ["parent"]
    assert os.listdir(place.parent) == [name]


@pytest.mark.parametrize("name", WORST)
def test_all_databases_lie_in_the_storage(name: str, tmp_path: Path, empty_store: Path) -> None:
    place = tmp_path / "parent" / name
    place.mkdir(parents=True)
    shutil.copy(empty_store, place / "mlflow.db")
    storage = find_storage(place)
    trial = next_trial(storage)
    Store(storage.service_url).close()
    assert list(runs(["demo"], storage.tracking_uri)["trial_id"]) == [trial]
    assert artifact("demo", trial, "pictures.png", storage.tracking_uri) == trial.encode()
    assert {"ledger.db", "mlflow.db", "service.db", "mlartifacts", "demo"} <= set(os.listdir(place))
    assert os.listdir(tmp_path) == ["parent"]
    assert os.listdir(place.parent) == [name]


def test_braces_in_a_password_are_no_template(tmp_path: Path) -> None:
    with pytest.raises(LedgerUnreachableError, match=r"ssl:\*\*\*@127\.0\.0\.1:1/ledger cannot be reached"):
        open_storage("postgresql://ssl:{x}{@127.0.0.1:1/ledger")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("/".join(["x" * 100] * 5), "is too long a path .* SQLite opens none over 500"),
        (b"caf\xe9", "is not UTF-8"),
        ("a%20b", "MLflow takes '%20'"),
    ],
)
def test_what_sqlite_cannot_open_is_refused(name: str | bytes, said: str, tmp_path: Path) -> None:
    storage = find_storage(tmp_path / os.fsdecode(name))
    for read in (lambda: storage.ledger_url, lambda: storage.tracking_uri, lambda: storage.service_url):
        with pytest.raises(StorageError, match=f"--storage, SSL_SWEEP_STORAGE: .*{said}.*name a"):
            read()
    assert os.listdir(tmp_path) == []


def refused(words: list[str]) -> str:
    """The message of a command that is refused."""
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 2, ran.output
    return " ".join(ran.output.split())


@pytest.mark.parametrize("words", [["list"], ["resume", "demo"], ["table", "demo"]])
def test_a_file_is_no_storage(words: list[str], tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert f"SSL_SWEEP_STORAGE: {file} is a file; name a folder" in refused([*words, f"--storage={file}"])
    assert "Not a directory; name a folder" in refused([*words, f"--storage={file}/runs"])


@pytest.mark.parametrize("words", [["list"], ["status", "demo"], ["resume", "demo"], ["stop", "demo"]])
def test_where_no_storage_is_commands_say_so_and_make_none(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refused(words)
    assert f"there is no storage at {tmp_path}/runs" in said
    assert "--storage or SSL_SWEEP_STORAGE" in said
    assert os.listdir(tmp_path) == []


def test_a_folder_without_a_ledger_gets_none_by_reading(tmp_path: Path) -> None:
    place = f"--storage={tmp_path}"
    assert f"no sweep named 'demo' here: {tmp_path} has no ledger.db" in refused(["status", "demo", place])
    assert CliRunner().invoke(app, ["list", place]).exit_code == 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("place", ["/proc/runs", "/proc/self/status/runs"])
def test_a_storage_that_cannot_be_made_is_refused(place: str) -> None:
    with pytest.raises(StorageError, match=f"SSL_SWEEP_STORAGE: '?{place}.*name a"):
        find_storage(place).check("sqlite:///mlflow.db")
