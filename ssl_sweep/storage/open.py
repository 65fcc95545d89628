"""The storage at a place that a user names."""

import hashlib
import os
import re
import stat
from pathlib import Path

from ssl_sweep.storage.bucket_storage import BucketStorage
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage, StorageError, cache_folder


def find_storage(place: str | Path | None = None, *, patience_s: float = 0.0) -> Storage:
    """The storage in a folder, or in a bucket: s3://BUCKET/PREFIX.

    Args:
        place: None: SSL_SWEEP_STORAGE, or `./runs`.
        patience_s: how long to wait for a bucket that cannot be reached.

    Raises:
        StorageError: it is another kind of store, a file, or a folder that cannot be looked into.
    """
    place = str(place or os.environ.get("SSL_SWEEP_STORAGE") or "runs")
    url = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", place)
    if url is None:
        return FolderStorage(_folder(place))
    scheme, rest = url.groups()
    if scheme != "s3":
        raise StorageError(
            f"--storage, SSL_SWEEP_STORAGE: {scheme}://{rest} is neither a folder nor s3://BUCKET/PREFIX; name "
            "a folder that all nodes see, or a bucket by S3's protocol with AWS_ENDPOINT_URL its server"
        )
    address = f"s3://{rest.rstrip('/')}"
    copy = cache_folder() / "storage" / hashlib.sha256(address.encode()).hexdigest()[:16] / "sweeps"
    return BucketStorage(copy, address, patience_s)


def is_default(storage: Storage) -> bool:
    """Whether commands find it without `--storage`."""
    try:
        return storage == find_storage()
    except StorageError:  # the default is unusable
        return False


def _folder(place: str) -> Path:
    """The folder's full path; it need not exist. Raises StorageError."""
    try:
        root = Path(place).resolve()
        is_folder = stat.S_ISDIR(root.stat().st_mode)
    except FileNotFoundError:
        return root
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise StorageError(f"--storage, SSL_SWEEP_STORAGE: {place!r}: {why}; name a folder") from error
    if not is_folder:
        raise StorageError(f"--storage, SSL_SWEEP_STORAGE: {place} is a file; name a folder, which need not exist")
    return root
