"""Keeps a driver's study in memory, and writes each change to the database before anybody acts on it.

Optuna's own storages read a trial again before and after each write. Only the driver writes its sweep's choices, so
what it has read once stays true while it holds the lease.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cache
from typing import Any

from optuna.distributions import BaseDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, Table, Update, and_, bindparam, select

from ssl_sweep.ledger.compat import (
    NOTES,
    PARAMS,
    STEPS,
    SYSTEM_ATTRS,
    TRIALS,
    USER_ATTRS,
    VALUES,
    row_of,
    stored_id,
)
from ssl_sweep.ledger.database import DatabaseStorage
from ssl_sweep.ledger.entries import LEASE, LeaseLost

_FIND = select(TRIALS.c.trial_id).where(
    TRIALS.c.study_id == bindparam("study_id"), TRIALS.c.number == bindparam("number")
)
_READ_NOTE = (
    select(NOTES.c.value_json)
    .where(NOTES.c.study_id == bindparam("study_id"), NOTES.c.key == bindparam("key"))
    .with_for_update(read=True)
)
STATE = "state"  # the key of a trial's own row in `_changes`


class CachedStudyStorage(InMemoryStorage):
    """One study. A trial's id is its number here, and another one in the database.

    Each write raises LeaseLost if another driver holds the sweep's lease.
    """

    def __init__(self, database: DatabaseStorage, name: str, owner: str | None = None) -> None:
        """owner: the lease's; None, in tests, does not check the lease."""
        super().__init__()
        self._database, self._study_row, self._owner = database, database.get_study_id_from_name(name), owner
        study = self.create_new_study(database.get_study_directions(self._study_row), name)
        for key, value in database.get_study_system_attrs(self._study_row).items():
            super().set_study_system_attr(study, key, value)
        self._rows: list[int] = []  # the trials' ids in the database
        for trial in database.get_all_trials(self._study_row, deepcopy=False):
            super().create_new_trial(study, trial)
            self._rows.append(stored_id(trial))
        # rows to write: (trial, table, key of the row) -> whether the database may have the row already
        self._changes: dict[tuple[int, Table, Any], bool] = {}
        self._in_transaction, self._unsure = False, False  # unsure: a write failed, and may be committed all the same

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all changes of the block in one transaction; if the block raises, write nothing."""
        if self._in_transaction:
            yield
            return
        self._in_transaction = True
        try:
            yield
        finally:
            self._in_transaction = False
        self._write()

    def get_study_user_attrs(self, study_id: int) -> dict[str, Any]:
        """Read the notes, which other processes write too."""
        return self._database.get_study_user_attrs(self._study_row)

    def set_study_user_attr(self, study_id: int, key: str, value: Any) -> None:
        where, values = {"study_id": self._study_row, "key": key}, {"value_json": json.dumps(value)}

        def put(connection: Connection, again: bool) -> None:
            if not _update(connection, NOTES, where, values):
                connection.execute(NOTES.insert(), {**where, **values})
            self._check_lease(connection)

        self._database.transact(put)

    def set_study_system_attr(self, study_id: int, key: str, value: Any) -> None:
        self._database.set_study_system_attr(self._study_row, key, value)
        super().set_study_system_attr(study_id, key, value)

    def create_new_trial(self, study_id: int, template_trial: FrozenTrial | None = None) -> int:
        number = super().create_new_trial(study_id, template_trial)
        self._changes[number, TRIALS, STATE] = False
        trial = self.get_trial(number)
        keys_of: dict[Table, Mapping[Any, Any] | range] = {
            PARAMS: trial.params,
            USER_ATTRS: trial.user_attrs,
            SYSTEM_ATTRS: trial.system_attrs,
            VALUES: range(len(trial.values or ())),
            STEPS: trial.intermediate_values,
        }
        self._changes.update({(number, table, key): False for table, keys in keys_of.items() for key in keys})
        self._changed()
        return number

    def set_trial_param(
        self, trial_id: int, param_name: str, param_value_internal: float, distribution: BaseDistribution
    ) -> None:
        super().set_trial_param(trial_id, param_name, param_value_internal, distribution)
        self._changed((trial_id, PARAMS, param_name), known=False)

    def set_trial_state_values(self, trial_id: int, state: TrialState, values: Sequence[float] | None = None) -> bool:
        if not super().set_trial_state_values(trial_id, state, values):
            return False
        for objective in range(len(values or ())):
            self._changes[trial_id, VALUES, objective] = False
        self._changed((trial_id, TRIALS, STATE), known=True)
        return True

    def set_trial_intermediate_value(self, trial_id: int, step: int, intermediate_value: float) -> None:
        known = step in self.get_trial(trial_id).intermediate_values
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        self._changed((trial_id, STEPS, step), known)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        known = key in self.get_trial(trial_id).user_attrs
        super().set_trial_user_attr(trial_id, key, value)
        self._changed((trial_id, USER_ATTRS, key), known)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        known = key in self.get_trial(trial_id).system_attrs
        super().set_trial_system_attr(trial_id, key, value)
        self._changed((trial_id, SYSTEM_ATTRS, key), known)

    def _changed(self, change: tuple[int, Table, Any] | None = None, known: bool = False) -> None:
        if change is not None:
            self._changes.setdefault(change, known)
        if not self._in_transaction:
            self._write()

    def _write(self) -> None:
        """Write all changes; those of a failed write are written with the next one."""
        if self._changes:
            unsure, self._unsure = self._unsure, True
            self._database.transact(lambda connection, again: self._put_all(connection, again or unsure))
            self._changes.clear()
            self._unsure = False

    def _put_all(self, connection: Connection, again: bool) -> None:
        """again: the database may have any of these rows already."""
        new: dict[Table, list[dict[str, Any]]] = {}
        for (number, table, key), known in self._changes.items():
            if table is TRIALS:
                self._put_trial(connection, number, known, again)
                continue
            names, values = row_of(self.get_trial(number), table, key)
            where = {"trial_id": self._rows[number], **names}
            if not (known or again) or not _update(connection, table, where, values):
                new.setdefault(table, []).append({**where, **values})
        for table, rows in new.items():
            connection.execute(table.insert(), rows)
        self._check_lease(connection)

    def _check_lease(self, connection: Connection) -> None:
        """Check the lease last in a transaction: from here to its end nobody can take the sweep over."""
        if self._owner is None:
            return
        text = connection.execute(_READ_NOTE, {"study_id": self._study_row, "key": LEASE}).scalar()
        held = json.loads(text) if text else None
        if held is None or held["owner"] != self._owner:
            who = f"process {held['pid']} on {held['host']}" if held else "somebody"
            raise LeaseLost(f"{who} has taken this sweep over; this driver writes nothing more of it")

    def _put_trial(self, connection: Connection, number: int, known: bool, again: bool) -> None:
        trial = self.get_trial(number)
        started, ended = _utc(trial.datetime_start), _utc(trial.datetime_complete)
        values = {"state": trial.state, "datetime_start": started, "datetime_complete": ended}
        if not known:
            where = {"study_id": self._study_row, "number": number}
            row = connection.execute(_FIND, where).scalar() if again else None
            if row is None:
                row = next(iter(connection.execute(TRIALS.insert(), {**where, **values}).inserted_primary_key or ()))
            self._rows[number:] = [row]
        if known or again:
            _update(connection, TRIALS, {"trial_id": self._rows[number]}, values)


def _update(connection: Connection, table: Table, where: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Update a row; returns whether it was there."""
    condition = {f"where_{name}": value for name, value in where.items()}
    return connection.execute(_update_of(table, tuple(where), tuple(values)), {**condition, **values}).rowcount > 0


@cache
def _update_of(table: Table, names: tuple[str, ...], values: tuple[str, ...]) -> Update:
    condition = and_(*(table.c[name] == bindparam(f"where_{name}") for name in names))
    return table.update().where(condition).values({name: bindparam(name) for name in values})


def _utc(time: datetime | None) -> datetime | None:
    """A naive UTC time, as Optuna stores it."""
    return time and time.astimezone(UTC).replace(tzinfo=None)
