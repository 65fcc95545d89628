"""Removes the folder that Ray fills for each session on this machine, unless its logs are still wanted."""

import logging
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import ray

from ssl_sweep.cluster.errors import ClusterError
from ssl_sweep.errors import UserError

MARK = "ssl_sweep.pid"  # in the folders of sessions that a driver has started, with its process
KEPT = 5  # of sessions whose driver was killed, or in which something died
log = logging.getLogger(__name__)


@contextmanager
def own_session(shutdown: Callable[[], None]) -> Iterator[Callable[[], None]]:
    """Note that this process has started its Ray, end Ray after the block, and remove the session's folder.

    The folder stays where Ray has failed the block, or the function that is yielded was called: a process has died. Of
    these, and of those that killed drivers left, only the newest are kept.
    """
    folder = Path(ray.nodes()[0]["ObjectStoreSocketName"]).parents[1]  # type: ignore[no-untyped-call]
    with suppress(OSError):  # a full disk is the ledger's to tell
        (folder / MARK).write_text(f"{socket.gethostname()} {os.getpid()}")
    remove_old(folder.parent)
    deaths: list[bool] = []
    try:
        yield lambda: deaths.append(True)
    except Exception as error:
        if not isinstance(error, UserError) or type(error) is ClusterError:
            deaths.append(True)
        raise
    finally:
        shutdown()
        if deaths:
            log.warning("Ray's logs of this driver: %s", folder / "logs")
        else:
            _remove(folder)


def remove_old(temporary: Path) -> None:
    """Remove what ended drivers have left of their sessions, except the newest `KEPT`."""
    left = [mark.parent for mark in temporary.glob(f"session_*/{MARK}") if not mark.parent.is_symlink()]
    ended = sorted(folder for folder in left if not _is_alive(folder / MARK))  # names begin with the date
    for folder in ended[:-KEPT]:
        _remove(folder)


def _remove(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    latest = folder.parent / "session_latest"
    with suppress(OSError):
        if latest.readlink() == folder:
            latest.unlink()


def _is_alive(mark: Path) -> bool:
    """Whether the driver may be: containers share folders, but not the numbers of processes."""
    with suppress(ProcessLookupError, ValueError, FileNotFoundError):
        host, pid = mark.read_text().split()
        with suppress(PermissionError):  # another user's
            if host == socket.gethostname():
                os.kill(int(pid), 0)
        return True
    return False
