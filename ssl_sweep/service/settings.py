"""What whoever runs the service decides."""

from dataclasses import dataclass, field
from pathlib import Path

from ssl_sweep.service.queue import Capacity, Limits
from ssl_sweep.storage.layout import Storage


@dataclass(frozen=True)
class Settings:
    """How a service is run."""

    storage: Storage
    data_roots: tuple[Path, ...]  # absolute; a spec's relative data starts at the first
    limits: Limits = field(default_factory=Limits)
    autoscale_max: Capacity = field(default_factory=lambda: Capacity(0, 0))  # all workers when scaled up
    open: bool = False  # bound to loopback: who has no token is this machine's admin, until there are tokens
    mlflow_url: str = ""  # as a browser reaches it; empty: nothing leads there
    ray_url: str = ""
    tick_s: float = 2.0
    back_off_s: float = 30.0  # before a sweep whose driver died is launched again; twice as long each time
