"""The queue, by simulation: arrivals at random, sweeps that run for a while and end."""

from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from ssl_sweep.service.queue import AGING_S, PATIENCE_S, Capacity, Limits, Running, Waiting, decide

CLUSTER = Capacity(cpus=16, gpus=8)
NO_LIMITS = Limits()


def sweep(name: str, owner: str = "ann", *, gpus: float = 1, slots: int = 1, since: float = 0, priority: int = 0):
    return Waiting(name, owner, priority, since, slots, cpus=1, gpus=gpus)


def launched(*waiting: Waiting, running: tuple[Running, ...] = (), limits: Limits = NO_LIMITS, now: float = 100):
    return decide(waiting, running, CLUSTER, limits, now)


def test_priority_goes_before_who_came_first() -> None:
    made = launched(sweep("early", gpus=8), sweep("urgent", gpus=8, since=50, priority=1))
    assert made.launch == {"urgent": 1}
    assert "a trial needs 1 CPUs and 8 GPUs, 15 CPUs and 0 GPUs of 16 CPUs and 8 GPUs are free" in made.reasons["early"]


def test_within_a_priority_who_came_first_is_served_first() -> None:
    assert launched(sweep("second", gpus=8, since=2), sweep("first", gpus=8, since=1)).launch == {"first": 1}


def test_a_user_with_less_goes_before_one_with_more() -> None:
    made = launched(
        sweep("anns", "ann", gpus=4, since=1), sweep("bobs", "bob", gpus=4, since=2), running=(Running("ann", 1, 4),)
    )
    assert made.launch == {"bobs": 1}


def test_users_take_turns_when_all_is_free() -> None:
    waiting = [sweep(f"ann{n}", "ann", gpus=2, since=n) for n in range(4)]
    waiting += [sweep(f"bob{n}", "bob", gpus=2, since=10 + n) for n in range(4)]
    assert list(launched(*waiting).launch) == ["ann0", "bob0", "ann1", "bob1"]


def test_a_sweep_gets_as_many_trials_at_a_time_as_there_is_room_for() -> None:
    made = launched(sweep("wide", slots=100), running=(Running("bob", 3, 3),))
    assert made.launch == {"wide": 5}


def test_a_users_limits_hold_and_are_named() -> None:
    made = launched(sweep("a", slots=100), sweep("b", since=1), limits=Limits(gpus=3))
    assert made.launch == {"a": 3}
    assert "ann uses 3 GPUs, and may use 3" in made.reasons["b"]
    made = launched(sweep("a"), sweep("b", since=1), limits=Limits(sweeps=1))
    assert made.launch == {"a": 1}
    assert "ann has 1 sweeps running, and may have 1" in made.reasons["b"]


def test_what_can_never_run_says_so_and_is_in_nobodys_way() -> None:
    late = PATIENCE_S + 1
    made = launched(sweep("huge", gpus=9), sweep("small", "bob", since=late), now=late)
    assert made.launch == {"small": 1}
    assert "does not fit this cluster" in made.reasons["huge"]
    assert "can never run" in launched(sweep("a", gpus=2), limits=Limits(gpus=1)).reasons["a"]


def test_small_ones_pass_a_large_one_until_it_has_waited_for_long() -> None:
    running = (Running("cat", 1, 4),)
    large, small = sweep("large", gpus=8), sweep("small", "bob", since=1)
    assert launched(large, small, running=running).launch == {"small": 1}
    made = launched(large, small, running=running, now=PATIENCE_S + 1)
    assert made.launch == {}
    assert "waits behind large" in made.reasons["small"]


def test_waiting_raises_the_priority() -> None:
    old, urgent = sweep("old", gpus=8), sweep("urgent", gpus=8, since=2 * AGING_S, priority=1)
    assert launched(old, urgent, now=2 * AGING_S).launch == {"old": 1}


def test_a_sweep_whose_driver_died_waits_its_time() -> None:
    made = launched(Waiting("a", "ann", 0, 0, 1, 1, 1, not_before=130))
    assert made.reasons == {"a": "waits for its relaunch"}


