"""Which storage a folder is: its id, where it was last written to, and whether it was moved or copied since.

The identity is in `storage.json` and in the storage's own databases, of which any restores the others.
"""

import json
import socket
import sqlite3
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from ssl_sweep.trialdir.atomic import write_text

FILE = "storage.json"
DATABASES = ("ledger.db", "mlflow.db")
TABLE = "ssl_sweep_storage"  # its only row has the identity
LOCK_TIMEOUT_S = 60.0  # that SQLite waits for another writer

Whereabouts = Literal["new", "same", "mounted", "moved", "copied"]


@dataclass(frozen=True)
class Identity:
    """A storage's id, and the folder, machine and inode where it was last written to under this id."""

    id: str
    path: str
    host: str
    inode: int

    @classmethod
    def of(cls, root: Path, storage_id: str | None = None) -> "Identity":
        """The identity of a folder as it lies now; without an id it gets a new one."""
        return cls(storage_id or uuid.uuid4().hex, str(root), socket.gethostname(), root.stat().st_ino)

    @classmethod
    def read(cls, root: Path) -> "Identity | None":
        """The identity that a folder has, None without one."""
        return next(iter(stored(root).values()), None)

    def write(self, root: Path) -> None:
        """Write it to the databases that there are, then to the file."""
        before, text = stored(root), json.dumps(asdict(self))
        for name in DATABASES:
            if before.get(name) != self and (root / name).exists():
                with suppress(sqlite3.Error), _database(root / name, "rw") as database:  # its own readers say why
                    database.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (identity TEXT)")
                    database.execute(f"DELETE FROM {TABLE}")  # noqa: S608 - a constant
                    database.execute(f"INSERT INTO {TABLE} VALUES (?)", (text,))  # noqa: S608
        if before.get(FILE) != self:
            write_text(root / FILE, text)


def stored(root: Path) -> dict[str, Identity]:
    """The identities in a storage's file and databases, by their names; what is missing or damaged is left out."""
    texts = {FILE: _file_text(root / FILE), **{name: _database_text(root / name) for name in DATABASES}}
    return {name: identity for name, text in texts.items() if (identity := _parsed(text)) is not None}


def whereabouts(root: Path, identity: Identity | None) -> Whereabouts:
    """Whether a folder, which must be writable, still is where its identity says.

    "mounted": it is the same folder by another path. "copied": the folder that it was copied from is still there.
    """
    if identity is None:
        return "new"
    if identity.path == str(root):
        return "same"
    if _is_same_folder(root, Path(identity.path)):
        return "mounted"
    there = Identity.read(Path(identity.path))
    if there is not None and there.id == identity.id:
        return "copied"
    # another machine may see this folder by another path
    is_elsewhere = identity.host != socket.gethostname() and identity.inode == root.stat().st_ino
    return "mounted" if is_elsewhere else "moved"


def _is_same_folder(root: Path, other: Path) -> bool:
    """Whether a file that is made in one is in the other: two mounts of one folder may differ in their numbers."""
    probe = f".same-{uuid.uuid4().hex}"
    try:
        if not other.is_dir():
            return False
        (root / probe).touch()
        return (other / probe).exists()
    except OSError:
        return False
    finally:
        (root / probe).unlink(missing_ok=True)


def _file_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _database_text(path: Path) -> str:
    if not path.exists():
        return ""
    with suppress(sqlite3.Error), _database(path, "ro") as database:
        row = database.execute(f"SELECT identity FROM {TABLE}").fetchone()  # noqa: S608
        return str(row[0]) if row else ""
    return ""


@contextmanager
def _database(path: Path, mode: Literal["ro", "rw"]) -> Iterator[sqlite3.Connection]:
    """A transaction in a file of SQLite that exists."""
    address = f"{path.as_uri()}?mode={mode}"
    with closing(sqlite3.connect(address, uri=True, timeout=LOCK_TIMEOUT_S)) as database, database:
        yield database


def _parsed(text: str) -> Identity | None:
    try:
        return Identity(**json.loads(text))
    except (ValueError, TypeError):
        return None
