"""The service's database: submissions, their events and webhooks to deliver, in SQLite or PostgreSQL.

Every change is one transaction that names the state it starts from, so that the dispatcher and a request never undo one
another: the second one changes nothing and returns False.
"""

import json
import time
import uuid
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from sqlalchemy import Engine, Row, create_engine, delete, event, func, insert, make_url, or_, select, update
from sqlalchemy.exc import IntegrityError

from ssl_sweep.errors import UserError
from ssl_sweep.ledger.new_tables import make_tables
from ssl_sweep.service import tables
from ssl_sweep.service.access import Access
from ssl_sweep.service.states import SweepState
from ssl_sweep.storage.database_urls import sqlite_file
from ssl_sweep.storage.layout import POSTGRESQL
from ssl_sweep.storage.sqlite_file import check_file

MENDS = "lets the service begin with an empty queue; the sweeps themselves stay"
BUSY_S = 30.0  # that one writer waits for another


class StoreError(UserError, ValueError):
    """A submission cannot be stored."""


@dataclass(frozen=True)
class Submission:
    """A submitted sweep. Times are Unix seconds."""

    id: str
    name: str
    owner: str
    spec: Mapping[str, Any]
    slots: int
    cpus: float
    gpus: float
    created: float
    queued: float
    client_key: str | None = None
    priority: int = 0
    granted: int = 0
    command: tuple[str, ...] = ("run",)
    state: SweepState = SweepState.QUEUED
    reason: str = ""
    asked: str | None = None
    attempt: int = 0
    deaths: int = 0
    done_before: int = 0
    not_before: float = 0.0
    counts: Mapping[str, Any] = field(default_factory=dict)
    launched: float | None = None
    ended: float | None = None


