"""A thread that delivers a sweep's journals to MLflow. The sweep neither waits for it nor fails with it."""

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import yaml

from ssl_sweep.data.fingerprints import fingerprint
from ssl_sweep.errors import UserError
from ssl_sweep.storage.stored_spec import stored_spec
from ssl_sweep.storage.urls import redacted
from ssl_sweep.tracking.spool import SWEEP, Spool
from ssl_sweep.tracking.store import MlflowRejectedError, NotTrackedError, check_store, naming_damage
from ssl_sweep.tracking.transcript import FINGERPRINT, PREFIX, Transcript, Update, summary
from ssl_sweep.tracking.writer import MAX_TAG, RunDeletedError, SweepRuns
from ssl_sweep.trialdir.atomic import replacing
from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.events import (
    ArtifactAdded,
    AttemptStarted,
    BestTrialChosen,
    DescriptionSet,
    Ended,
    Superseded,
    TagsSet,
)
from ssl_sweep.trialdir.journal import Journal

LONGEST_DELAY_S = 30.0
log = logging.getLogger(__name__)


class UndeliveredError(UserError, ValueError):
    """MLflow lacks events of trials whose files are damaged."""


class Recorder:
    """Delivers a sweep's journals to MLflow from its own thread, about once a second.

    While MLflow is unreachable the thread waits 1 s, then twice as long up to 30 s, and warns once per outage. The
    sweep's own spec, table and state go through a journal too, so that `sync` can deliver them later.
    """

    def __init__(
        self,
        sweep: str,
        folder: Path,
        tracking_uri: str,
        spec: Mapping[str, Any],
        exchange: Callable[[], None] = lambda: None,
        *,
        pins: Mapping[str, str] = MappingProxyType({}),
        data: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Prepare to deliver.

        exchange: fetches journals that other machines write, and sends the recorder's files.
        pins: become tags of the parent run, as `ssl_sweep.pin.method local/mine`.
        data: identities of the sweep's data, which become tags alike, and in short `ssl_sweep.data_fingerprint`.
        """
        self._pins = {f"pin.{pin}": identity for pin, identity in {**pins, **data}.items()}
        self._pins |= {FINGERPRINT: fingerprint(data)} if data else {}
        self._folder, self._spec, self._exchange = folder, spec, exchange
        self._journal = Journal(folder)
        self._spool = Spool(folder)
        self._delivery = _Delivery(sweep, folder, tracking_uri, self._spool, _models(spec))
        self._uri = redacted(tracking_uri)
        self._closing = threading.Event()
        self._deadline = float("inf")
        self._delay_s = 1.0
        self._outage = False
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)

    def start(self) -> None:
        """Record the start of a driver, and start the thread."""
        self._journal.append(AttemptStarted(host=socket.gethostname(), pid=os.getpid()))
        self._journal.append(TagsSet(tags={**_summary(self._spec), **self._pins}))
        texts = {"spec.yaml": yaml.safe_dump(dict(self._spec), sort_keys=False), "spec.json": json.dumps(self._spec)}
        self.log_files(texts)
        self._thread.start()

    def log_files(self, files: Mapping[str, str]) -> None:
        """Log files (name -> content) to the parent run."""
        folder = self._folder / "artifacts"
        for name, content in files.items():
            with replacing(folder / name) as partial:
                partial.write_text(content, encoding="utf-8", errors="replace")
            self._journal.append(ArtifactAdded(path=f"artifacts/{name}"))

    def log_table(self, files: Mapping[str, str]) -> None:
        """Log files (name -> content) to the parent run; a Markdown file also becomes its description."""
        self.log_files(files)
        for name, content in files.items():
            if name.endswith(".md"):
                self._journal.append(DescriptionSet(text=content[:MAX_TAG]))

    def log_best(self, trial_id: str) -> None:
        """Record the sweep's best trial, whose encoder becomes a model."""
        self._journal.append(BestTrialChosen(trial=trial_id))

    def finish(self, state: str) -> None:
        """Record the end of the sweep: COMPLETE, FAILED or STOPPED."""
        self._journal.append(Ended(state=state))

    def deliver_again(self, trials: Collection[str]) -> None:
        """Have the runs of these trials made anew from their journals; a trial without a journal has none then."""
        self._delivery.again.update(trials)

    def pending(self) -> int:
        """The number of undelivered events that MLflow may still take, and of runs that are to be made anew."""
        return self._spool.pending(self._delivery.refused) + len(self._delivery.again)

    def close(self, timeout_s: float = 10.0) -> int:
        """Deliver the rest in at most `timeout_s` seconds; returns the number of events that remain for `sync`."""
        self._deadline = time.monotonic() + timeout_s
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join(timeout_s)
        return self._spool.pending()

    def _run(self) -> None:
        while True:
            closing = self._closing.is_set()  # read first: events appended before close() are delivered below
            self._deliver()
            if closing and (self._expired() or not self._outage):
                return
            if closing:
                time.sleep(min(self._delay_s, 0.5))
            else:
                self._closing.wait(self._delay_s)

    def _deliver(self) -> None:
        """Deliver new events, and set the delay until the next delivery."""
        started = time.monotonic()
        try:
            self._exchange()
        except Exception as error:  # as below; events that are here can be delivered meanwhile
            log.warning("files of trials could not be fetched; trying again (%s)", redacted(f"{error}"))
        try:
            delivered = self._delivery.deliver(self._expired)
        except Exception as error:  # the thread's edge: no error may reach the sweep
            self._begin_outage(error)
            return
        if self._outage:
            log.warning("MLflow at %s can be reached again", self._uri)
        self._outage = False
        # polling thousands of journals takes at most a twentieth of the time
        self._delay_s = 1.0 if delivered else max(1.0, 20 * (time.monotonic() - started))

    def _begin_outage(self, error: Exception) -> None:
        if self._outage:
            self._delay_s = min(2 * self._delay_s, LONGEST_DELAY_S)
            return
        self._outage, self._delay_s = True, 1.0
        reason = redacted(f"{type(error).__name__}: {error}")
        log.warning(
            "MLflow at %s cannot be reached; the sweep continues, its events wait on disk (%s)", self._uri, reason
        )

    def _expired(self) -> bool:
        return time.monotonic() > self._deadline


def sync(sweep: str, folder: Path, tracking_uri: str) -> int:
    """Deliver all events of a sweep again; returns their number.

    Raises:
        UndeliveredError: files of some trials are damaged; all others are delivered.
        DamagedFileError: the sweep's own files, or the file of the MLflow store, are damaged.
        MlflowException: of another kind, from MLflow.
    """
    check_store(tracking_uri)
    if not folder.is_dir():
        raise NotTrackedError(f"no folder {folder}: sweep {sweep!r} has no events to deliver")
    spool = Spool(folder)
    spool.reset()
    delivery = _Delivery(sweep, folder, tracking_uri, spool, _models(stored_spec(folder) or {}))
    with naming_damage(tracking_uri):
        events = delivery.deliver()
    if delivery.refused:
        raise UndeliveredError(
            f"{events} events of {sweep} are in MLflow; those of {len(delivery.refused)} journals are not:\n"
            + "\n".join(delivery.refused.values())
        )
    return events


class _Delivery:
    """Delivers a spool to MLflow. `models`: whose encoders become models: none, best or all."""

    def __init__(self, sweep: str, folder: Path, tracking_uri: str, spool: Spool, models: str) -> None:
        self._connect: Callable[[], SweepRuns] = lambda: SweepRuns(sweep, folder, tracking_uri)
        self._spool, self._models = spool, models
        self._runs: SweepRuns | None = None
        self._transcripts: dict[str, Transcript] = {}
        self._recorded = set[str]()  # trials whose runs have their records
        self.refused: dict[str, str] = {}  # journals of which MLflow gets no more, and why
        self._failures: dict[str, int] = {}
        self.again = set[str]()  # trials whose runs are to be made anew

    def deliver(self, expired: Callable[[], bool] = lambda: False, *, remade: bool = False) -> int:
        """Deliver the journals that have grown, those that failed before last; returns the number of events.

        remade: whether runs that were deleted have just been made anew. One that is deleted again at once is an outage.
        """
        if not self._undelivered() and not self.again:
            return 0
        try:
            self._runs = self._runs or self._connect()
            self._spool.set_destination(self._runs.parent)
            if self.again:
                for name in list(self.again):
                    self._discard(self._runs, name)
                    self.refused.pop(name, None)  # its run is gone: even a part is more
                    self.again.discard(name)
                return self.deliver(expired)
            # asked again: a parent run that is new gets all journals
            return sum(self._drain(self._runs, name, expired) for name in self._by_failures(self._undelivered()))
        except RunDeletedError as error:
            self._runs = None
            self._transcripts.clear()
            if remade:
                raise
            log.warning("%s while its sweep runs; it is made anew from its journal", error)
            return 0 if expired() else self.deliver(expired, remade=True)
        except Exception:
            self._runs = None  # after an outage the runs may differ, or be gone
            raise
        finally:
            self._spool.save()

    def _undelivered(self) -> list[str]:
        return [name for name in self._spool.undelivered_journals() if name not in self.refused]

    def _discard(self, runs: SweepRuns, name: str) -> None:
        runs.discard(name)
        self._spool.rewind(name)
        self._transcripts.pop(name, None)

    def _by_failures(self, names: list[str]) -> list[str]:
        # the sweep's own journal last: it refers to events of trials
        return sorted(names, key=lambda name: (self._failures.get(name, 0), name == SWEEP))

    def _drain(self, runs: SweepRuns, name: str, expired: Callable[[], bool]) -> int:
        delivered = 0
        try:
            while not expired() and (count := self._deliver_chunk(runs, name)):
                delivered += count
        except (DamagedFileError, MlflowRejectedError) as error:
            whose = f"trial {name}" if name else "the sweep"
            self.refused[name] = f"{whose}: {redacted(str(error))}"
            log.warning("no further events of %s are delivered to MLflow: %s", whose, redacted(str(error)))
        except Exception:
            self._failures[name] = self._failures.get(name, 0) + 1
            self._transcripts.pop(name, None)  # it contains events that MLflow lacks
            raise
        return delivered

    def _deliver_chunk(self, runs: SweepRuns, name: str) -> int:
        events, offset = self._spool.read(name)
        if not events:
            return 0
        if self._spool.is_replaced(name) and name != SWEEP:
            self._discard(runs, name)
        if isinstance(events[-1], Superseded):
            self._discard(runs, name)
            self._spool.mark_delivered(name, offset)
            return len(events)
        run_id, restarts = self._run_of(runs, name)
        if restarts:
            return self._deliver_chunk(runs, name)
        if name not in self._transcripts:
            self._transcripts[name] = Transcript(self._spool.delivered(name))
            self._recorded.discard(name)
        # an attempt writes its record anew; it may be missing until then where a trial's folder was deleted
        begins = any(isinstance(event, AttemptStarted) for event in events)
        if (begins or name not in self._recorded) and runs.log_record(name, run_id):
            self._recorded.add(name)
        update = self._transcripts[name].update(events)
        runs.write(name, run_id, update)
        self._log_models(runs, name, update)
        self._spool.mark_delivered(name, offset)
        if isinstance(events[-1], Ended):
            del self._transcripts[name]
        return len(events)

    def _run_of(self, runs: SweepRuns, name: str) -> tuple[str, bool]:
        """A run's id, and whether delivery restarts from the first event because the earlier run is gone."""
        run_id, created = runs.run(name)
        restarts = created and self._spool.rewind(name)
        if restarts:
            self._transcripts.pop(name, None)
        return run_id, restarts

    def _log_models(self, runs: SweepRuns, name: str, update: Update) -> None:
        """Log the encoders that these events concern: a completed trial's, the best trial's."""
        if self._models == "all" and name != SWEEP and update.status == "FINISHED":
            self._log_model(runs, name)
        if self._models != "none" and update.best is not None and (model := self._log_model(runs, update.best)):
            runs.write(SWEEP, runs.parent, Update(tags={f"{PREFIX}best_model": model}))

    def _log_model(self, runs: SweepRuns, trial: str) -> str | None:
        run_id, _ = self._run_of(runs, trial)
        try:
            model = runs.log_model(trial, run_id)
        except MlflowRejectedError as error:
            log.warning("the encoder of trial %s is not logged as a model: %s", trial, redacted(str(error)))
            return None
        if model is not None:
            runs.write(trial, run_id, Update(tags={f"{PREFIX}model": model}))
        return model


def _summary(spec: Mapping[str, Any]) -> dict[str, Any]:
    """The tags of a sweep for lists of runs."""
    search = spec.get("search") or {}
    return {**summary(spec), "objective": search.get("objective"), "sampler": search.get("sampler")}


def _models(spec: Mapping[str, Any]) -> str:
    """Whose encoders become models: none, best or all."""
    return str((spec.get("tracking") or {}).get("models", "best"))
