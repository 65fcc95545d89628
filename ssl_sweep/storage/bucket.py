"""Objects in an S3 bucket: the only module that calls boto3, translates its errors, and retries.

Credentials, region and endpoint are boto3's own: AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION,
AWS_ENDPOINT_URL, or its files. A PUT is atomic, also in parts: no reader ever sees half an object.
"""

import logging
import os
import re
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, TypeVar

from ssl_sweep.errors import UserError
from ssl_sweep.storage.urls import redacted
from ssl_sweep.trialdir.atomic import replacing
from ssl_sweep.trialdir.retry import retry

PATIENCE_S = 300.0  # how long a sweep waits for a bucket that cannot be reached
FIRST_DELAY_S, LONGEST_DELAY_S = 0.25, 8.0
CONNECTIONS = 16
MULTIPART_THRESHOLD = 16 << 20  # bytes; larger objects are sent in parts
MAX_DELETED = 1000  # objects in one request: the limit of S3
PROBE = ".probe"
NOT_FOUND_CODES = {"404", "NoSuchKey", "NotFound"}
REMEDIES = {  # by the codes of errors that no retry can cure
    "NoSuchBucket": "make the bucket, or name another",
    "InvalidAccessKeyId": "check AWS_ACCESS_KEY_ID, or AWS_PROFILE",
    "SignatureDoesNotMatch": "check AWS_SECRET_ACCESS_KEY",
    "InvalidToken": "check AWS_SESSION_TOKEN",
    "ExpiredToken": "renew AWS_SESSION_TOKEN",
    "AccessDenied": "let these credentials list, get, put and delete objects there",
    "403": "let these credentials list, get, put and delete objects there",
    "InvalidBucketName": "a bucket's name has 3 to 63 lower case letters, digits, dots and hyphens",
}
log = logging.getLogger(__name__)
Answer = TypeVar("Answer")


class BucketError(UserError, ValueError):
    """A bucket cannot be reached, refuses a request, or was unreachable for too long."""


@dataclass(frozen=True)
class ObjectInfo:
    """An object in a listing. `etag` changes with its content; `size` is in bytes."""

    etag: str
    size: int


