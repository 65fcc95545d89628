"""A storage that was moved or copied: its files, MLflow's locations of them, and the ids of its sweeps."""

import uuid
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from ssl_sweep.errors import UserError
from ssl_sweep.ledger.entries import Notes
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.storage.database_urls import sqlite_file, sqlite_url
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.identity import FILE, Identity, stored, whereabouts
from ssl_sweep.storage.layout import Storage
from ssl_sweep.tracking.locations import is_own, mend_locations
from ssl_sweep.tracking.store import check_store, naming_damage
from ssl_sweep.tracking.writer import read_sweep_id, write_sweep_id
from ssl_sweep.trialdir.locks import briefly_locked

NOTE = "sweep_id"  # in the ledger: the sweep's id in MLflow, and the storage that it has it in
LOCK_TIMEOUT_S = 120.0


def settle(storage: Storage, say: Callable[[str], object] = lambda words: None) -> str | None:
    """Let a folder know that it was moved or copied, before anything else is written there; a copy gets its own id.

    Returns:
        the storage's id; None for a bucket, and where there is no storage.

    Raises:
        StorageError: the folder cannot be written.
        LockHeldError: another process has been at this for too long.
    """
    if not isinstance(storage, FolderStorage) or not storage.root.is_dir():
        return None
    root = storage.root
    storage.check(storage.tracking_uri)
    with briefly_locked(root / ".storage.lock", LOCK_TIMEOUT_S):
        identity = Identity.read(root)
        where = whereabouts(root, identity)
        if identity is None or where in ("moved", "copied"):
            _mend_locations(root)
            identity, before = Identity.of(root, identity.id if identity and where == "moved" else None), identity
            if before is not None:
                own = "; it has an id of its own now" if where == "copied" else ""
                say(f"{root} was {where} from {before.path}: MLflow's locations of its files lead here{own}")
        if where != "mounted":
            identity.write(root)
        return identity.id


def keep_sweep_id(storage: Storage, name: str, tracking_uri: str, notes: Notes, storage_id: str | None) -> None:
    """Let the ledger and the sweep's folder have the same id of the sweep, so that either restores it.

    In a copy that shares MLflow with its original, the sweep gets an id, and so runs, of its own. Where both have lost
    the id of a sweep that has begun, the recorder looks for it in MLflow.

    Args:
        storage: where the sweep lies.
        name: the sweep's.
        tracking_uri: its MLflow store.
        notes: the sweep's.
        storage_id: what `settle` has returned.
    """
    folder, note = storage.sweep(name), notes.read().get(NOTE)
    sweep_id = note["id"] if note else read_sweep_id(folder)
    if note and note["storage"] != storage_id and _has_own_ledger(storage) and not is_own(tracking_uri, storage.root):
        sweep_id = uuid.uuid4().hex
    if sweep_id is None and any((folder / "trials").glob("*")):
        return
    sweep_id = sweep_id or uuid.uuid4().hex
    now = {"id": sweep_id, "storage": storage_id}
    if note != now:
        notes.write(NOTE, now)
    write_sweep_id(folder, sweep_id)


def restore_sweep_id(folder: Path, name: str, storage: Storage) -> None:
    """Write the id that a sweep's folder has lost, if the ledger of its storage has it."""
    if folder.is_dir() and read_sweep_id(folder) is None:
        with suppress(UserError):  # `sync` does without a ledger
            if note := load_ledger(storage.ledger_url, name).notes.read().get(NOTE):
                write_sweep_id(folder, note["id"])


def check(storage: Storage) -> list[str]:
    """What `mend` would mend, in words; nothing is written."""
    if not isinstance(storage, FolderStorage) or not storage.root.is_dir():
        return []
    root, found = storage.root, stored(storage.root)
    identity = next(iter(found.values()), None)
    findings = []
    if identity is not None and identity.path != str(root):
        findings.append(f"{root} was written to as {identity.path} last: it was moved or copied, or has two paths")
    if identity is not None and FILE not in found:
        findings.append(f"{root / FILE} is missing or damaged")
    findings += [
        f"{root / name} has the id of another storage, {other.path}"
        for name, other in found.items()
        if identity is not None and other.id != identity.id
    ]
    if astray := _mend_locations(root, dry=True):
        findings.append(f"{root / 'mlflow.db'}: {astray} locations of files lead out of the storage")
    return findings


def mend(storage: Storage) -> list[str]:
    """Mend what `check` finds; returns what was done, in words.

    Of a folder with two paths, the locations become those of the path that is named now.
    """
    done: list[str] = []
    if check(storage):
        settle(storage, done.append)
        root = storage.root
        if mended := _mend_locations(root):
            done.append(f"{root / 'mlflow.db'}: {mended} locations of files lead here now")
        if (identity := Identity.read(root)) is not None:
            Identity.of(root, identity.id).write(root)
    return done


def _mend_locations(root: Path, *, dry: bool = False) -> int:
    """Mend the storage's own MLflow store, if it has one. Raises DamagedFileError."""
    if not (root / "mlflow.db").exists():
        return 0
    uri = sqlite_url(root / "mlflow.db")
    check_store(uri)
    with naming_damage(uri):
        return mend_locations(uri, root, dry=dry)


def _has_own_ledger(storage: Storage) -> bool:
    file = sqlite_file(storage.ledger_url)
    return file is not None and file.parent.resolve() == storage.root
