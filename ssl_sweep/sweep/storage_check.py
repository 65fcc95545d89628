"""Checks all of a storage for `ssl-sweep doctor`: databases, the files of each sweep, and the runs in MLflow.

The checks are lazy: whoever mends a finding before he asks for the next one has the next file checked as it then is.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from ssl_sweep.errors import UserError
from ssl_sweep.ledger import database
from ssl_sweep.ledger.lease import is_driven, no_driver
from ssl_sweep.ledger.open import load_ledger, sweep_names
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.storage.database_urls import sqlite_file
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.storage.sqlite_file import check_file, put_aside, quick_check
from ssl_sweep.storage.urls import redacted
from ssl_sweep.sweep import storage_identity
from ssl_sweep.sweep.findings import Finding
from ssl_sweep.sweep.relearn import rebuild_sweep, sweep_folders
from ssl_sweep.sweep.sweep_files import SweepFiles
from ssl_sweep.sweep.tracking_uri import stored_tracking_uri
from ssl_sweep.tracking import store
from ssl_sweep.tracking.inventory import FoundRun, delete_runs, trial_runs
from ssl_sweep.tracking.recorder import sync
from ssl_sweep.tracking.spool import Spool
from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.events import Ended
from ssl_sweep.trialdir.journal import JOURNAL, read

SERVICE_TABLES = ("submissions", "events")


def check_storage(storage: Storage, tell: Callable[[str], object] = lambda _: None) -> Iterator[Finding]:
    """All findings about a storage; `tell` gets words about the progress."""
    if not isinstance(storage, FolderStorage):
        words = "files in a bucket are not read here: S3 keeps their checksums, and each reader names a damaged one"
        yield Finding("files", True, f"not checked; {words}")
        yield from _check_tracking(storage, _ledgers(storage), tell)
        return
    tell("the ledger")
    yield from _check_ledger(storage)
    yield from _check_service(storage)
    try:
        ledgers = _ledgers(storage)
    except UserError:  # still damaged, and told
        return
    yield from _check_identity(storage)
    for ledger in ledgers.values():
        yield from SweepFiles(storage, ledger, tell).findings()
    yield from _check_tracking(storage, _ledgers(storage), tell)


def mended(finding: Finding) -> Finding:
    """A finding after its mend, if it has one."""
    if finding.mend is None:
        return finding
    try:
        return Finding(finding.check, True, f"{finding.found}; mended: {finding.mend()}", finding.source)
    except UserError as error:
        return Finding(finding.check, False, f"{finding.found}; not mended: {error}", finding.source)


def _ledgers(storage: Storage) -> dict[str, LedgerReader]:
    if not database.has_ledger(storage.ledger_url):
        return {}
    return {name: load_ledger(storage.ledger_url, name) for name in sweep_names(storage.ledger_url)}


def _check_ledger(storage: Storage) -> Iterator[Finding]:
    url, folders = storage.ledger_url, sweep_folders(storage)
    file = sqlite_file(url)
    if file is not None and (wrong := _damage(file, database.TABLES, is_needed=bool(folders))):
        yield Finding(file.name, False, wrong, _listed("the folders of", folders), partial(_new_ledger, storage, file))
        if _damage(file, database.TABLES, is_needed=bool(folders)):  # it was not mended
            return
    try:
        known = sweep_names(url) if database.has_ledger(url) else []
    except UserError as error:  # a server that cannot be reached
        yield Finding("ledger", False, redacted(str(error)))
        return
    for name in (name for name in folders if name not in known):
        words = f"{redacted(url)} has no sweep {name}, whose trials have run"
        yield Finding(f"{name}: ledger", False, words, "its trials' folders", partial(rebuild_sweep, storage, name))
    yield Finding("ledger", True, f"{redacted(url)}: {len(known)} sweeps")


def _damage(file: Path, tables: tuple[str, ...], *, is_needed: bool) -> str | None:
    """What is wrong with a database's file."""
    try:
        check_file(file, tables, "mends it", is_needed=is_needed)
    except DamagedFileError as error:
        return str(error).partition("; ")[0]
    return quick_check(file) if file.exists() and file.stat().st_size else None


def _new_ledger(storage: Storage, file: Path) -> str:
    """Set a damaged ledger aside, and make each sweep anew from its folder."""
    folders = sweep_folders(storage)
    with ExitStack() as stack:
        for name in folders:
            stack.enter_context(no_driver(storage.sweep(name), None))
        words = [f"renamed it to {put_aside(file).name}"] if file.exists() else []
        database.open_storage(storage.ledger_url, is_lost=True)
    for name in folders:
        try:
            words.append(rebuild_sweep(storage, name))
        except UserError as error:
            words.append(f"sweep {name} is not rebuilt: {error}")
    return "; ".join(words)


