"""A launched sweep's driver: its job, what it has got done, and what follows from how it ended.

A launch is written down before it is made, with its attempt's number, and Ray takes a job of this name once: killed in
between, the service finds the sweep LAUNCHING, and the job either there or not.
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
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.service.jobs import GOING_ON, Job, RayJobs
from ssl_sweep.service.queue import Capacity
from ssl_sweep.service.settings import Settings
from ssl_sweep.service.store import Store, Submission
from ssl_sweep.spec.plan import GROWS_TO
from ssl_sweep.sweep.exit_codes import ExitCode
from ssl_sweep.sweep.notify import END_S, webhook_payload
from ssl_sweep.sweep.status import counts
from ssl_sweep.sweep.steering import place_order, stop_or_pause
from ssl_sweep.sweep.webhook import Outbox, Webhook
from ssl_sweep.trialdir.atomic import write_text
from ssl_sweep.trialdir.requests import Ask
from ssl_sweep.trialdir.states import TrialState

MAX_DEATHS = 6  # of drivers in a row, none of which finished a trial
MAX_WAIT_S = 900.0  # between them
LOOK_SHARE = 10  # the ledger of a sweep is read for a tenth of the time at most
MAX_REASON = 1_000
ID_CHARS = 13  # of a trial's id: a command is a line of a shell's, of 128 kB at most
NOT_MORE = "what was resumed of it has ended"
DONE = ("complete", "pruned", "failed")
SHOWN = (*DONE, "running", "stopped", "paused")
ENDS = {"stop": "STOPPED", "pause": "PAUSED"}
log = logging.getLogger(__name__)


@dataclass
class Look:
    """What was last seen of a sweep's ledger, and when it may be read again."""

    states: dict[str, str]
    next: float = 0.0


