"""The service's one thread: launches what the queue lets go, follows what runs, and takes up what has died.

It decides from what is written down, so that a service killed anywhere goes on where it stood.
"""

import logging
import threading
import time

from ssl_sweep.ledger.lease import Lease, SweepLockedError
from ssl_sweep.service.drivers import MAX_REASON, Drivers
from ssl_sweep.service.jobs import RayAway, RayJobs
from ssl_sweep.service.queue import Capacity, Running, Waiting, decide, ordered
from ssl_sweep.service.settings import Settings
from ssl_sweep.service.store import ACTIVE, WAITING, Store, Submission

log = logging.getLogger(__name__)


class Loop:
    """Everything that the service does unasked."""

    def __init__(self, store: Store, ray: RayJobs, settings: Settings) -> None:
        """Raises WebhookError."""
        self.store, self.ray, self.settings = store, ray, settings
        self.capacity: Capacity | None = None  # as last heard of, or what the cluster grows to
        self.trouble = ""  # why nothing goes on, where nothing does
        self.drivers = Drivers(store, ray, settings)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="service loop", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """End after the tick that runs; sweeps go on."""
        self._ended.set()
        self._thread.join()
        self.drivers.close()

    def places(self) -> dict[str, int]:
        """The place in the queue, from 1 on, of each sweep that waits."""
        queue = [_waiting(each) for each in self.store.find(states=WAITING)]
        return {each.id: place for place, each in enumerate(ordered(queue, self._held(), time.time()), 1)}

    def tick(self) -> None:
        """Look at everything once."""
        try:
            self.capacity = self.ray.capacity().at_least(self.settings.autoscale_max)
        except RayAway as error:
            self.trouble = str(error)
            for held_up in self.store.find(states=(*WAITING, *ACTIVE)):
                self.drivers.explain(held_up, self.trouble)
            return
        self.trouble = ""
        for submission in self.store.find(states=ACTIVE):
            self._guarded(submission)
        self._launch(self.capacity)

    def _run(self) -> None:
        lease: Lease | None = None
        while not self._ended.is_set():
            try:
                lease = self._alone(lease)
                if lease is not None:
                    self.drivers.tell()
                    self.tick()
            except Exception as error:  # the thread's edge: a database away for a moment ends no service
                self.trouble = f"{type(error).__name__}: {error}"[:MAX_REASON]
                log.exception("the service's loop goes on after an error")
            self._ended.wait(self.settings.tick_s)
        if lease is not None:
            lease.release()

    def _alone(self, lease: Lease | None) -> Lease | None:
        """The right to work on this database, which one service has at a time; None while another has it."""
        if lease is not None and lease.taken_by is None:
            return lease
        lease = Lease(self.store, log.debug)  # who waits beside a working service looks again and again
        try:
            lease.acquire()
        except SweepLockedError:
            self.trouble = "another service works on this database: this one answers, and takes over when that one ends"
            return None
        return lease

    def _guarded(self, submission: Submission) -> None:
        try:
            self.drivers.follow(submission)
        except RayAway as error:
            self.drivers.explain(submission, str(error))
        except Exception as error:  # one sweep's broken files are not the others' business
            log.exception("sweep %s cannot be followed", submission.name)
            self.drivers.explain(submission, f"cannot be followed: {type(error).__name__}: {error}")

    def _launch(self, capacity: Capacity) -> None:
        waiting = {each.name: each for each in self.store.find(states=WAITING)}
        queue = [_waiting(each) for each in waiting.values()]
        decision = decide(queue, self._held(), capacity, self.settings.limits, time.time())
        for name, slots in decision.launch.items():
            old = waiting[name]
            attempt, now = old.attempt + 1, time.time()
            launched = self.store.change(
                old, state="LAUNCHING", reason="", granted=slots, attempt=attempt, launched=now, ended=None
            )
            if launched:
                self._guarded(self.store.get(name) or old)
        for name, reason in decision.reasons.items():
            if waiting[name].not_before < time.time():  # else it says why its driver died
                self.drivers.explain(waiting[name], reason)

    def _held(self) -> list[Running]:
        """What running sweeps hold of the cluster."""
        found = self.store.find(states=ACTIVE)
        return [Running(each.owner, each.cpus * each.granted, each.gpus * each.granted) for each in found]


def _waiting(each: Submission) -> Waiting:
    return Waiting(each.name, each.owner, each.priority, each.queued, each.slots, each.cpus, each.gpus, each.not_before)
