"""Posts notices to a webhook from a thread, signed and with retries.

SSL_SWEEP_WEBHOOK_URL is its address, SSL_SWEEP_WEBHOOK_SECRET the key of the signature. A receiver checks that

    X-SSL-Sweep-Signature == "sha256=" + hex(HMAC-SHA256(secret, X-SSL-Sweep-Timestamp + "." + body))

that the timestamp (Unix seconds) is recent, and that X-SSL-Sweep-Delivery is new: a retry repeats it.
"""

import hashlib
import hmac
import json
import logging
import os
import queue
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from ssl_sweep.errors import UserError
from ssl_sweep.trialdir.retry import retry

TRIES, LONGEST_WAIT_S = 8, 60.0  # after 1, 2, 4, ... 60 s
REQUEST_S = 3.0
RETRIED_STATUSES = (408, 425, 429)  # beside all 5xx
log = logging.getLogger(__name__)


class WebhookError(UserError, ValueError):
    """A setting of the webhook is invalid."""


@dataclass(frozen=True)
class Webhook:
    """Address and signing key of a webhook."""

    url: str
    secret: str | None = None

    @classmethod
    def from_environment(cls) -> "Webhook | None":
        """The webhook that the environment names; None if it names none. Raises WebhookError."""
        url = os.environ.get("SSL_SWEEP_WEBHOOK_URL")
        if not url:
            return None
        if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
            raise WebhookError("SSL_SWEEP_WEBHOOK_URL is no address like https://HOST/PATH; correct it, or unset it")
        return cls(url, os.environ.get("SSL_SWEEP_WEBHOOK_SECRET") or None)

    @property
    def host(self) -> str | None:
        """The part of the address that may be shown. The rest of it may be a secret, as for Slack."""
        return urlsplit(self.url).hostname

    def post(self, body: bytes, delivery: str) -> None:
        """Send a body once. Raises the errors of urllib, HTTPError for any answer but 2xx."""
        sent_at = str(int(time.time()))
        headers = {"Content-Type": "application/json", "User-Agent": "ssl-sweep"}
        headers |= {"X-SSL-Sweep-Delivery": delivery, "X-SSL-Sweep-Timestamp": sent_at}
        if self.secret is not None:
            headers["X-SSL-Sweep-Signature"] = signature(self.secret, sent_at, body)
        request = urllib.request.Request(self.url, body, headers)  # noqa: S310 - http or https, see from_environment
        with urllib.request.build_opener(_NoRedirects()).open(request, timeout=REQUEST_S):
            pass


def signature(secret: str, timestamp: str, body: bytes) -> str:
    """The value of X-SSL-Sweep-Signature for a body and its timestamp."""
    return "sha256=" + hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256).hexdigest()


class Outbox:
    """A thread that posts queued notices to a webhook, in order."""

    def __init__(self, webhook: Webhook) -> None:
        self._webhook = webhook
        self._queue: queue.Queue[tuple[bytes, str, Callable[[], object]] | None] = queue.Queue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="webhook", daemon=True)
        self._thread.start()

    def put(
        self, payload: Mapping[str, Any], delivery: str | None = None, done: Callable[[], object] = lambda: None
    ) -> None:
        """Queue a notice. `done` is called when it was delivered or given up."""
        self._queue.put((json.dumps(payload).encode(), delivery or str(uuid.uuid4()), done))

    def close(self, timeout_s: float) -> None:
        """Deliver the rest of the queue in at most `timeout_s` seconds; what remains is lost."""
        self._queue.put(None)
        self._closing.set()
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            log.warning("the webhook at %s has not taken the last notices in time", self._webhook.host)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            body, delivery, done = item
            try:
                self._deliver(body, delivery)
                done()
            except Exception as error:  # the thread's edge: a notice must not fail a sweep
                log.warning("the webhook at %s was not notified: %s", self._webhook.host, error)
                if not self._closing.is_set():
                    done()

    def _deliver(self, body: bytes, delivery: str) -> None:
        retry(
            lambda failures: self._webhook.post(body, delivery),
            is_transient=_is_transient,
            first_delay_s=1.0,
            longest_delay_s=LONGEST_WAIT_S,
            max_calls=TRIES,
            wait=self._wait,
        )

    def _wait(self, seconds: float) -> None:
        if self._closing.wait(seconds):
            time.sleep(0.5)  # close() waits only for a few seconds


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    """urllib would follow a redirected POST with a GET."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def _is_transient(error: Exception) -> bool:
    """Whether the request is repeated after this error."""
    if isinstance(error, urllib.error.HTTPError):
        return error.code >= 500 or error.code in RETRIED_STATUSES
    return isinstance(error, OSError | HTTPException)