class Store(Access):
    """The service's database."""

    def __init__(self, url: str) -> None:
        if (file := sqlite_file(url)) is not None:
            check_file(file, ("submissions",), MENDS)
        super().__init__(_engine(url))
        self.version = 0  # incremented by every change of a submission in this process
        make_tables(lambda: tables.metadata.create_all(self._engine))

    def close(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def add(self, new: Submission) -> Submission:
        """Add and return a submission; if its owner has used its client key before, return the earlier one.

        Raises:
            StoreError: another submission has its name.
        """
        try:
            with self._engine.begin() as connection:
                connection.execute(insert(tables.submissions).values(_plain(asdict(new))))
                _add_event(connection, new.id, "state", {"state": new.state, "reason": new.reason})
            self.version += 1
            return new
        except IntegrityError:
            known = [each for each in self.find(owner=new.owner) if each.client_key == new.client_key]
            if new.client_key is not None and known:
                return known[0]
            raise StoreError(
                f"a sweep named {new.name!r} was submitted before; name the new one otherwise, or resume the old one"
            ) from None

    def get(self, name: str) -> Submission | None:
        """The submission of a sweep, by the sweep's name."""
        rows = self._rows(select(tables.submissions).where(tables.submissions.c.name == name))
        return _submission(rows[0]) if rows else None

    def state_of(self, submission: str) -> str | None:
        """A submission's state, by its id."""
        table = tables.submissions
        rows = self._rows(select(table.c.state).where(table.c.id == submission))
        return str(rows[0].state) if rows else None

    def find(
        self,
        *,
        states: Collection[str] = (),
        owner: str | None = None,
        client_key: str | None = None,
        before: float | None = None,
        text: str = "",
        limit: int | None = None,
    ) -> list[Submission]:
        """Submissions, newest first; `before`: made before this time; `text`: part of the name or owner."""
        table = tables.submissions
        query = select(table).order_by(table.c.created.desc(), table.c.id).limit(limit)
        if states:
            query = query.where(table.c.state.in_(states))
        if owner is not None:
            query = query.where(table.c.owner == owner)
        if client_key is not None:
            query = query.where(table.c.client_key == client_key)
        if before is not None:
            query = query.where(table.c.created < before)
        if text:
            matches = [column.icontains(text, autoescape=True) for column in (table.c.name, table.c.owner)]
            query = query.where(or_(*matches))
        return [_submission(row) for row in self._rows(query)]

    def count_by_state(self) -> dict[str, int]:
        """The number of submissions by state."""
        state = tables.submissions.c.state
        counted = self._rows(select(state, func.count().label("number")).group_by(state))
        return {row.state: row.number for row in counted}

    def change(self, old: Submission, *, webhook: Mapping[str, Any] | None = None, **values: Any) -> bool:
        """Change a submission if its state, attempt and request to end are still as in `old`; return whether they were.

        webhook: the notification about the change.
        """
        table = tables.submissions
        same = [table.c.id == old.id, table.c.state == old.state, table.c.attempt == old.attempt]
        same.append(table.c.asked.is_not_distinct_from(old.asked))
        with self._engine.begin() as connection:
            if connection.execute(update(table).where(*same).values(_plain(values))).rowcount != 1:
                return False
            state = {"state": values.get("state", old.state), "reason": values.get("reason", old.reason)}
            if (state["state"], state["reason"]) != (old.state, old.reason):
                _add_event(connection, old.id, "state", state)
            if webhook is not None:
                row = {"delivery": str(uuid.uuid4()), "content": dict(webhook), "time": time.time()}
                connection.execute(insert(tables.webhook_outbox).values(row))
        self.version += 1
        return True

    def remove(self, old: Submission) -> bool:
        """Delete a submission and its events if its state is still as in `old`; return whether it was."""
        table = tables.submissions
        with self._engine.begin() as connection:
            connection.execute(delete(tables.events).where(tables.events.c.submission == old.id))
            gone = connection.execute(delete(table).where(table.c.id == old.id, table.c.state == old.state))
            if gone.rowcount != 1:
                connection.rollback()
        self.version += 1
        return gone.rowcount == 1

    def add_events(self, submission: str, kind: str, data: Iterable[Mapping[str, Any]]) -> None:
        """Add events of one kind to a submission."""
        row = select(tables.submissions.c.id).where(tables.submissions.c.id == submission).with_for_update()
        with self._engine.begin() as connection:
            connection.execute(row)  # locks the submission: readers see its event numbers in order
            for each in data:
                _add_event(connection, submission, kind, each)

    def events(
        self, submission: str, after: int = 0, limit: int | None = None, kind: str | None = None
    ) -> list[dict[str, Any]]:
        """A submission's events after a number, in their order."""
        table = tables.events
        query = select(table).where(table.c.submission == submission, table.c.number > after)
        if kind is not None:
            query = query.where(table.c.kind == kind)
        rows = self._rows(query.order_by(table.c.number).limit(limit))
        return [{"number": row.number, "time": row.time, "kind": row.kind, **row.data} for row in rows]

    def last_event(self, submission: str) -> int:
        """The number of a submission's last event; 0 if it has none."""
        table = tables.events
        return int(self._rows(select(func.max(table.c.number)).where(table.c.submission == submission))[0][0] or 0)

    def pending_webhooks(self) -> list[tuple[str, dict[str, Any]]]:
        """The ids and contents of undelivered notifications, oldest first."""
        table = tables.webhook_outbox
        rows = self._rows(select(table).order_by(table.c.time, table.c.delivery))
        return [(row.delivery, row.content) for row in rows]

    def forget_webhook(self, delivery: str) -> None:
        """Remove a notification that was delivered, or never will be."""
        table = tables.webhook_outbox
        with self._engine.begin() as connection:
            connection.execute(delete(table).where(table.c.delivery == delivery))

    def read(self) -> dict[str, Any]:
        """All notes."""
        notes = {row.name: json.loads(row.value) for row in self._rows(select(tables.notes))}
        return {name: value for name, value in notes.items() if value is not None}

    def swap(self, name: str, old: Any, new: Any) -> bool:
        """Set a note from `old` (None: no note) to `new`; return whether it was `old`. Of two callers one succeeds."""
        table, before, after = tables.notes, json.dumps(old), json.dumps(new)
        try:
            with self._engine.begin() as connection:
                swapped = update(table).where(table.c.name == name, table.c.value == before).values(value=after)
                if connection.execute(swapped).rowcount == 0:
                    if old is not None:
                        return False
                    connection.execute(insert(table).values(name=name, value=after))
                return True
        except IntegrityError:  # another caller was first
            return False


def _engine(url: str) -> Engine:
    file = sqlite_file(url)
    if file is None:
        arguments = POSTGRESQL if make_url(url).get_backend_name() == "postgresql" else {}
        return create_engine(url, pool_pre_ping=True, connect_args=arguments)
    file.parent.mkdir(parents=True, exist_ok=True)
    engine = create_engine(url, connect_args={"timeout": BUSY_S})

    @event.listens_for(engine, "connect")
    def _readers_do_not_wait_for_writers(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA foreign_keys=ON")

    return engine


def _add_event(connection: Any, submission: str, kind: str, data: Mapping[str, Any]) -> None:
    row = {"submission": submission, "time": time.time(), "kind": kind, "data": dict(data)}
    connection.execute(insert(tables.events).values(row))


def _plain(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _submission(row: Row[Any]) -> Submission:
    return Submission(**{**row._mapping, "command": tuple(row.command), "state": SweepState(row.state)})