class Drivers:
    """The drivers of all launched sweeps."""

    def __init__(self, store: Store, ray: RayJobs, settings: Settings) -> None:
        """Raises WebhookError."""
        self._store, self._ray, self._settings = store, ray, settings
        self._looks: dict[str, Look] = {}
        self._sent: set[str] = set()  # news that the outbox has
        webhook = Webhook.from_environment()
        self._outbox = Outbox(webhook) if webhook is not None else None

    def tell(self) -> None:
        """Have the webhook told what it has not been told, also by a service before this one."""
        if self._outbox is None:
            return
        for delivery, content in self._store.news():
            if delivery not in self._sent:
                self._sent.add(delivery)
                self._outbox.put(content, delivery, partial(self._store.forget_news, delivery))

    def close(self) -> None:
        """Wait a few seconds for the webhook to take what it has not taken yet."""
        if self._outbox is not None:
            self._outbox.close(END_S)

    def follow(self, submission: Submission) -> None:
        """Take note of how a sweep goes that has been launched."""
        job = self._ray.find(job_name(submission))
        if job is None and submission.state == "LAUNCHING":
            self._submit(submission)
        elif job is None:
            self._died(submission, "Ray does not know its job any more: the cluster's head was started anew")
        elif job.status in GOING_ON:
            if submission.state == "LAUNCHING" or submission.reason:
                self._store.change(submission, state="RUNNING", reason="")
            self._look(self._again(submission))
        else:
            self._look(submission, now=True)
            self._conclude(self._again(submission), job)

    def _submit(self, submission: Submission) -> None:
        folder = self._settings.storage.root / ".service"
        folder.mkdir(parents=True, exist_ok=True)
        spec = folder / f"{submission.name}.yaml"
        write_text(spec, json.dumps({key: value for key, value in submission.spec.items() if key != "root"}))
        command = [sys.executable, "-m", "ssl_sweep", *_words(submission, spec)]
        command += ["--storage", str(self._settings.storage.root)]  # Ray tells a job's driver where the cluster is
        environment = {"SSL_SWEEP_DATA": str(self._settings.data_roots[0])}
        if (most := self._settings.autoscale_max) != Capacity(0, 0):
            environment[GROWS_TO] = json.dumps({"CPU": most.cpus, "GPU": most.gpus})
        self._ray.submit(job_name(submission), command, environment)

    def _look(self, submission: Submission, *, now: bool = False) -> None:
        """Hand on what is asked of the sweep, and write down what has changed in its ledger."""
        look = self._looks.get(submission.id) or Look(self._told(submission))
        self._looks[submission.id] = look
        if not now and time.monotonic() < look.next:
            return
        began = time.monotonic()
        try:
            with read_ledger(self._settings.storage.ledger_url, submission.name) as ledger:
                self._take_note(submission, look, ledger)
        except LedgerError:  # its driver has not begun
            return
        look.next = time.monotonic() + LOOK_SHARE * (time.monotonic() - began)

    def _take_note(self, submission: Submission, look: Look, ledger: Ledger) -> None:
        if submission.asked and read_orders(ledger.notes).sweep is None:
            place_order(ledger, _ask(submission))
        begun = [trial for trial in ledger.trials if trial.state != TrialState.CREATED]
        changed = [trial for trial in begun if look.states.get(trial.trial_id) != trial.state]
        told = ({"trial_id": each.trial_id, "trial_state": each.state, "message": each.message} for each in changed)
        if changed:
            self._store.say(submission.id, "trial", told)
        if (found := counts(ledger)) != submission.counts:
            self._store.change(submission, counts=found)
        look.states = {trial.trial_id: trial.state for trial in begun}

    def _told(self, submission: Submission) -> dict[str, str]:
        """The trials' states as their events say."""
        return {each["trial_id"]: each["trial_state"] for each in self._store.events(submission.id, kind="trial")}

    def _conclude(self, submission: Submission, job: Job) -> None:
        """Write down how a driver ended."""
        code, asked = job.exit_code, submission.asked
        if asked is None and code == ExitCode.INTERRUPTED:
            asked = self._ordered(submission)
        said = job.last_lines()[-MAX_REASON:]
        if job.status == "SUCCEEDED":
            self._end(submission, "COMPLETE", "")
        elif asked is not None:
            self._settle(submission, asked)
        elif job.status == "STOPPED":
            self._end(submission, "STOPPED", "its job was stopped in Ray")
        elif code == ExitCode.USER_ERROR:
            self._give_up(submission, said)
        elif code == ExitCode.INCOMPLETE and submission.counts.get("failed") and not submission.counts.get("running"):
            failed = f"{submission.counts['failed']} of {submission.counts['total']} trials failed"
            self._end(submission, "FAILED", f"{failed}; ssl-sweep logs {submission.name}")
        else:
            why = "its driver was interrupted" if code == ExitCode.INTERRUPTED else f"its driver ended: {said}"
            self._died(submission, why)

    def _died(self, submission: Submission, why: str) -> None:
        """Have a sweep without a driver launched again, later each time; or give it up."""
        if submission.asked is not None:
            self._settle(submission, submission.asked)
            return
        done = sum(submission.counts.get(state, 0) for state in DONE)
        deaths = 1 if done > submission.done_before else submission.deaths + 1
        if deaths > MAX_DEATHS:
            reason = f"its driver died {deaths} times without finishing a trial, at last: {why}"
            self._give_up(submission, reason)
            return
        wait = min(self._settings.back_off_s * 2 ** (deaths - 1), MAX_WAIT_S)
        command = self._command_again(submission)
        if command is None:
            self._end(submission, "FAILED" if submission.counts.get("failed") else "STOPPED", f"{NOT_MORE}; {why}")
            return
        again: dict[str, Any] = {"deaths": deaths, "done_before": done, "not_before": time.time() + wait, "granted": 0}
        again["command"] = command
        self._store.change(
            submission, state="QUEUED", reason=f"{why[:MAX_REASON]}; goes on after {wait:.0f} s", **again
        )
        self._looks.pop(submission.id, None)

    def _command_again(self, submission: Submission) -> tuple[str, ...] | None:
        """What goes on where a driver died; None where what was to be resumed has ended.

        A resume that has begun is not made anew: it would undo stops since, and take up what has failed again. One
        of some trials goes on with those of them that are left.
        """
        verb, *words = submission.command
        if verb != "resume" or submission.launched is None:
            return submission.command
        told = self._store.events(submission.id, kind="trial")
        if not words:
            return ("run",) if any(each["time"] > submission.launched for each in told) else submission.command
        before = {each["trial_id"]: each["trial_state"] for each in told if each["time"] <= submission.launched}
        named = tuple(each.removeprefix("--trial=") for each in words if each != "--failed")
        asked = {trial for trial in before if not named or trial.startswith(named)}
        if "--failed" in words:
            asked = {trial for trial in asked if before[trial] == TrialState.FAILED}
        with read_ledger(self._settings.storage.ledger_url, submission.name) as ledger:
            now = {trial.trial_id: trial for trial in ledger.trials if trial.trial_id in asked}
        if all(trial.state == before[name] for name, trial in now.items()):
            return submission.command  # its driver died before it took them up
        left = sorted(name for name, trial in now.items() if not trial.ended)
        return ("resume", *(f"--trial={name[:ID_CHARS]}" for name in left)) if left else None

    def _settle(self, submission: Submission, asked: str) -> None:
        """End a sweep as it was asked to; what its driver has left open is marked."""
        try:
            stop_or_pause(self._settings.storage, submission.name, "stop" if asked == "stop" else "pause")
        except LedgerError as error:  # it had not begun, or had just ended
            log.info("sweep %s: %s", submission.name, error)
        self._look(submission, now=True)
        self._end(self._again(submission), ENDS[asked], "as it was asked")

    def _ordered(self, submission: Submission) -> str | None:
        """What somebody asks of the sweep beside the service."""
        try:
            with read_ledger(self._settings.storage.ledger_url, submission.name) as ledger:
                asked = read_orders(ledger.notes).sweep
        except LedgerError:
            return None
        return asked.ask if asked is not None and asked.ask in ENDS else None

    def _give_up(self, submission: Submission, reason: str) -> None:
        """End a sweep whose driver has told nobody why."""
        found = {state.upper(): submission.counts.get(state, 0) for state in SHOWN}
        counts = {state: count for state, count in found.items() if count}
        uri = self._settings.storage.tracking_uri
        told = None if self._outbox is None else webhook_payload(submission.name, "failed", reason, counts, None, uri)
        self._end(submission, "FAILED", reason, told)
        self.tell()

    def _end(self, submission: Submission, state: str, reason: str, told: Mapping[str, Any] | None = None) -> None:
        ending: dict[str, Any] = {"state": state, "reason": reason[:MAX_REASON], "ended": time.time()}
        self._store.change(submission, news=told, **ending, asked=None, deaths=0, granted=0)
        self._looks.pop(submission.id, None)

    def explain(self, submission: Submission, reason: str) -> None:
        if reason[:MAX_REASON] != submission.reason:
            self._store.change(submission, reason=reason[:MAX_REASON])

    def _again(self, submission: Submission) -> Submission:
        """The submission as it is now."""
        return self._store.get(submission.name) or submission


def job_name(submission: Submission) -> str:
    """The Ray job of a submission's last launch."""
    return f"ssl-sweep-{submission.id}-{submission.attempt}"


def _words(submission: Submission, spec: Path) -> list[str]:
    """The command that its driver is, with the trials at a time that it was granted."""
    verb, *words = submission.command
    if verb == "resume":
        return [verb, submission.name, *words, f"--max-concurrent={submission.granted}"]
    target = str(spec) if verb == "run" else submission.name
    return [verb, target, *words, f"--set=resources.max_concurrent={submission.granted}"]


def _ask(submission: Submission) -> Ask:
    what: Literal["stop", "pause"] = "stop" if submission.asked == "stop" else "pause"
    return Ask(what, f"ssl-sweep {what} through the service")
