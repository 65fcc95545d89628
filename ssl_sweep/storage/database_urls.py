"""A path is no URL: what stands between the two, for SQLite's files."""

import re
from pathlib import Path

from ssl_sweep.storage.layout import StorageError

LONGEST_PATH = 500  # bytes of a file that SQLite opens: 512 with the name of its journal


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file, for SQLAlchemy, Optuna and MLflow alike: `?`, `#` or `{x}` are quoted in it.

    Raises:
        StorageError: SQLite cannot open a file of this path, or MLflow cannot load models beside it.
    """
    from sqlalchemy import URL  # clients of the service do without it

    try:
        length = len(str(path).encode())
    except UnicodeEncodeError:
        raise StorageError(
            f"--storage, SSL_SWEEP_STORAGE: {str(path.parent)!r} has a name that is not UTF-8; name another folder"
        ) from None
    if length > LONGEST_PATH:
        raise StorageError(
            f"--storage, SSL_SWEEP_STORAGE: {path.parent} is too long a path ({length} bytes with {path.name}): SQLite "
            f"opens none over {LONGEST_PATH}; name a folder with a shorter one"
        )
    if quoted := re.search("%[0-9A-Fa-f]{2}", str(path)):
        raise StorageError(
            f"--storage, SSL_SWEEP_STORAGE: {path.parent}: MLflow takes {quoted[0]!r} in a path for another character; "
            "name another folder"
        )
    url = URL.create("sqlite", database=str(path)).render_as_string()
    if url == f"sqlite:///{path}":
        return url
    # by the name without a driver, MLflow would make a folder of the quoted name beside the storage
    return URL.create("sqlite+pysqlite", database=str(path)).render_as_string()


def sqlite_file(url: str) -> Path | None:
    """The file of an SQLite URL; None where it names a server, or SQLite's memory.

    Raises:
        ArgumentError: it is no database's URL.
    """
    from sqlalchemy.engine import make_url

    address = make_url(url)
    database = address.database or ""
    is_file = address.get_backend_name() == "sqlite" and database and not database.startswith((":memory:", "file:"))
    return Path(database) if is_file else None
