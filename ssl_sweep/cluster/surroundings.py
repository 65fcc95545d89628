"""What Ray needs of this machine, said in words before it starts: in some of these cases its process ends in C++."""

import logging
import os
import resource
import secrets
import tempfile
from pathlib import Path

from ssl_sweep.cluster.errors import ClusterError
from ssl_sweep.storage.layout import cache_folder

OPEN_FILES = 1024  # of a process, at least: with 64, Ray's node ends in its start
SOCKET_BYTES = 107  # of the name of a Unix socket
LONGEST_SOCKET = "/session_2026-11-29_13-58-24_994567_4194304/sockets/plasma_store"
FALLBACK = Path("/tmp/ray")  # noqa: S108 - Ray's own default
log = logging.getLogger(__name__)


def check_machine() -> None:
    """Check that Ray and its trials can run on this machine. Ray is given a token where it could not write one.

    Raises:
        ClusterError: they cannot; the message says what to change.
    """
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # Ray raises the soft limit to the hard one
    if most != resource.RLIM_INFINITY and most < OPEN_FILES:
        remedy = "raise it, by `ulimit -Hn 8192` as root, in limits.conf, or `docker run --ulimit nofile=8192`"
        raise ClusterError(f"a process may open {most} files here (`ulimit -Hn`), and Ray needs {OPEN_FILES}; {remedy}")
    cache = cache_folder()
    remedy = "set SSL_SWEEP_CACHE to the full path of a folder for decoded data that can be written"
    if not cache.is_absolute():
        raise ClusterError(f"SSL_SWEEP_CACHE={cache} is relative, and each trial runs in a folder of its own; {remedy}")
    if (why := _unwritable(cache)) is not None:
        raise ClusterError(f"{why}; {remedy}")
    home = Path(os.path.expanduser("~/.ray"))
    if not (home / "auth_token").exists() and (not home.is_absolute() or _unwritable(home) is not None):
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))


def name_import_folders() -> None:
    """Drop empty entries of PYTHONPATH, which mean the current directory, for Ray's processes."""
    if "PYTHONPATH" in os.environ:
        named = filter(None, os.environ["PYTHONPATH"].split(os.pathsep))
        os.environ["PYTHONPATH"] = os.pathsep.join(named)
        if not os.environ["PYTHONPATH"]:  # Ray puts the folders of plugins before it, and the separator
            del os.environ["PYTHONPATH"]


def temporary_folder() -> Path:
    """The folder of Ray's sockets and logs: below RAY_TMPDIR, TMPDIR or /tmp.

    Where its path is too long for a socket, or it cannot be written, the user is told that another is taken.

    Raises:
        ClusterError: neither can be used.
    """
    wanted = Path(os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or FALLBACK.parent, "ray").absolute()
    if (why := _unfit(wanted)) is None:
        return wanted
    if (other := _unfit(FALLBACK)) is not None:
        raise ClusterError(f"{why}, and {other}; set RAY_TMPDIR to a short path of a folder that can be written")
    log.warning("%s; Ray takes %s", why, FALLBACK)
    return FALLBACK


def _unfit(folder: Path) -> str | None:
    """Why this cannot be Ray's folder."""
    length = len(os.fsencode(folder)) + len(LONGEST_SOCKET)
    if length > SOCKET_BYTES:
        return f"{folder} is too long for Ray's sockets ({length} bytes of at most {SOCKET_BYTES})"
    return _unwritable(folder)


def _unwritable(folder: Path) -> str | None:
    """Why no file can be made in this folder."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(b" " * 4096)
    except OSError as error:
        return f"{folder} cannot be written ({error.strerror})"
    return None
