"""Notifies a webhook when a sweep is done, has failed, or is stuck."""

import os
import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

from ssl_sweep.ledger.best import ranked
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.storage.urls import redacted
from ssl_sweep.sweep.webhook import Outbox, Webhook, WebhookError
from ssl_sweep.trialdir.events import MetricsReported

State = Literal["done", "failed", "stuck"]
WORDS: dict[State, str] = {"done": "is done", "failed": "has failed", "stuck": "is stuck"}
STUCK_S = 3600.0  # without a start, report or end of any trial; SSL_SWEEP_STUCK_SECONDS overrides it
END_S = 5.0  # how long the end of a sweep waits for the webhook


class Notifier:
    """An `Observer` that notifies the webhook of one sweep; does nothing where none is configured."""

    def __init__(self, ledger: Ledger, tracking_uri: str) -> None:
        """Raises WebhookError."""
        self._ledger, self._tracking_uri = ledger, tracking_uri
        self._active_at, self._notified_stuck = time.monotonic(), False
        self._stuck_s = _stuck_seconds()
        self._closing = threading.Event()
        webhook = Webhook.from_environment()
        self._outbox = Outbox(webhook) if webhook is not None else None
        if self._outbox is not None:
            threading.Thread(target=self._watch, name="stuck", daemon=True).start()

    def started(self, trial: Trial) -> None:
        self._note_activity()

    def reported(self, trial: Trial, report: MetricsReported) -> None:
        self._note_activity()

    def ended(self, trial: Trial) -> None:
        self._note_activity()

    def tell(self, state: State, why: str | None = None) -> None:
        """Queue a notice for the webhook."""
        if self._outbox is not None:
            self._outbox.put(self._payload(state, why))

    def close(self) -> None:
        """Give the webhook a few seconds to take the queued notices."""
        self._closing.set()
        if self._outbox is not None:
            self._outbox.close(END_S)

    def _note_activity(self) -> None:
        self._active_at, self._notified_stuck = time.monotonic(), False

    def _watch(self) -> None:
        while not self._closing.wait(min(30.0, self._stuck_s / 4)):
            silent = time.monotonic() - self._active_at
            if silent >= self._stuck_s and not self._notified_stuck:
                self._notified_stuck = True
                self.tell("stuck", f"no trial has reported for {silent / 60:.0f} min; `ssl-sweep logs` shows why")

    def _payload(self, state: State, why: str | None) -> dict[str, Any]:
        name = self._ledger.spec.name
        trials = [trial for choice in self._ledger.choices for trial in choice.trials]
        counts = Counter(str(trial.state) for trial in trials)
        return webhook_payload(name, state, why, counts, self._best(), self._tracking_uri)

    def _best(self) -> dict[str, Any] | None:
        """The best choice, see `knobs.best`: its mean objective, its knobs, and over how many seeds."""
        objective = self._ledger.spec.search.primary
        best = ranked(self._ledger.trials, objective)
        if not best:
            return None
        number, scores = best[0]
        knobs = dict(self._ledger.choice(number).knobs)
        seeds = len(scores.fresh or scores.searched)
        return {"metric": objective.metric, "value": scores.value, "knobs": knobs, "seeds": seeds}


def webhook_payload(
    name: str, state: State, why: str | None, counts: Mapping[str, int], best: Mapping[str, Any] | None, uri: str
) -> dict[str, Any]:
    """The JSON that the webhook receives: `counts` of trials by state, the `best` one, and MLflow's `uri`."""
    why = redacted(why) if why else None
    words = [f"sweep {name} {WORDS[state]}"]
    words += [", ".join(f"{counts[key]} {key.lower()}" for key in sorted(counts))] if counts else []
    words += [f"best {best['metric']} {best['value']:.4g}"] if best else []
    words += [why] if why else []
    return {
        "text": "; ".join(words),
        "sweep": name,
        "state": state,
        "why": why,
        "counts": dict(counts),
        "best": best,
        "mlflow": {"uri": redacted(uri), "experiment": f"ssl_sweep/{name}"},
    }


def _stuck_seconds() -> float:
    text = os.environ.get("SSL_SWEEP_STUCK_SECONDS", str(STUCK_S))
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise WebhookError(f"SSL_SWEEP_STUCK_SECONDS is {text!r}, not a number of seconds above 0; correct or unset it")
    return seconds
