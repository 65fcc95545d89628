"""A ledger whose database goes away: answers that are lost, and what a user is told."""

import random
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from optuna.exceptions import StorageInternalError
from servers import Postgres, free_port

from ssl_sweep.ledger import database
from ssl_sweep.ledger import open as ledgers
from ssl_sweep.ledger.database import DatabaseStorage, LedgerUnreachableError, open_storage
from ssl_sweep.ledger.entries import LeaseLost, LedgerError
from ssl_sweep.ledger.open import load_ledger, open_ledger, open_notes, read_ledger, sweep_names
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import from_dump

METRIC = "knn/top1_val"
ALPHAS = [0.025 * step for step in range(13)]


class Unreliable(sqlite3.Connection):
    """Every so often a commit says that the server is gone: half of these were done all the same."""

    rng = random.Random(0)
    share = 0.0
    lost = 0

    def commit(self) -> None:
        fails = self.rng.random() < self.share
        if fails and self.rng.random() < 0.5:
            self._lose()
        super().commit()
        if fails:
            self._lose()

    def _lose(self) -> None:
        Unreliable.lost += 1
        raise sqlite3.OperationalError("server closed the connection unexpectedly")


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(database, "FIRST_DELAY_S", 0.001)
    monkeypatch.setattr(database, "LONGEST_DELAY_S", 0.001)
    yield
    Unreliable.share = 0.0


def unreliable(url: str) -> DatabaseStorage:
    return DatabaseStorage(url, engine_kwargs={"connect_args": {"factory": Unreliable}})


def spec(sampler: str) -> Any:
    space: Any = {"views.overlay_alpha": ALPHAS if sampler == "grid" else {"low": 0.0, "high": 0.4}}
    search = {"space": space, "seeds": 2, "sampler": sampler, "trials": None if sampler == "grid" else len(ALPHAS)}
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    return from_dump({"name": "sweep", **base, "evaluate": {"knn": {}}, "search": search})


def run(ledger: Ledger) -> None:
    """A sweep without its trials."""
    while (choice := ledger.ask()) is not None:
        for trial in choice.trials:
            ledger.update(replace(trial, state="RUNNING", attempts=1))
            value = choice.knobs["views.overlay_alpha"] + trial.seed
            ledger.update(replace(trial, state="COMPLETE", attempts=1, results={METRIC: value}))


def found(url: str) -> list[Any]:
    return [
        (choice.number, choice.knobs, [t.results for t in choice.trials])
        for choice in load_ledger(url, "sweep").choices
    ]


@pytest.mark.parametrize("sampler", ["grid", "random", "tpe"])
def test_lost_answers_leave_the_ledger_as_if_nothing_had_happened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sampler: str
) -> None:
    undisturbed, struck = (f"sqlite:///{tmp_path / name}.db" for name in ("undisturbed", "struck"))
    run(open_ledger(undisturbed, spec(sampler)))
    monkeypatch.setattr(ledgers, "open_storage", unreliable)
    ledger = open_ledger(struck, spec(sampler))
    Unreliable.share, Unreliable.lost = 0.4, 0
    run(ledger)
    Unreliable.share = 0.0
    assert Unreliable.lost > 20
    monkeypatch.undo()
    assert found(struck) == found(undisturbed)
    assert len(found(struck)) == len(ALPHAS)


def test_a_ledger_that_stays_away_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "PATIENCE_S", 0.05)
    storage = unreliable(f"sqlite:///{tmp_path / 'ledger.db'}")
    study = storage.create_new_study([], "sweep")
    Unreliable.share = 1.0
    with pytest.raises(
        LedgerUnreachableError, match=r"not be reached for 0\.05 s \(server closed .*`ssl-sweep resume`"
    ):
        storage.set_study_user_attr(study, "name", "value")


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("postgresql://ssl:se%3Acret@127.0.0.1:{port}/ledger", r"ssl:\*\*\*@.* cannot be reached .*PGPASSWORD"),
        ("postgres://ssl:secret@host/ledger", r"no database's URL .*postgresql://USER@HOST/DATABASE"),
        ("ledger.db", r"'ledger\.db' is no database's URL .*set SSL_SWEEP_LEDGER"),
        ("postgresql+psycopg2://ssl:secret@host/ledger", r"lacks its database driver .*ssl-sweep\[postgres\]"),
    ],
)
def test_a_ledger_that_cannot_be_opened_names_the_remedy_and_no_password(url: str, said: str) -> None:
    with pytest.raises(LedgerUnreachableError, match=said) as error:
        open_storage(url.format(port=free_port()))
    assert "cret" not in str(error.value)


def check_lease(url: str) -> None:
    """Whose lease it is writes the ledger, and nobody else does."""
    wanted = spec("random")
    notes, other = open_notes(url, wanted), open_notes(url, wanted)
    assert notes.swap("lease", None, {"owner": "first"})
    assert not other.swap("lease", None, {"owner": "second", "pid": 2, "host": "node2"})
    ledger = open_ledger(url, wanted, owner="first")
    running = replace(ledger.ask().trials[0], state="RUNNING", attempts=1)  # type: ignore[union-attr]
    ledger.update(running)
    assert other.swap("lease", {"owner": "first"}, {"owner": "second", "pid": 2, "host": "node2"})
    assert not notes.swap("lease", {"owner": "first"}, {"owner": "first"})
    with pytest.raises(LeaseLost, match="process 2 on node2 has taken this sweep over"):
        ledger.update(replace(running, state="FAILED"))
    assert load_ledger(url, "sweep").trials[0].state == "RUNNING"