class Bucket:
    """The objects under s3://BUCKET/PREFIX. Keys are relative to that."""

    def __init__(self, url: str) -> None:
        """Raises BucketError: the URL names no bucket, or boto3 is not installed."""
        match = re.fullmatch(r"s3:/+([^/@:]+)(?:/(.*))?", url)
        if match is None:
            remedy = "write s3://BUCKET/PREFIX, and keys into AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            raise BucketError(f"--storage, SSL_SWEEP_STORAGE: {redacted(url)} names no bucket; {remedy}")
        self.url = url
        self.name, prefix = match[1], (match[2] or "").strip("/")
        self.prefix = f"{prefix}/" if prefix else ""
        self.patience_s = 0.0  # until `check` has reached it: before that, the address is probably wrong
        self._client = _client(url)

    def check(self) -> None:
        """Write, list and remove an object; later calls wait for a bucket that cannot be reached.

        Raises:
            BucketError: this fails.
        """
        self.put(PROBE, b"ssl_sweep")
        self.list_objects(PROBE)
        self.delete([PROBE])
        self.patience_s = PATIENCE_S

    def list_objects(self, under: str) -> dict[str, ObjectInfo]:
        """The objects whose keys start with `under`, by key."""

        def all_pages() -> dict[str, ObjectInfo]:
            pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=self.prefix + under)
            entries = [entry for page in pages for entry in page.get("Contents", ())]
            return {
                entry["Key"].removeprefix(self.prefix): ObjectInfo(_plain(entry["ETag"]), entry["Size"])
                for entry in entries
            }

        return self._with_retries(all_pages)

    def etag(self, key: str) -> str | None:
        """An object's ETag, None where there is none."""
        answer = self._with_retries(lambda: self._client.head_object(Bucket=self.name, Key=self.prefix + key))
        return _plain(answer["ETag"]) if answer else None

    def get(self, key: str) -> bytes | None:
        """An object's bytes, None where there is none."""

        def whole() -> bytes:
            content: bytes = self._client.get_object(Bucket=self.name, Key=self.prefix + key)["Body"].read()
            return content

        return self._with_retries(whole)

    def download(self, key: str, path: Path, *, waits: bool = True) -> bool:
        """Write an object to a file atomically; returns whether it exists. `waits`: retry while it is unreachable."""

        def into_file() -> bool:
            with replacing(path) as partial:
                self._client.download_file(self.name, self.prefix + key, str(partial), Config=_transfer())
            return True

        return bool(self._with_retries(into_file, self.patience_s if waits else 0.0))

    def put(self, key: str, content: bytes | BinaryIO) -> str:
        """Write an object from bytes or an open file; returns its ETag."""

        def write() -> str | None:
            if not isinstance(content, bytes) and os.fstat(content.fileno()).st_size >= MULTIPART_THRESHOLD:
                with os.fdopen(os.dup(content.fileno()), "rb") as file:  # boto3 closes the file
                    file.seek(0)
                    self._client.upload_fileobj(file, self.name, self.prefix + key, Config=_transfer())
                return self.etag(key)
            if not isinstance(content, bytes):
                content.seek(0)
            body = content if isinstance(content, bytes) else content.read()
            return _plain(self._client.put_object(Bucket=self.name, Key=self.prefix + key, Body=body)["ETag"])

        return self._with_retries(write) or ""

    def delete(self, keys: Iterable[str]) -> None:
        """Remove objects; missing ones are ignored."""
        entries = [{"Key": self.prefix + key} for key in keys]
        for start in range(0, len(entries), MAX_DELETED):
            batch = {"Objects": entries[start : start + MAX_DELETED], "Quiet": True}
            answer = self._with_retries(partial(self._client.delete_objects, Bucket=self.name, Delete=batch))
            for error in (answer or {}).get("Errors", ()):
                raise BucketError(f"{self.url}: {error.get('Key')} cannot be removed ({error.get('Message')})")

    def map(self, work: Callable[[str], Answer], keys: Iterable[str]) -> list[Answer]:
        """Call `work` with each key, in several threads; returns the results in order."""
        with ThreadPoolExecutor(CONNECTIONS) as pool:
            return list(pool.map(work, keys))

    def _with_retries(self, call: Callable[[], Answer], patience_s: float | None = None) -> Answer | Any:
        """The answer to a call, None where there is no such object; repeated while the bucket cannot be reached."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        def call_again(failures: int) -> Answer:
            answer = call()
            if failures:
                log.warning("the storage %s can be reached again", self.url)
            return answer

        def warn_once(error: Exception, failures: int) -> None:
            if not failures:
                log.warning("the storage %s cannot be reached (%s); retrying", self.url, _reason(error))

        try:
            return retry(
                call_again,
                is_transient=_is_transient,
                first_delay_s=FIRST_DELAY_S,
                longest_delay_s=LONGEST_DELAY_S,
                patience_s=self.patience_s if patience_s is None else patience_s,
                on_failure=warn_once,
            )
        except (BotoCoreError, ClientError, Boto3Error) as error:
            if _code(error) in NOT_FOUND_CODES:
                return None
            raise BucketError(
                self._unreachable(error) if _is_transient(error) else _refusal(self.url, error)
            ) from error

    def _unreachable(self, error: Exception) -> str:
        if not self.patience_s:
            remedy = "check AWS_ENDPOINT_URL, and that the store is up"
            return f"the storage {self.url} cannot be reached ({_reason(error)}); {remedy}"
        return (
            f"the storage {self.url} could not be reached for {self.patience_s:g} s ({_reason(error)}); when it can, "
            "`ssl-sweep resume` continues the sweep"
        )


def _client(url: str) -> Any:
    try:
        import boto3
        from botocore.config import Config
    except ImportError as error:
        raise BucketError(f"the storage {url} needs boto3 ({error}); pip install 'ssl-sweep[s3]'") from error
    settings = Config(
        connect_timeout=5,
        read_timeout=60,
        max_pool_connections=CONNECTIONS,
        retries={"mode": "standard", "total_max_attempts": 3},
        # many S3-compatible stores do not support the newer checksums
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    # boto3's default session would keep the first credentials
    return boto3.session.Session().client("s3", config=settings)


def _transfer() -> Any:
    from boto3.s3.transfer import TransferConfig

    return TransferConfig(
        multipart_threshold=MULTIPART_THRESHOLD, multipart_chunksize=MULTIPART_THRESHOLD, max_concurrency=4
    )


def _plain(etag: str) -> str:
    return etag.strip('"')


def _code(error: Exception) -> str | None:
    code = getattr(error, "response", {}).get("Error", {}).get("Code")
    return str(code) if code is not None else None


def _is_transient(error: Exception) -> bool:
    """Whether the network or the server failed, so that the same call may succeed later."""
    from boto3.exceptions import Boto3Error
    from botocore.exceptions import ConnectionError as BotoConnectionError
    from botocore.exceptions import HTTPClientError

    code = _code(error)
    if code in NOT_FOUND_CODES or code in REMEDIES:
        return False
    status = getattr(error, "response", {}).get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    is_network = isinstance(error, BotoConnectionError | HTTPClientError | Boto3Error)
    return is_network or status >= 500 or code == "SlowDown"


def _refusal(url: str, error: Exception) -> str:
    remedy = REMEDIES.get(_code(error) or "", "check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_DEFAULT_REGION")
    return f"the storage {url} refuses ({_reason(error)}); {remedy}"


def _reason(error: Exception) -> str:
    """The server's message, without the request: that may contain a signature."""
    answer = getattr(error, "response", {}).get("Error", {})
    return f"{answer['Code']}: {answer.get('Message', '')}" if answer.get("Code") else str(error).splitlines()[0]