def _check_identity(storage: Storage) -> Iterator[Finding]:
    try:
        moved = storage_identity.check(storage)
    except DamagedFileError:  # the MLflow store, which is checked below
        return
    if moved:

        def mend() -> str:
            return "; ".join(storage_identity.mend(storage)) or "nothing was left to do"

        yield Finding("identity", False, "; ".join(moved), "the storage itself", mend)


def _check_service(storage: Storage) -> Iterator[Finding]:
    file = sqlite_file(storage.service_url)
    if file is not None and file.exists() and (wrong := _damage(file, SERVICE_TABLES, is_needed=False)):
        yield Finding(
            file.name, False, wrong, "nothing: queue and tokens are lost, the sweeps are not; stop the service first",
            lambda: f"renamed it to {put_aside(file).name}; make new tokens: ssl-sweep token create NAME",
        )  # fmt: skip


def _check_tracking(
    storage: Storage, ledgers: Mapping[str, LedgerReader], tell: Callable[[str], object]
) -> Iterator[Finding]:
    """Compare MLflow with the journals, store by store."""
    stores: dict[str, list[LedgerReader]] = defaultdict(list)
    for name, ledger in ledgers.items():
        try:
            stores[stored_tracking_uri(storage, name)].append(ledger)
        except DamagedFileError as error:
            yield Finding(f"{name}: MLflow", False, str(error))
    for uri, readers in stores.items():
        file = sqlite_file(uri) if uri.startswith("sqlite") else None
        if file is not None and (wrong := _damage(file, store.TABLES, is_needed=True)):
            names = [ledger.spec.name for ledger in readers]
            source = _listed("the journals of", names)
            yield Finding(file.name, False, wrong, source, partial(_new_store, storage, uri, file, readers))
        for ledger in readers:
            tell(f"{ledger.spec.name}: MLflow")
            yield _check_runs(storage, ledger, uri)


def _new_store(storage: Storage, uri: str, file: Path, readers: list[LedgerReader]) -> str:
    """Set a damaged MLflow store aside, and deliver all journals to a new one."""
    with ExitStack() as stack:
        for ledger in readers:
            stack.enter_context(no_driver(storage.sweep(ledger.spec.name), ledger.notes))
        words = f"renamed it to {put_aside(file).name}; " if file.exists() else ""
        return words + "; ".join(_deliver(storage, ledger.spec.name, uri) for ledger in readers)


def _deliver(storage: Storage, name: str, uri: str) -> str:
    with storage.snapshot(name) as copy:
        return f"delivered {sync(name, copy.sweep(name), uri)} events of {name}"


def _check_runs(storage: Storage, ledger: LedgerReader, uri: str) -> Finding:
    """Compare the runs of a sweep with its trials' journals."""
    name, where = ledger.spec.name, redacted(uri)
    if is_driven(ledger.notes):
        return Finding(f"{name}: MLflow", True, "its driver delivers to it")
    try:
        with storage.snapshot(name) as copy:
            folder = copy.sweep(name)
            runs, pending = trial_runs(name, folder, uri), Spool(folder).pending()
            expected = {each.trial_id: _last_state(copy.trial(name, each.trial_id)) for each in ledger.trials}
    except Exception as error:  # MLflow has many types for a server that cannot be reached
        return Finding(f"{name}: MLflow", False, redacted(f"{where} cannot be read: {error}"))
    begun = {trial: state for trial, state in expected.items() if state is not None}
    lacking = sum(not runs.get(trial) for trial in begun)
    stale = sum(bool(runs.get(trial)) and state not in _states(runs[trial]) for trial, state in begun.items())
    extra = [run.run_id for found in runs.values() for run in found[1:]]
    counts = {"trials": lacking, "ends of trials": stale, "events": 0 if lacking else pending}
    wrong = [f"lacks {count} {what}" for what, count in counts.items() if count]
    wrong += [f"has {len(extra)} runs of trials that it has already"] if extra else []
    if not wrong:
        return Finding(f"{name}: MLflow", True, f"{where}: {len(runs)} trials")

    def mend() -> str:
        with no_driver(storage.sweep(name), ledger.notes):
            delete_runs(extra, uri)
            return f"{f'deleted {len(extra)} runs; ' if extra else ''}{_deliver(storage, name, uri)}"

    return Finding(f"{name}: MLflow", False, f"{where} {', '.join(wrong)}", "the journals", mend)


def _states(runs: list[FoundRun]) -> set[str]:
    return {run.state for run in runs}


def _last_state(folder: Path) -> str | None:
    """The state in which a trial's journal ends; None of one that has not begun, or cannot be read."""
    try:
        events = read(folder)[0] if (folder / JOURNAL).exists() else []
    except DamagedFileError:
        return None
    if not events:
        return None
    return str(events[-1].state) if isinstance(events[-1], Ended) else "RUNNING"


def _listed(words: str, names: list[str]) -> str:
    return f"{words} {', '.join(names)}" if names else "nothing: there are no sweeps"