def test_only_who_has_the_lease_writes(tmp_path: Path) -> None:
    check_lease(f"sqlite:///{tmp_path / 'ledger.db'}")


@pytest.mark.slow  # PostgreSQL makes its files first
def test_a_ledger_on_postgresql_is_the_one_on_sqlite(
    tmp_path: Path, postgres: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    here, there = f"sqlite:///{tmp_path / 'ledger.db'}", postgres.create("ledger")
    for url in (here, there):
        run(open_ledger(url, spec("tpe")))
    assert found(there) == found(here)
    check_lease(postgres.create("leased"))
    storage = open_storage(there)
    with storage.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE studies RENAME COLUMN study_name TO other")
    with pytest.raises(StorageInternalError):  # at once: the connection is well
        storage.get_study_id_from_name("sweep")
    monkeypatch.setenv("PGPASSWORD", "wrong")
    with pytest.raises(LedgerUnreachableError, match=r"password authentication failed .*PGPASSWORD"):
        open_storage(there)


def test_read_again_a_ledgers_tables_are_not_looked_at_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    open_ledger(url, spec("grid")).ask()
    with read_ledger(url, "sweep") as ledger:
        assert len(ledger.trials) == 2
    with monkeypatch.context() as patch:
        patch.setattr(database, "make_tables", lambda _: pytest.fail("looked at again"))
        with read_ledger(url, "sweep") as ledger:
            assert len(ledger.trials) == 2


def test_a_database_that_was_taken_away_is_made_anew(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    url = f"sqlite:///{file}"
    open_ledger(url, spec("grid"))
    with read_ledger(url, "sweep"):
        pass
    file.unlink()
    with pytest.raises(LedgerError, match="no sweep named 'sweep'"), read_ledger(url, "sweep"):
        pass


@pytest.mark.slow  # PostgreSQL makes its files first
def test_a_ledger_that_is_read_again_and_gone_says_so_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Postgres()
    monkeypatch.setenv("PGPASSWORD", server.password)
    try:
        server.start()
        url = server.create("ledger")
        open_ledger(url, spec("grid"))
        with read_ledger(url, "sweep"):
            pass
        server.kill()
        with (
            pytest.raises(LedgerUnreachableError, match=r"cannot be reached .*that the database is up"),
            read_ledger(url, "sweep"),
        ):
            pass
    finally:
        server.remove()


def test_sweeps_that_begin_at_once_make_the_new_database_together(tmp_path: Path) -> None:
    for number in range(2):
        with ThreadPoolExecutor(6) as pool:
            url = f"sqlite:///{tmp_path / f'{number}.db'}"
            for opened in [pool.submit(open_storage, url) for _ in range(6)]:
                assert opened.result().get_all_studies() == []


@pytest.fixture
def locking(tmp_path: Path) -> Iterator[Callable[[], sqlite3.Connection]]:
    """Locks the ledger's file as another process does that writes; `rollback` of the answer releases it."""
    held: list[sqlite3.Connection] = []

    def lock() -> sqlite3.Connection:
        connection = sqlite3.connect(tmp_path / "ledger.db", isolation_level=None, check_same_thread=False)
        connection.execute("BEGIN EXCLUSIVE")
        held.append(connection)
        return connection

    yield lock
    for connection in held:
        connection.close()


def test_a_locked_file_is_waited_for_with_one_message(
    tmp_path: Path,
    locking: Callable[[], sqlite3.Connection],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    after_warning: Callable[..., None],
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = open_ledger(url, spec("grid"))
    choice = ledger.ask()
    assert choice is not None
    running = replace(choice.trials[0], state="RUNNING", attempts=1)
    for use in (lambda: ledger.update(running), lambda: load_ledger(url, "sweep").trials, lambda: sweep_names(url)):
        caplog.clear()
        after_warning(database.log, locking().rollback)
        use()
        said = [record.message for record in caplog.records]
        assert len(said) == 2
        assert "ledger.db is locked by another process (database is locked); retrying for 300 s" in said[0]
        assert said[1].endswith("ledger.db can be reached again")
    assert load_ledger(url, "sweep").trials[0].state == "RUNNING"


def test_a_file_that_stays_locked_ends_a_sweep_with_a_remedy(
    tmp_path: Path, locking: Callable[[], sqlite3.Connection], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "BUSY_S", 0.05)
    monkeypatch.setattr(database, "PATIENCE_S", 0.2)
    url = f"sqlite:///{tmp_path / 'ledger.db'}"
    ledger = open_ledger(url, spec("grid"))
    locking()
    for use in (ledger.ask, lambda: load_ledger(url, "sweep"), lambda: sweep_names(url)):
        said = (
            r"could not be reached for 0.2 s \(database is locked\); end the process that locks it \(`fuser .*ledger.db"
        )
        with pytest.raises(LedgerUnreachableError, match=said):
            use()
