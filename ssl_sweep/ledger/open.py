"""Opens a sweep's ledger, the Optuna study of its choices: to drive the sweep, or only to read it."""

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import optuna
from optuna.trial import FrozenTrial

from ssl_sweep.data.recipes import AUTO, NONE
from ssl_sweep.ledger.cached_storage import CachedStudyStorage
from ssl_sweep.ledger.database import DatabaseStorage, has_ledger, open_storage
from ssl_sweep.ledger.entries import LedgerError, Notes
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.ledger.sampling import Knobs
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.ledger.warm_start import CMAES_NEEDS, FROM, lessons
from ssl_sweep.spec.changes import differences, is_free
from ssl_sweep.spec.sweep import SweepSpec, from_dump
from ssl_sweep.storage.database_urls import sqlite_file

optuna.logging.set_verbosity(optuna.logging.WARNING)

_known: set[str] = set()  # URLs of databases whose tables this process has checked


def open_ledger(
    url: str,
    spec: SweepSpec,
    say: Callable[[str], object] = lambda _: None,
    *,
    extends: bool = False,
    owner: str | None = None,
) -> Ledger:
    """Open a sweep's ledger to drive it; a new sweep gets one.

    Args:
        url: of the database.
        spec: the sweep's.
        say: gets a message about what a new sweep learns from earlier ones.
        extends: whether the spec extends the stored one, which then is not compared with it.
        owner: of the sweep's lease; every write checks that it still holds it.

    Raises:
        LedgerError: a sweep of this name has another spec, and the message names the differences; or an earlier sweep
            to learn from does not exist, or has too few complete choices.
    """
    taught = _lessons(url, spec, say)
    database = open_storage(url)
    _study_of(database, spec)
    cached = CachedStudyStorage(database, spec.name, owner)
    study = optuna.load_study(storage=cached, study_name=spec.name)
    if "uuid" not in study.user_attrs:
        study.set_user_attr("uuid", str(uuid.uuid4()))
    if not extends:
        _check_same(study, spec)
    if taught:
        known = {frozen.user_attrs.get(FROM) for frozen in study.get_trials(deepcopy=False)}
        with cached.transaction():
            study.add_trials([frozen for frozen in taught if frozen.user_attrs[FROM] not in known])
        study.set_user_attr("taught", True)  # set last: a driver killed before this adds the rest when it resumes
    study.set_user_attr("spec", spec.model_dump(mode="json"))
    return Ledger(study, spec, Notes(study, database), cached)


def _lessons(url: str, spec: SweepSpec, say: Callable[[str], object]) -> list[FrozenTrial]:
    """What a sweep learns from earlier ones; only at its start, since these may continue."""
    storage = open_storage(url)
    if not spec.search.earlier or _is_taught(storage, spec.name):
        return []
    try:
        earlier = {name: load_ledger(url, name).choices for name in spec.search.earlier}
    except LedgerError as error:
        raise LedgerError(f"search.from: {error}") from None
    taught, summary = lessons(earlier, spec, Knobs(spec))
    if spec.search.sampler == "cmaes" and len(taught) < CMAES_NEEDS:
        needs = f"sampler cmaes begins with their best tenth and needs {CMAES_NEEDS}: use tpe or gp"
        raise LedgerError(f"{summary}; {needs}")
    say(summary)
    return taught


def _is_taught(storage: DatabaseStorage, name: str) -> bool:
    if name not in optuna.get_all_study_names(storage):
        return False
    return "taught" in optuna.load_study(storage=storage, study_name=name).user_attrs


def load_ledger(url: str, name: str) -> LedgerReader:
    """Open an existing sweep's ledger to read it, with the spec of the last run.

    Raises:
        LedgerError: there is no such sweep; the message names the existing ones.
    """
    _check_exists(url, name)
    return _load(open_storage(url), name)


@contextmanager
def read_ledger(url: str, name: str) -> Iterator[LedgerReader]:
    """The same for repeated reads: closes the connections at once, not when Python collects garbage."""
    _check_exists(url, name)
    storage = open_storage(url, known=url in _known)
    _known.add(url)
    try:
        yield _load(storage, name)
    finally:
        storage.engine.dispose()


def _load(storage: DatabaseStorage, name: str) -> LedgerReader:
    try:
        study = optuna.load_study(storage=storage, study_name=name)
        spec = study.user_attrs["spec"]
    except KeyError:
        there = ", ".join(_begun(storage)) or "none"
        raise LedgerError(f"no sweep named '{name}' here; there is {there}") from None
    return LedgerReader(study, from_dump(spec), Notes(study, storage))


def open_notes(url: str, spec: SweepSpec) -> Notes:
    """Open the notes of a sweep, which may be new, before its ledger is opened."""
    storage = open_storage(url)
    return Notes(_study_of(storage, spec), storage)


def sweep_names(url: str) -> list[str]:
    """The sweeps of a ledger's database, in alphabetical order."""
    return _begun(open_storage(url)) if has_ledger(url) else []


def _check_exists(url: str, name: str) -> None:
    """Refuse a missing file of SQLite, which Optuna would make."""
    if not has_ledger(url) and (file := sqlite_file(url)):
        folder = file.parent
        missing = f"{folder} has no {file.name}" if folder.is_dir() else f"there is no storage at {folder}"
        remedy = "name the storage of your sweeps by --storage or SSL_SWEEP_STORAGE"
        raise LedgerError(f"no sweep named '{name}' here: {missing}; {remedy}")


def _begun(storage: DatabaseStorage) -> list[str]:
    """The studies that have a spec; without one, their driver was refused or died before it began."""
    # Optuna's own summaries of studies read every trial of each
    return sorted(study.study_name for study in storage.get_all_studies() if "spec" in study.user_attrs)


def _study_of(storage: DatabaseStorage, spec: SweepSpec) -> optuna.Study:
    directions = [objective.direction for objective in spec.search.objectives]
    if spec.name in optuna.get_all_study_names(storage):
        study = optuna.load_study(storage=storage, study_name=spec.name)
        if "spec" in study.user_attrs or [direction.name.lower() for direction in study.directions] == directions:
            return study
        optuna.delete_study(storage=storage, study_name=spec.name)  # of a driver that was refused before it began
    return optuna.create_study(storage=storage, study_name=spec.name, directions=directions, load_if_exists=True)


def _check_same(study: optuna.Study, spec: SweepSpec) -> None:
    stored = study.user_attrs.get("spec")
    if stored is None:
        return
    old = from_dump(stored)
    differing = [line for line in differences(old, spec) if not is_free(line)]
    if differing:
        listed = "\n  ".join(differing)
        more = f"; for more choices of the same: ssl-sweep extend {spec.name} --choices +N"
        if spec.search.sampler == "grid":  # which has all choices already
            more = ""
        if (old.views["recipe"], spec.views["recipe"]) == (NONE, AUTO):
            more = "; views are by default those of the method's paper now: `recipe: none` under `views` keeps the old"
        raise LedgerError(
            f"a sweep named '{spec.name}' exists with another spec:\n  {listed}\n"
            f"give the new one another name, or undo the change to continue the old one{more}"
        )
