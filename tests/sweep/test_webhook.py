"""Notifications, received by a real server that checks their signature."""

import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.sweep import notify, webhook
from ssl_sweep.sweep.notify import Notifier
from ssl_sweep.sweep.webhook import Outbox, Webhook, WebhookError
from ssl_sweep.trialdir.events import MetricsReported

SECRET = "of the tests"


class Receiver(ThreadingHTTPServer):
    """Answers with these statuses, the last one for ever, and keeps what it was sent."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.statuses, self.requests, self.redirect = [200], list[tuple[Message, bytes]](), False
        self.hang = threading.Event()
        self.hang.set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/hook/T0K3N"

    def payloads(self, number: int = 1) -> list[dict[str, Any]]:
        """What was taken, once there is so much."""
        deadline = time.monotonic() + 10
        while len(self.requests) < number and time.monotonic() < deadline:
            time.sleep(0.02)
        return [json.loads(body) for _, body in self.requests]


class Handler(BaseHTTPRequestHandler):
    server: Receiver

    def do_POST(self) -> None:
        self.server.hang.wait(20)
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.requests.append((self.headers, body))
        statuses = self.server.statuses
        self.send_response(statuses.pop(0) if len(statuses) > 1 else statuses[0])
        self.send_header("Location", "/elsewhere")
        self.end_headers()

    def do_GET(self) -> None:
        self.server.redirect = True
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    server = Receiver()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("SSL_SWEEP_WEBHOOK_URL", server.url)
    monkeypatch.setenv("SSL_SWEEP_WEBHOOK_SECRET", SECRET)
    yield server
    server.hang.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    search = {"space": {"views.overlay_alpha": [0.1, 0.4]}, "objective": "maximize knn/top1_val"}
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    spec = from_dump({"name": "demo", **base, "evaluate": {"knn": {}}, "search": search})
    ledger = open_ledger(f"sqlite:///{tmp_path / 'ledger.db'}", spec)
    for score in (40.0, 60.0):
        choice = ledger.ask()
        assert choice is not None
        ledger.update(replace(choice.trials[0], state="COMPLETE", results={"knn/top1_val": score}))
    return ledger


def test_what_a_sweep_has_come_to_is_told_and_signed(receiver: Receiver, ledger: Ledger) -> None:
    notifier = Notifier(ledger, "postgresql://me:secret@db/mlflow")
    notifier.tell("done")
    notifier.close()
    assert receiver.payloads() == [
        {
            "text": "sweep demo is done; 2 complete; best knn/top1_val 60",
            "sweep": "demo",
            "state": "done",
            "why": None,
            "counts": {"COMPLETE": 2},
            "best": {"metric": "knn/top1_val", "value": 60.0, "knobs": {"views.overlay_alpha": 0.4}, "seeds": 1},
            "mlflow": {"uri": "postgresql://me:***@db/mlflow", "experiment": "ssl_sweep/demo"},
        }
    ]
    headers, body = receiver.requests[0]
    signed = headers["X-SSL-Sweep-Timestamp"].encode() + b"." + body
    expected = hmac.new(SECRET.encode(), signed, hashlib.sha256).hexdigest()
    assert headers["X-SSL-Sweep-Signature"] == f"sha256={expected}"
    assert abs(int(headers["X-SSL-Sweep-Timestamp"]) - time.time()) < 10


def test_a_server_that_fails_at_first_is_told_in_the_end(receiver: Receiver) -> None:
    receiver.statuses = [503, 429, 200]
    outbox = Outbox(Webhook(receiver.url, SECRET))
    outbox.put({"state": "done"})
    assert receiver.payloads(3) == [{"state": "done"}] * 3
    outbox.close(5)
    assert len(receiver.requests) == 3
    assert len({headers["X-SSL-Sweep-Delivery"] for headers, _ in receiver.requests}) == 1


def test_a_refusal_is_not_tried_again_and_its_address_is_not_shown(
    receiver: Receiver, caplog: pytest.LogCaptureFixture
) -> None:
    receiver.statuses = [403]
    outbox = Outbox(Webhook(receiver.url))
    outbox.put({"state": "done"})
    outbox.close(5)
    assert len(receiver.requests) == 1
    assert "X-SSL-Sweep-Signature" not in receiver.requests[0][0]
    assert "127.0.0.1" in caplog.text
    assert "403" in caplog.text
    assert "T0K3N" not in caplog.text


def test_a_redirect_is_not_followed(receiver: Receiver) -> None:
    receiver.statuses = [302]
    outbox = Outbox(Webhook(receiver.url))
    outbox.put({"state": "done"})
    outbox.close(5)
    assert len(receiver.requests) == 1
    assert not receiver.redirect


def test_a_server_that_hangs_holds_no_sweep_up(
    receiver: Receiver, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(notify, "END_S", 1.0)
    receiver.hang.clear()
    notifier = Notifier(ledger, "sqlite:///mlflow.db")
    began = time.monotonic()
    notifier.tell("failed", "RuntimeError: no more disk")
    assert time.monotonic() - began < 0.5
    notifier.close()
    assert time.monotonic() - began < 2
    assert "has not taken the last notices" in caplog.text


def test_nobody_there_is_given_up_at_last(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(webhook, "LONGEST_WAIT_S", 0.01)
    outbox = Outbox(Webhook("http://127.0.0.1:1/"))
    outbox.put({"state": "done"})
    deadline = time.monotonic() + 10
    while "was not notified" not in caplog.text and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "was not notified: <urlopen error" in caplog.text


def test_a_silent_sweep_is_said_to_be_stuck_once_a_silence(
    receiver: Receiver, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_SWEEP_STUCK_SECONDS", "0.4")
    notifier = Notifier(ledger, "sqlite:///mlflow.db")
    assert receiver.payloads()[0]["state"] == "stuck"
    time.sleep(0.8)
    assert len(receiver.requests) == 1
    notifier.reported(ledger.trials[0], MetricsReported(metrics={"knn/top1_val": 50.0}, step=1))
    assert len(receiver.payloads(2)) == 2
    notifier.close()


def test_without_an_address_nobody_is_told(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_SWEEP_WEBHOOK_URL", raising=False)
    before = set(threading.enumerate())
    notifier = Notifier(ledger, "sqlite:///mlflow.db")
    notifier.tell("done")
    assert set(threading.enumerate()) <= before
    notifier.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SSL_SWEEP_WEBHOOK_URL", "file:///etc/passwd"),
        ("SSL_SWEEP_STUCK_SECONDS", "soon"),
        ("SSL_SWEEP_STUCK_SECONDS", "nan"),
    ],
)
def test_a_setting_that_is_no_good_is_named(
    name: str, value: str, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(WebhookError, match=name):
        Notifier(ledger, "sqlite:///mlflow.db")
