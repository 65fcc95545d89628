"""Makes a study forget its results: its choices stay, and their trials run again."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from optuna.trial import TrialState as OptunaState
from sqlalchemy import Connection, and_, delete, select, update

from ssl_sweep.ledger.compat import NOTES, STEPS, STUDY_ATTRS, SYSTEM_ATTRS, TRIALS, USER_ATTRS, VALUES
from ssl_sweep.ledger.entries import Notes, Trial
from ssl_sweep.ledger.reader import CONFIRM
from ssl_sweep.ledger.warm_start import FROM

SEED = "seed:"
FIXED = "fixed_params"  # all else in the system attributes is what samplers and pruners have learned
ENDED = (OptunaState.COMPLETE, OptunaState.PRUNED, OptunaState.FAIL)


def forget_results(notes: Notes, note: str, value: Mapping[str, Any]) -> None:
    """Remove all results of a sweep, and what samplers and pruners have learned from them; also set a note.

    All in one transaction. Each choice is then as a driver leaves one whose trials have not run, with its knobs, the
    ids of its trials and their numbers of attempts. What was learned from earlier sweeps stays.
    """
    row = notes.database.get_study_id_from_name(notes.study_name)

    def write(connection: Connection, again: bool) -> None:
        _reset_choices(connection, row)
        _reset_notes(connection, row)
        is_note = and_(NOTES.c.study_id == row, NOTES.c.key == note)
        connection.execute(delete(NOTES).where(is_note))
        connection.execute(NOTES.insert(), {"study_id": row, "key": note, "value_json": json.dumps(value)})

    notes.database.transact(write)


def _reset_choices(connection: Connection, study: int) -> None:
    attrs: dict[int, dict[str, Any]] = {}
    of_study = select(TRIALS.c.trial_id).where(TRIALS.c.study_id == study)
    for each in connection.execute(select(USER_ATTRS).where(USER_ATTRS.c.trial_id.in_(of_study))).mappings():
        attrs.setdefault(each["trial_id"], {})[each["key"]] = json.loads(each["value_json"])
    newest: dict[int, int] = {}  # of each choice, the Optuna trial that a retry has added last
    trials = connection.execute(select(TRIALS).where(TRIALS.c.study_id == study).order_by(TRIALS.c.number)).mappings()
    for trial in trials.all():
        row, own = trial["trial_id"], attrs.get(trial["trial_id"], {})
        if FROM in own:
            continue
        newest[own.get("root", trial["number"])] = row
        _reset_trial(connection, row, own)
    running = {"state": OptunaState.RUNNING, "datetime_complete": None}
    for row in newest.values():
        connection.execute(update(TRIALS).where(TRIALS.c.trial_id == row, TRIALS.c.state.in_(ENDED)).values(running))


def _reset_trial(connection: Connection, row: int, attrs: Mapping[str, Any]) -> None:
    for table in (VALUES, STEPS):
        connection.execute(delete(table).where(table.c.trial_id == row))
    connection.execute(delete(SYSTEM_ATTRS).where(SYSTEM_ATTRS.c.trial_id == row, SYSTEM_ATTRS.c.key != FIXED))
    connection.execute(delete(USER_ATTRS).where(USER_ATTRS.c.trial_id == row, USER_ATTRS.c.key == "pruned"))
    connection.execute(
        update(TRIALS).where(TRIALS.c.trial_id == row, TRIALS.c.state.in_(ENDED)).values(state=OptunaState.FAIL)
    )
    for key, stored in attrs.items():
        if key.startswith(SEED):
            where = and_(USER_ATTRS.c.trial_id == row, USER_ATTRS.c.key == key)
            text = json.dumps(asdict(Trial.read(stored).reset()))
            connection.execute(update(USER_ATTRS).where(where).values(value_json=text))


def _reset_notes(connection: Connection, study: int) -> None:
    """Reset the trials with fresh seeds, and forget the parents that a genetic search has chosen."""
    is_confirm = and_(NOTES.c.study_id == study, NOTES.c.key.startswith(f"{CONFIRM}:"))
    for note in connection.execute(select(NOTES).where(is_confirm)).mappings().all():
        trials = [asdict(Trial.read(stored).reset()) for stored in json.loads(note["value_json"])]
        where = and_(NOTES.c.study_id == study, NOTES.c.key == note["key"])
        connection.execute(update(NOTES).where(where).values(value_json=json.dumps(trials)))
    parents = and_(STUDY_ATTRS.c.study_id == study, STUDY_ATTRS.c.key.contains(":parent:"))
    connection.execute(delete(STUDY_ATTRS).where(parents))
