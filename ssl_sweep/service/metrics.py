"""Metrics of the service for Prometheus: its queue, and whether it reaches Ray."""

import time

from ssl_sweep.service.dispatcher import Dispatcher
from ssl_sweep.service.states import ACTIVE, ENDED, WAITING

HELP = {
    "sweeps": "Submitted sweeps by state.",
    "queue_seconds": "How long the sweep that has waited longest has been queued.",
    "ray_up": "1 where the service reaches the Ray cluster, else 0.",
}


def exposition(service: Dispatcher) -> str:
    """The service's metrics in Prometheus' text format. No label names a sweep or a user."""
    counts = service.store.count_by_state()
    queued = [each.queued for each in service.store.find(states=WAITING)]
    samples: dict[str, list[tuple[str, float]]] = {
        "sweeps": [(f'{{state="{state}"}}', counts.get(state, 0)) for state in (*WAITING, *ACTIVE, *ENDED)],
        "queue_seconds": [("", round(time.time() - min(queued), 1) if queued else 0.0)],
        "ray_up": [("", int(service.capacity is not None and not service.trouble))],
    }
    lines = []
    for name, values in samples.items():
        lines += [f"# HELP ssl_sweep_service_{name} {HELP[name]}", f"# TYPE ssl_sweep_service_{name} gauge"]
        lines += [f"ssl_sweep_service_{name}{labels} {value}" for labels, value in values]
    return "\n".join(lines) + "\n"
