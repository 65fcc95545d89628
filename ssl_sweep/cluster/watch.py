"""Watches Ray while a sweep runs: its processes on this machine, its head, this driver's node, the nodes' resources."""

import json
import logging
import os
import signal
import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from subprocess import Popen

import ray

from ssl_sweep.cluster import compat
from ssl_sweep.cluster.patience import LOST_HEAD_S, SILENT_HEAD_S, AwakeClock
from ssl_sweep.spec.plan import AUTOSCALE_MAX
from ssl_sweep.trialdir.processes import Process, scope

ASK_EVERY_S = 2.0
ASK_TIMEOUT_S = 10.0
log = logging.getLogger(__name__)


class ClusterWatch:
    """What this driver knows of its cluster. A thread of its own asks the head, since an answer may never come."""

    def __init__(self, clock: AwakeClock) -> None:
        """Prepare to watch the Ray that this process has joined."""
        self._clock = clock
        self._ask = compat.living_nodes()
        self._processes = compat.local_processes()
        context = ray.get_runtime_context()
        self._address, self._own_node = context.gcs_address, context.get_node_id()
        self.nodes: dict[str, dict[str, float]] | None = None  # resources of the living nodes by their ids, once known
        self._answers = self._answers_seen = 0
        self._silent_since, self._named = clock.now, False
        self._ended = threading.Event()

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Ask the head every ASK_EVERY_S while the block runs."""
        threading.Thread(target=self._ask_regularly, name="cluster", daemon=True).start()
        try:
            yield
        finally:
            self._ended.set()

    def fault(self) -> str | None:
        """What has broken the cluster, in words; None while it works. A silent head is named before it is given up."""
        for name, process in self._processes.items():
            if process.poll() is not None:
                return f"Ray's {name} (process {process.pid} on {socket.gethostname()}) {_end_of(process)}"
        if self._answers != self._answers_seen:
            if self._named:
                log.warning("Ray's head answers again")
            self._answers_seen, self._silent_since, self._named = self._answers, self._clock.now, False
        if self.nodes is not None and self._own_node not in self.nodes:
            return f"the Ray node of this driver ({self._own_node[:8]} on {socket.gethostname()}) is dead"
        if self.silent_s > LOST_HEAD_S:
            return f"no answer for {LOST_HEAD_S:g} s from {self._head()}"
        if self.silent_s > SILENT_HEAD_S and not self._named:
            self._named = True
            log.warning(
                "waiting for %s: no answer for %.0f s; given up in %.0f s",
                *(self._head(), self.silent_s, LOST_HEAD_S - self.silent_s),
            )
        return None

    @property
    def silent_s(self) -> float:
        """Seconds since the head's last answer."""
        return self._clock.now - self._silent_since

    def _head(self) -> str:
        process = self._processes.get("gcs_server")
        if process is None:
            return f"Ray's head at {self._address}"
        head = Process(socket.gethostname(), process.pid, scope())
        return f"Ray's head at {self._address}, {head.described(head.state)}"

    def _ask_regularly(self) -> None:
        while not self._ended.wait(ASK_EVERY_S):
            try:
                self.nodes = self._ask(ASK_TIMEOUT_S)
            except Exception as error:  # the thread's edge; a silent head is noticed by `fault`
                log.debug("Ray's head: %s", error)
            else:
                self._answers += 1


def with_growth(nodes: Iterable[dict[str, float]]) -> list[dict[str, float]]:
    """These nodes' resources, and those that an autoscaler adds when trials wait for them."""
    grown = json.loads(os.environ.get(AUTOSCALE_MAX, "null"))
    return [*nodes, grown] if grown else [*nodes]


def _end_of(process: Popen[bytes]) -> str:
    code = process.returncode
    return f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
