"""Which submitted sweep runs next: a function of plain data, without clock, database or Ray.

Order: priority, which rises with the time waited; then the user who uses the least; then first come, first served. A
sweep is launched with as many concurrent trials as fit, at least one. Later sweeps may overtake one that does not fit
until it has waited PATIENCE_S; then all resources that become free are reserved for it. So every sweep is launched at
some time, provided that running ones end.
"""

from collections.abc import Sequence
from dataclasses import dataclass

AGING_S = 6 * 3600.0  # of waiting that raise a sweep's priority by one
PATIENCE_S = 1800.0


@dataclass(frozen=True)
class Waiting:
    """A sweep in the queue. `slots`: maximum concurrent trials; `cpus` and `gpus` are per trial."""

    id: str
    owner: str
    priority: int
    since: float
    slots: int
    cpus: float
    gpus: float
    not_before: float = 0.0


@dataclass(frozen=True)
class Running:
    """A launched sweep and the resources of all its trials."""

    owner: str
    cpus: float
    gpus: float


@dataclass(frozen=True)
class Limits:
    """Limits of each user; None: no limit."""

    sweeps: int | None = None
    gpus: float | None = None


@dataclass(frozen=True)
class Capacity:
    """CPUs and GPUs of a cluster, or of a part of it."""

    cpus: float
    gpus: float

    def at_least(self, other: "Capacity") -> "Capacity":
        """The larger number of each resource."""
        return Capacity(max(self.cpus, other.cpus), max(self.gpus, other.gpus))

    def count_fitting(self, wanted: Waiting) -> int:
        """How many trials of a sweep fit, up to those that it may run at a time."""
        shares = [have / want for have, want in ((self.cpus, wanted.cpus), (self.gpus, wanted.gpus)) if want]
        return max(0, min([wanted.slots, *(int(share + 1e-9) for share in shares)]))


@dataclass(frozen=True)
class Decision:
    """The concurrent trials of each sweep to launch, and why the others wait."""

    launch: dict[str, int]
    reasons: dict[str, str]


def decide(
    waiting: Sequence[Waiting], running: Sequence[Running], capacity: Capacity, limits: Limits, now: float
) -> Decision:
    """Choose the sweeps to launch now with the part of `capacity` that `running` does not hold."""
    decision, held = Decision({}, {}), list(running)
    queue = ordered(waiting, held, now)
    reserving: Waiting | None = None  # free resources are reserved for it
    while queue:
        chosen = queue.pop(0)
        free = _free(capacity, held)
        why = _obstacle(chosen, held, capacity, limits, now) or (
            f"waits behind {reserving.id}, which has waited longest for resources" if reserving else ""
        )
        slots = 0 if why else min(free.count_fitting(chosen), _allowed(chosen, held, limits))
        if slots:
            decision.launch[chosen.id] = slots
            held.append(Running(chosen.owner, chosen.cpus * slots, chosen.gpus * slots))
            queue = ordered(queue, held, now)  # its owner uses more now
            continue
        lacking = f"waits for resources: {_needs(chosen)}, {_shown(free)} of {_shown(capacity)} are free"
        decision.reasons[chosen.id] = why or lacking
        if not why and now - chosen.since > PATIENCE_S:
            reserving = chosen
    return decision


def ordered(waiting: Sequence[Waiting], held: Sequence[Running], now: float) -> list[Waiting]:
    """The queue in its order, the next sweep first."""
    used = {owner: _used(owner, held) for owner in {each.owner for each in waiting}}

    def rank(each: Waiting) -> tuple[float, float, float, float, str]:
        aged = each.priority + int(max(0.0, now - each.since) / AGING_S)
        return (-aged, used[each.owner].gpus, used[each.owner].cpus, each.since, each.id)

    return sorted(waiting, key=rank)


def _obstacle(each: Waiting, held: Sequence[Running], capacity: Capacity, limits: Limits, now: float) -> str:
    """Why a sweep cannot be launched whatever is free; empty if it can."""
    if now < each.not_before:
        return "waits for its relaunch"
    if not capacity.count_fitting(each):
        return f"does not fit this cluster: {_needs(each)}, the cluster has {_shown(capacity)}"
    if limits.gpus is not None and each.gpus > limits.gpus:
        return f"can never run: {_needs(each)}, a user may have {limits.gpus:g} GPUs at a time"
    sweeps = sum(run.owner == each.owner for run in held)
    if limits.sweeps is not None and sweeps >= limits.sweeps:
        return f"{each.owner} has {sweeps} sweeps running, and may have {limits.sweeps}"
    if not _allowed(each, held, limits):
        used = _used(each.owner, held).gpus
        return f"{each.owner} uses {used:g} GPUs, and may use {limits.gpus:g}: {_needs(each)}"
    return ""


def _allowed(each: Waiting, held: Sequence[Running], limits: Limits) -> int:
    """How many concurrent trials its owner's GPU limit allows."""
    if limits.gpus is None or not each.gpus:
        return each.slots
    return max(0, min(each.slots, int((limits.gpus - _used(each.owner, held).gpus) / each.gpus + 1e-9)))


def _used(owner: str, held: Sequence[Running]) -> Capacity:
    own = [run for run in held if run.owner == owner]
    return Capacity(sum(run.cpus for run in own), sum(run.gpus for run in own))


def _free(capacity: Capacity, held: Sequence[Running]) -> Capacity:
    return Capacity(capacity.cpus - sum(run.cpus for run in held), capacity.gpus - sum(run.gpus for run in held))


def _needs(each: Waiting) -> str:
    return f"a trial needs {_shown(Capacity(each.cpus, each.gpus))}"


def _shown(capacity: Capacity) -> str:
    return f"{max(0.0, capacity.cpus):g} CPUs and {max(0.0, capacity.gpus):g} GPUs"
