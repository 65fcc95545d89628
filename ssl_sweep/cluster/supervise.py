"""Runs Tune in a thread. The main thread sees to it that the driver ends, as Tune waits for a dead Ray for ever."""

import logging
import threading
from collections.abc import Callable
from datetime import datetime

from ssl_sweep.cluster.errors import BrokenClusterError, ClusterError, InfeasibleError
from ssl_sweep.cluster.joined import JoinedRay
from ssl_sweep.cluster.patience import DEAD_UNWIND_S, LONGEST_STOP_S, LOST_HEAD_S, NODES_S, UNWIND_S, AwakeClock
from ssl_sweep.cluster.search import LedgerSearch
from ssl_sweep.cluster.signs import TrialSigns
from ssl_sweep.cluster.watch import ClusterWatch, with_growth
from ssl_sweep.ledger.entries import LeaseLost
from ssl_sweep.spec.plan import fit
from ssl_sweep.trialdir.requests import StopRequest

POLL_S = 0.2
LOOK_EVERY_S = 2.0  # at trials and nodes
log = logging.getLogger(__name__)


class Supervisor:
    """Ends Tune when it is told to, when Ray is dead, when trials do not answer, and when nodes are lost."""

    def __init__(self, search: LedgerSearch, signs: TrialSigns, clock: AwakeClock, ray: JoinedRay) -> None:
        self._search, self._scheduler, self._signs = search, search.scheduler, signs
        self._clock, self._ray = clock, ray
        self._watch = ClusterWatch(clock)
        self._ends_at: float | None = None  # when Tune is left alone
        self._look_at = 0.0
        self._asked_at: float | None = None  # to stop or pause
        self._missing_since: tuple[float, datetime] | None = None
        self.error: ClusterError | None = None
        self.unanswered: StopRequest | None = None  # a request to stop that running trials have not answered

    def run(self, tune: Callable[[], object]) -> None:
        """Run Tune until it has ended or cannot be waited for any more.

        Raises:
            Exception: Tune's own.
        """
        running = _Background(tune)
        try:
            with self._watch.watching():
                while not running.ended.wait(POLL_S) and not self._gives_up():
                    self._tick()
            if running.error is not None and self.error is None:
                raise running.error
        finally:  # also after a second Ctrl-C
            if not running.ended.is_set():
                self._search.close()
                self._ray.abandon()

    def _gives_up(self) -> bool:
        if not self._scheduler.interrupted:
            return False
        self._ends_at = self._ends_at or self._clock.now + UNWIND_S
        return self._clock.now > self._ends_at

    def _tick(self) -> None:
        self._clock.tick()
        self._search.poll_requests()
        if self._scheduler.interrupted:
            return
        if (fault := self._watch.fault()) is not None:
            self._ray.note_death()
            self._end(BrokenClusterError(fault), unwind_s=0.0 if self._watch.silent_s > LOST_HEAD_S else DEAD_UNWIND_S)
        elif self._scheduler.lease_lost or isinstance(self._search.first_error, LeaseLost):
            if self._ray.owned:  # at once: trials would write into folders that are another driver's now
                self._ends_at = self._clock.now
            self._scheduler.interrupted = True
        elif self._search.first_error is not None:
            self._scheduler.interrupted = True
        elif self._clock.now >= self._look_at:
            self._look_at = self._clock.now + LOOK_EVERY_S
            self._look_at_trials()
            self._look_at_nodes()

    def _end(self, error: ClusterError, unwind_s: float = UNWIND_S) -> None:
        self.error, self._ends_at = error, self._clock.now + unwind_s
        self._scheduler.interrupted = True  # Tune asks for it

    def _look_at_trials(self) -> None:
        """Name silent trials, and end a sweep that is to stop once it has only such."""
        running = self._scheduler.running_ids
        silent = self._signs.silent(running)
        for sign in silent:
            if not sign.named:
                sign.named = True
                log.warning("%s", self._signs.describe(sign))
        request = self._scheduler.stop_request
        if request is None:
            self._asked_at = None
            return
        self._asked_at = self._clock.now if self._asked_at is None else self._asked_at
        waited_s = self._clock.now - self._asked_at
        if waited_s > LONGEST_STOP_S or (waited_s > self._signs.patience_s and len(silent) == len(running) > 0):
            self.unanswered = request
            self._scheduler.interrupted = True

    def _look_at_nodes(self) -> None:
        """Name the resources that lost nodes had, and end the sweep if they do not come back."""
        spec = self._scheduler.ledger.spec
        if self._watch.nodes is None:
            return
        missing, _ = fit(spec.resources, with_growth(self._watch.nodes.values()))
        if not missing:
            if self._missing_since is not None:
                log.warning("%s: nodes have room for its trials again", spec.name)
            self._missing_since = None
            return
        if self._missing_since is None:
            self._missing_since = self._clock.now, datetime.now()
            log.warning(
                "%s waits since %s: a node is gone, and %s; %d of its trials wait. It goes on when a node with room "
                "joins, and ends in %.0f min without one",
                *(
                    spec.name,
                    f"{self._missing_since[1]:%H:%M:%S}",
                    "; ".join(missing),
                    len(self._scheduler.running_ids),
                    NODES_S / 60,
                ),
            )
        since, wall = self._missing_since
        if self._clock.now - since > NODES_S:
            self._end(InfeasibleError(f"{spec.name} waits since {wall:%H:%M:%S}: {'; '.join(missing)}"))


class _Background:
    """A call in a thread that may never end."""

    def __init__(self, call: Callable[[], object]) -> None:
        self.ended = threading.Event()
        self.error: BaseException | None = None
        self._call = call
        threading.Thread(target=self._run, name="tune", daemon=True).start()

    def _run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # raised in the main thread
            self.error = error
        finally:
            self.ended.set()