def test_a_cluster_that_shrank_launches_nothing_more() -> None:
    made = decide([sweep("a")], [Running("bob", 16, 8)], Capacity(8, 4), Limits(gpus=4), 0)
    assert made.launch == {}


@dataclass
class Job:
    wanted: Waiting
    arrives: float
    seconds: float


def jobs():
    return st.lists(
        st.builds(
            lambda owner, gpus, slots, priority, arrives, seconds: (owner, gpus, slots, priority, arrives, seconds),
            st.sampled_from("abc"),
            st.sampled_from([0, 0.5, 1, 2, 8]),
            st.integers(1, 12),
            st.integers(0, 2),
            st.integers(0, 5_000),
            st.integers(100, 20_000),
        ),
        min_size=1,
        max_size=25,
    )


@settings(max_examples=60, deadline=None)
@given(jobs(), st.sampled_from([Limits(), Limits(sweeps=2, gpus=4), Limits(sweeps=1)]))
def test_at_random_arrivals_limits_hold_and_everybody_is_served(drawn, limits: Limits) -> None:
    if limits.gpus is not None:
        drawn = [(owner, min(gpus, limits.gpus), *rest) for owner, gpus, *rest in drawn]
    arriving = [
        Job(Waiting(str(n), owner, priority, arrives, slots, 1, gpus), arrives, seconds)
        for n, (owner, gpus, slots, priority, arrives, seconds) in enumerate(drawn)
    ]
    started, running, now = simulate(arriving, limits)
    assert set(started) == {job.wanted.id for job in arriving}
    assert not running
    minutes = 2 * len(arriving) + 1  # each begins and ends on a whole one
    assert now <= 5_000 + sum(job.seconds for job in arriving) + 60 * minutes  # something always runs


def simulate(arriving: list[Job], limits: Limits) -> tuple[dict[str, float], dict[str, tuple[float, Running]], float]:
    """Decide once a minute until all has run."""
    jobs_by_id = {job.wanted.id: job for job in arriving}
    started: dict[str, float] = {}
    running: dict[str, tuple[float, Running]] = {}
    now = 0.0
    while len(started) < len(arriving) or running:
        running = {name: (ends, run) for name, (ends, run) in running.items() if ends > now}
        waiting = [job.wanted for job in arriving if job.arrives <= now and job.wanted.id not in started]
        made = decide(waiting, [run for _, run in running.values()], CLUSTER, limits, now)
        assert made.launch.keys() | made.reasons.keys() == {each.id for each in waiting}
        assert all(made.reasons.values())
        for name, slots in made.launch.items():
            wanted = jobs_by_id[name].wanted
            assert 1 <= slots <= wanted.slots
            started[name] = now
            run = Running(wanted.owner, wanted.cpus * slots, wanted.gpus * slots)
            running[name] = (now + jobs_by_id[name].seconds, run)
        check_limits([run for _, run in running.values()], limits)
        now += 60
    return started, running, now


def check_limits(held: list[Running], limits: Limits) -> None:
    assert sum(run.cpus for run in held) <= CLUSTER.cpus
    assert sum(run.gpus for run in held) <= CLUSTER.gpus
    for owner in {run.owner for run in held}:
        own = [run for run in held if run.owner == owner]
        assert limits.sweeps is None or len(own) <= limits.sweeps
        assert limits.gpus is None or sum(run.gpus for run in own) <= limits.gpus


def test_a_stream_of_urgent_small_ones_starves_nobody() -> None:
    large = Job(Waiting("large", "ann", 0, 0, 1, 1, 8), 0, 600)
    stream = [Job(Waiting(f"s{n}", f"user{n % 7}", 2, 300 * n, 1, 1, 1), 300 * n, 3_000) for n in range(200)]
    started, _, _ = simulate([large, *stream], NO_LIMITS)
    assert started["large"] < 3 * AGING_S + PATIENCE_S + 3_600
    after = [name for name, when in started.items() if when > started["large"]]
    assert after  # the stream had not simply run dry
