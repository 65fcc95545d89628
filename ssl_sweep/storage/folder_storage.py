"""Sweeps in a folder that all nodes see: the folder is the storage, and nothing is transferred."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ssl_sweep.storage.layout import Storage


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
        probe.unlink()

    def check(self, tracking_uri: str) -> None:
        pass

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
        return f"sqlite:///{self.root / f'{name}.db'}"
