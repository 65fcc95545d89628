"""The service's one background thread: launches queued sweeps, follows running ones and relaunches dead ones.

It decides from the databases alone, so that a service killed at any point continues where it stood.
"""

import logging
import threading
import time

from ssl_sweep.ledger.lease import Lease, SweepLockedError
from ssl_sweep.service.drivers import MAX_REASON, Drivers
from ssl_sweep.service.jobs import RayJobs, RayUnavailableError
from ssl_sweep.service.queue import Capacity, Running, Waiting, decide, ordered
from ssl_sweep.service.settings import Settings
from ssl_sweep.service.states import ACTIVE, WAITING, SweepState
from ssl_sweep.service.store import Store, Submission

log = logging.getLogger(__name__)


class Dispatcher:
    """Runs the queue: everything that the service does without a request."""

    def __init__(self, store: Store, ray: RayJobs, settings: Settings) -> None:
        """Raises WebhookError."""
        self.store, self.ray, self.settings = store, ray, settings
        self.capacity: Capacity | None = None  # as last reported, or when scaled up
        self.trouble = ""  # why no sweep is launched; empty if all is well
        self.drivers = Drivers(store, ray, settings)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dispatcher", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Stop after the current tick; sweeps continue."""
        self._ended.set()
        self._thread.join()
        self.drivers.close()

    def places(self) -> dict[str, int]:
        """The place of each waiting sweep in the queue, from 1."""
        queue = [_waiting(each) for each in self.store.find(states=WAITING)]
        return {each.id: place for place, each in enumerate(ordered(queue, self._held(), time.time()), 1)}

    def tick(self) -> None:
        """Follow all launched sweeps once, then launch what the queue admits."""
        try:
            self.capacity = self.ray.capacity().at_least(self.settings.autoscale_max)
        except RayUnavailableError as error:
            self.trouble = str(error)
            for submission in self.store.find(states=(*WAITING, *ACTIVE)):
                self.drivers.explain(submission, self.trouble)
            return
        self.trouble = ""
        for submission in self.store.find(states=ACTIVE):
            self._follow(submission)
        self._launch(self.capacity)

    def _run(self) -> None:
        lease: Lease | None = None
        while not self._ended.is_set():
            try:
                lease = self._hold(lease)
                if lease is not None:
                    self.drivers.deliver_webhooks()
                    self.tick()
            except Exception as error:  # the thread's edge: an unavailable database must not end the service
                self.trouble = f"{type(error).__name__}: {error}"[:MAX_REASON]
                log.exception("the dispatcher continues after an error")
            self._ended.wait(self.settings.tick_s)
        if lease is not None:
            lease.release()

    def _hold(self, lease: Lease | None) -> Lease | None:
        """The lease on this database, which one service holds at a time; None while another holds it."""
        if lease is not None and lease.taken_by is None:
            return lease
        lease = Lease(self.store, log.debug)  # debug: a second service tries at every tick
        try:
            lease.acquire()
        except SweepLockedError:
            self.trouble = "another service works on this database: this one answers, and takes over when that one ends"
            return None
        return lease

    def _follow(self, submission: Submission) -> None:
        try:
            self.drivers.follow(submission)
        except RayUnavailableError as error:
            self.drivers.explain(submission, str(error))
        except Exception as error:  # one sweep's broken files must not hold up the others
            log.exception("sweep %s cannot be followed", submission.name)
            self.drivers.explain(submission, f"cannot be followed: {type(error).__name__}: {error}")

    def _launch(self, capacity: Capacity) -> None:
        waiting = {each.name: each for each in self.store.find(states=WAITING)}
        queue = [_waiting(each) for each in waiting.values()]
        decision = decide(queue, self._held(), capacity, self.settings.limits, time.time())
        for name, slots in decision.launch.items():
            queued = waiting[name]
            attempt, now = queued.attempt + 1, time.time()
            launched = self.store.change(
                queued, state=SweepState.LAUNCHING, reason="", granted=slots, attempt=attempt, launched=now, ended=None
            )
            if launched:
                self._follow(self.store.get(name) or queued)
        for name, reason in decision.reasons.items():
            if waiting[name].not_before < time.time():  # until then the reason is its driver's death
                self.drivers.explain(waiting[name], reason)

    def _held(self) -> list[Running]:
        """The resources that launched sweeps hold."""
        active = self.store.find(states=ACTIVE)
        return [Running(each.owner, each.cpus * each.granted, each.gpus * each.granted) for each in active]


def _waiting(each: Submission) -> Waiting:
    return Waiting(each.name, each.owner, each.priority, each.queued, each.slots, each.cpus, each.gpus, each.not_before)
