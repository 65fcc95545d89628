"""Sweeps in a folder that all nodes see: the folder is the storage, and nothing is transferred."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ssl_sweep.storage.database_urls import sqlite_url
from ssl_sweep.storage.layout import Storage, StorageError
from ssl_sweep.trialdir.disk import DiskFull, room_in


class FolderStorage(Storage):
    """A folder that all nodes see."""

    @property
    def place(self) -> str:
        return str(self.root)

    def shared_stages(self, name: str) -> Path:
        return self.sweep(name) / "stages"

    def check_writable(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        probe = self.root / ".doctor"
        probe.write_text("")
        probe.unlink(missing_ok=True)  # another process may be checking

    def check(self, tracking_uri: str) -> None:
        try:
            with room_in(self.root):
                self.check_writable()
        except DiskFull:
            raise
        except OSError as error:
            place = f"--storage, SSL_SWEEP_STORAGE: {self.root}"
            raise StorageError(f"{place} cannot be written ({error.strerror}); name another folder") from error

    def take_over(self, name: str) -> None:
        pass

    def pull(self, name: str, *, encoders: bool = False) -> None:
        pass

    def push(self, name: str) -> None:
        pass

    def fetch(self, *paths: Path) -> None:
        pass

    def send(self, path: Path) -> None:
        pass

    def drop(self, path: Path) -> None:
        pass

    @contextmanager
    def synced_journal(self, folder: Path) -> Iterator[None]:
        yield

    def presence(self, folder: Path) -> Callable[[Path], bool]:
        return Path.exists

    @contextmanager
    def sparse_copy(self, name: str) -> Iterator[Storage]:
        yield self

    @contextmanager
    def snapshot(self, name: str) -> Iterator[Storage]:
        yield self

    def _sqlite(self, name: str, variable: str) -> str:
        return sqlite_url(self.root / f"{name}.db")
