"""The storage at a place that a user names."""

import hashlib
import os
import re
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
        StorageError: it is another kind of store.
    """
    place = str(place or os.environ.get("SSL_SWEEP_STORAGE", "runs"))
    url = re.match(r"([A-Za-z][A-Za-z0-9+.-]+):/+(.*)", place)
    if url is None:
        return FolderStorage(Path(place).resolve())
    scheme, rest = url.groups()
    if scheme != "s3":
        raise StorageError(
            f"--storage, SSL_SWEEP_STORAGE: {scheme}://{rest} is neither a folder nor s3://BUCKET/PREFIX; name "
            "a folder that all nodes see, or a bucket by S3's protocol with AWS_ENDPOINT_URL its server"
        )
    address = f"s3://{rest.rstrip('/')}"
    copy = cache_folder() / "storage" / hashlib.sha256(address.encode()).hexdigest()[:16] / "sweeps"
    return BucketStorage(copy, address, patience_s)
