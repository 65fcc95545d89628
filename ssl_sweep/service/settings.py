"""What whoever runs the service decides."""

from dataclasses import dataclass, field
from pathlib import Path

from ssl_sweep.service.queue import Limits, Room
from ssl_sweep.storage.layout import Storage


@dataclass(frozen=True)
class Settings:
    """How a service is run."""

    storage: Storage
    data_roots: tuple[Path, ...]  # absolute; a spec's relative data starts at the first
    limits: Limits = field(default_factory=Limits)
    grows_to: Room = field(default_factory=lambda: Room(0, 0))  # what an autoscaler may make of the cluster
    open: bool = False  # bound to loopback: who has no token is this machine's admin, until there are tokens
    mlflow_url: str = ""  # as a browser reaches it; empty: nothing leads there
    ray_url: str = ""
    tick_s: float = 2.0
    back_off_s: float = 30.0  # before a sweep whose driver died is launched again; twice as long each time
