"""Settings of a service."""

from dataclasses import dataclass, field
from pathlib import Path

from ssl_sweep.service.queue import Capacity, Limits
from ssl_sweep.storage.layout import Storage


@dataclass(frozen=True)
class Settings:
    """What whoever runs a service decides."""

    storage: Storage
    data_roots: tuple[Path, ...]  # absolute; a spec's relative data starts at the first
    limits: Limits = field(default_factory=Limits)
    autoscale_max: Capacity = field(default_factory=lambda: Capacity(0, 0))  # all workers when scaled up
    trust_local: bool = False  # requests from this machine are an admin's, until a token is made
    mlflow_url: str = ""  # for browsers; empty: no links to it
    ray_url: str = ""
    tick_s: float = 2.0
    back_off_s: float = 30.0  # until a sweep whose driver died is launched again; doubled at each further death
