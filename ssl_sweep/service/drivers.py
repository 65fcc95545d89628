"""Drivers of launched sweeps: starts their Ray jobs, records their progress, and decides what follows when they end.

A launch is recorded with its attempt's number before it is made, and Ray accepts a job name only once: a service killed
in between finds the sweep LAUNCHING, and the job either submitted or not.
"""

import json
import logging
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from ssl_sweep.ledger.entries import LedgerError
from ssl_sweep.ledger.open import read_ledger
from ssl_sweep.ledger.orders import read_orders
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.service.jobs import GOING_ON, Job, RayJobs
from ssl_sweep.service.queue import Capacity
from ssl_sweep.service.settings import Settings
from ssl_sweep.service.states import SweepState
from ssl_sweep.service.store import Store, Submission
from ssl_sweep.spec.plan import AUTOSCALE_MAX
from ssl_sweep.sweep.exit_codes import ExitCode
from ssl_sweep.sweep.notify import END_S, webhook_payload
from ssl_sweep.sweep.status import counts
from ssl_sweep.sweep.steering import place_order, stop_or_pause
from ssl_sweep.sweep.webhook import Outbox, Webhook
from ssl_sweep.trialdir.atomic import write_text
from ssl_sweep.trialdir.requests import StopRequest
from ssl_sweep.trialdir.states import TrialState

MAX_DEATHS = 6  # of drivers in a row without a finished trial
MAX_WAIT_S = 900.0  # between a driver's death and its relaunch
LOOK_SHARE = 10  # at most a tenth of the time is spent on reading the ledger of a sweep
MAX_REASON = 1_000
ID_CHARS = 13  # of a trial's id: a shell takes a command of 128 kB at most
NOTHING_LEFT = "all resumed trials have ended"
DONE = ("complete", "pruned", "failed")
SHOWN = (*DONE, "running", "stopped", "paused")
ENDS = {"stop": SweepState.STOPPED, "pause": SweepState.PAUSED}
log = logging.getLogger(__name__)


@dataclass
class LedgerView:
    """The states of trials as last read from a sweep's ledger, and when it may be read again."""

    states: dict[str, str]
    due: float = 0.0  # by the monotonic clock


class Drivers:
    """The drivers of all launched sweeps."""

    def __init__(self, store: Store, ray: RayJobs, settings: Settings) -> None:
        """Raises WebhookError."""
        self._store, self._ray, self._settings = store, ray, settings
        self._views: dict[str, LedgerView] = {}
        self._sent: set[str] = set()  # ids of notifications that the webhook's thread has
        webhook = Webhook.from_environment()
        self._outbox = Outbox(webhook) if webhook is not None else None

    def deliver_webhooks(self) -> None:
        """Deliver all undelivered notifications, also those of an earlier service process."""
        if self._outbox is None:
            return
        for delivery, content in self._store.pending_webhooks():
            if delivery not in self._sent:
                self._sent.add(delivery)
                self._outbox.put(content, delivery, partial(self._store.forget_webhook, delivery))

    def close(self) -> None:
        """Wait a few seconds until the webhook has taken all notifications."""
        if self._outbox is not None:
            self._outbox.close(END_S)

    def follow(self, submission: Submission) -> None:
        """Bring a launched sweep up to date with its job and its ledger."""
        job = self._ray.find(job_name(submission))
        if job is None and submission.state == SweepState.LAUNCHING:
            self._submit(submission)
        elif job is None:
            self._relaunch(submission, "Ray does not know its job any more: the cluster's head was restarted")
        elif job.status in GOING_ON:
            if submission.state == SweepState.LAUNCHING or submission.reason:
                self._store.change(submission, state=SweepState.RUNNING, reason="")
            self._read_ledger(self._reread(submission))
        else:
            self._read_ledger(submission, now=True)
            self._conclude(self._reread(submission), job)

    def _submit(self, submission: Submission) -> None:
        folder = self._settings.storage.root / ".service"
        folder.mkdir(parents=True, exist_ok=True)
        spec = folder / f"{submission.name}.yaml"
        write_text(spec, json.dumps({key: value for key, value in submission.spec.items() if key != "root"}))
        command = [sys.executable, "-P", "-m", "ssl_sweep", *_arguments(submission, spec)]
        command += ["--storage", str(self._settings.storage.root)]  # Ray gives a job the cluster's address
        environment = {"SSL_SWEEP_DATA": str(self._settings.data_roots[0])}
        if (most := self._settings.autoscale_max) != Capacity(0, 0):
            environment[AUTOSCALE_MAX] = json.dumps({"CPU": most.cpus, "GPU": most.gpus})
        self._ray.submit(job_name(submission), command, environment)

    def _read_ledger(self, submission: Submission, *, now: bool = False) -> None:
        """Pass a requested end on to the driver, and record what has changed in the ledger."""
        view = self._views.get(submission.id) or LedgerView(self._known_states(submission))
        self._views[submission.id] = view
        if not now and time.monotonic() < view.due:
            return
        began = time.monotonic()
        try:
            with read_ledger(self._settings.storage.ledger_url, submission.name) as ledger:
                self._record_changes(submission, view, ledger)
        except LedgerError:  # its driver has not begun
            return
        view.due = time.monotonic() + LOOK_SHARE * (time.monotonic() - began)

    def _record_changes(self, submission: Submission, view: LedgerView, ledger: LedgerReader) -> None:
        if submission.asked and read_orders(ledger.notes).sweep is None:
            place_order(ledger, _ask(submission))
        begun = [trial for trial in ledger.trials if trial.state != TrialState.CREATED]
        changed = [trial for trial in begun if view.states.get(trial.trial_id) != trial.state]
        events = ({"trial_id": each.trial_id, "trial_state": each.state, "message": each.message} for each in changed)
        if changed:
            self._store.add_events(submission.id, "trial", events)
        if (current := counts(ledger)) != submission.counts:
            self._store.change(submission, counts=current)
        view.states = {trial.trial_id: trial.state for trial in begun}

    def _known_states(self, submission: Submission) -> dict[str, str]:
        """The trials' states according to their recorded events."""
        return {each["trial_id"]: each["trial_state"] for each in self._store.events(submission.id, kind="trial")}

    def _conclude(self, submission: Submission, job: Job) -> None:
        """Decide what follows when a driver has ended."""
        code, end = job.exit_code, submission.asked
        if end is None and code == ExitCode.INTERRUPTED:
            end = self._requested_end(submission)
        output = job.last_lines()[-MAX_REASON:]
        if job.status == "SUCCEEDED":
            self._end(submission, SweepState.COMPLETE, "")
        elif end is not None:
            self._end_as_requested(submission, end)
        elif job.status == "STOPPED":
            self._end(submission, SweepState.STOPPED, "its job was stopped in Ray")
        elif code == ExitCode.USER_ERROR:
            self._give_up(submission, output)
        elif code == ExitCode.INCOMPLETE and submission.counts.get("failed") and not submission.counts.get("running"):
            failed = f"{submission.counts['failed']} of {submission.counts['total']} trials failed"
            self._end(submission, SweepState.FAILED, f"{failed}; ssl-sweep logs {submission.name}")
        else:
            why = "its driver was interrupted" if code == ExitCode.INTERRUPTED else f"its driver ended: {output}"
            self._relaunch(submission, why)

    def _relaunch(self, submission: Submission, why: str) -> None:
        """Queue a sweep whose driver died again, after a growing delay; or give it up."""
        if submission.asked is not None:
            self._end_as_requested(submission, submission.asked)
            return
        done = sum(submission.counts.get(state, 0) for state in DONE)
        deaths = 1 if done > submission.done_before else submission.deaths + 1
        if deaths > MAX_DEATHS:
            reason = f"its driver died {deaths} times without finishing a trial, at last: {why}"
            self._give_up(submission, reason)
            return
        wait = min(self._settings.back_off_s * 2 ** (deaths - 1), MAX_WAIT_S)
        command = self._relaunch_command(submission)
        if command is None:
            state = SweepState.FAILED if submission.counts.get("failed") else SweepState.STOPPED
            self._end(submission, state, f"{NOTHING_LEFT}; {why}")
            return
        relaunch = {"deaths": deaths, "done_before": done, "not_before": time.time() + wait, "command": command}
        reason = f"{why[:MAX_REASON]}; relaunches after {wait:.0f} s"
        self._store.change(submission, state=SweepState.QUEUED, reason=reason, granted=0, **relaunch)
        self._views.pop(submission.id, None)

    def _relaunch_command(self, submission: Submission) -> tuple[str, ...] | None:
        """The command that continues after a dead driver; None if all trials to be resumed have ended.

        A resume that has begun is not repeated: that would undo later stops, and retry trials that failed again. A
        resume of some trials continues with those that have not ended.
        """
        verb, *words = submission.command
        if verb != "resume" or submission.launched is None:
            return submission.command
        events = self._store.events(submission.id, kind="trial")
        words = [each for each in words if not each.startswith("--data-changed")]  # it has been acted on
        if not words:
            return ("run",) if any(each["time"] > submission.launched for each in events) else submission.command
        before = {each["trial_id"]: each["trial_state"] for each in events if each["time"] <= submission.launched}
        named = tuple(each.removeprefix("--trial=") for each in words if each != "--failed")
        resumed = {trial for trial in before if not named or trial.startswith(named)}
        if "--failed" in words:
            resumed = {trial for trial in resumed if before[trial] == TrialState.FAILED}
        with read_ledger(self._settings.storage.ledger_url, submission.name) as ledger:
            now = {trial.trial_id: trial for trial in ledger.trials if trial.trial_id in resumed}
        if all(trial.state == before[name] for name, trial in now.items()):
            return submission.command  # its driver died before it resumed them
        left = sorted(name for name, trial in now.items() if not trial.ended)
        return ("resume", *(f"--trial={name[:ID_CHARS]}" for name in left)) if left else None

    def _end_as_requested(self, submission: Submission, end: str) -> None:
        """End a sweep as requested, and mark the trials that its driver left running."""
        try:
            stop_or_pause(self._settings.storage, submission.name, "stop" if end == "stop" else "pause")
        except LedgerError as error:  # it has not begun, or has just ended
            log.info("sweep %s: %s", submission.name, error)
        self._read_ledger(submission, now=True)
        self._end(self._reread(submission), ENDS[end], "as requested")

    def _requested_end(self, submission: Submission) -> str | None:
        """A stop or pause that was requested directly, not through the service."""
        try:
            with read_ledger(self._settings.storage.ledger_url, submission.name) as ledger:
                order = read_orders(ledger.notes).sweep
        except LedgerError:
            return None
        return order.ask if order is not None and order.ask in ENDS else None

    def _give_up(self, submission: Submission, reason: str) -> None:
        """End a sweep as failed, and notify the webhook in its driver's place."""
        by_state = {state.upper(): submission.counts.get(state, 0) for state in SHOWN}
        counts = {state: count for state, count in by_state.items() if count}
        uri = self._settings.storage.tracking_uri
        payload = webhook_payload(submission.name, "failed", reason, counts, None, uri)
        self._end(submission, SweepState.FAILED, reason, None if self._outbox is None else payload)
        self.deliver_webhooks()

    def _end(
        self, submission: Submission, state: SweepState, reason: str, webhook: Mapping[str, Any] | None = None
    ) -> None:
        ending: dict[str, Any] = {"state": state, "reason": reason[:MAX_REASON], "ended": time.time()}
        self._store.change(submission, webhook=webhook, **ending, asked=None, deaths=0, granted=0)
        self._views.pop(submission.id, None)

    def explain(self, submission: Submission, reason: str) -> None:
        """Record why a sweep does not continue."""
        if reason[:MAX_REASON] != submission.reason:
            self._store.change(submission, reason=reason[:MAX_REASON])

    def _reread(self, submission: Submission) -> Submission:
        """The submission as stored now."""
        return self._store.get(submission.name) or submission


def job_name(submission: Submission) -> str:
    """The name of the Ray job of a submission's last launch."""
    return f"ssl-sweep-{submission.id}-{submission.attempt}"


def _arguments(submission: Submission, spec: Path) -> list[str]:
    """The arguments of `ssl-sweep`, with the number of concurrent trials that was granted."""
    verb, *words = submission.command
    if verb == "resume":
        return [verb, submission.name, *words, f"--max-concurrent={submission.granted}"]
    target = str(spec) if verb == "run" else submission.name
    return [verb, target, *words, f"--set=resources.max_concurrent={submission.granted}"]


def _ask(submission: Submission) -> StopRequest:
    what: Literal["stop", "pause"] = "stop" if submission.asked == "stop" else "pause"
    return StopRequest(what, f"ssl-sweep {what} through the service")
