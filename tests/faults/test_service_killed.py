"""The service killed by SIGKILL at random while sweeps are submitted, run and are followed: none lost, none twice.

In front of it a played Ray, whose drivers are threads of this process and outlive the service, as jobs do.
"""

import os
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml
from played_ray import Ray, Service
from services import SPEC

from ssl_sweep.client.client import PASSING, Client, ServiceError
from ssl_sweep.service.store import Store
from ssl_sweep.storage.folder_storage import FolderStorage

KILLS = int(os.environ.get("SSL_SWEEP_FAULTS", "0"))
TRIALS = 4
pytestmark = pytest.mark.skipif(not KILLS, reason="make test-faults kills the service; see test_dispatcher.py")


@pytest.fixture
def ray(tmp_path: Path) -> Iterator[Ray]:
    made = Ray(FolderStorage(tmp_path))
    yield made
    made.close()


@pytest.fixture
def service(ray: Ray) -> Iterator[Service]:
    made = Service(ray.storage, ray, tick_s=0.1)
    made.start()
    yield made
    made.end(signal.SIGTERM)


def insisting(service: Service, token: str, name: str) -> list[dict[str, Any]]:
    """Submit a sweep until somebody answers, under one key, and follow it to its end."""
    client, spec, events = Client(service.url, token), yaml.safe_dump({**SPEC, "name": name}), list[dict[str, Any]]()

    def follow() -> None:
        events.extend(client.events(name, events[-1]["number"] if events else 0))

    for work in (lambda: client.submit(spec, key=name), follow):
        while not answered(work):
            pass
    client.close()
    return events


def answered(work: Callable[[], object]) -> bool:
    """Whether the service was there for it."""
    try:
        work()
    except ServiceError as error:
        if error.status not in (0, *PASSING):
            raise
        return False
    return True


@pytest.mark.slow
def test_a_service_killed_again_and_again_loses_no_sweep_and_runs_none_twice(service: Service, ray: Ray) -> None:
    """Slow: each start of the service takes seconds."""
    dice, store = random.Random(1), Store(ray.storage.service_url)
    token = store.create_token("ann", "submitter")[0]
    done, follows = threading.Event(), []

    def submitting(pool: ThreadPoolExecutor) -> None:
        rhythm = random.Random(2)
        while not done.wait(rhythm.uniform(0.5, 5)):
            follows.append(pool.submit(insisting, service, token, f"s{len(follows)}"))

    with ThreadPoolExecutor(200) as pool:
        submitter = pool.submit(submitting, pool)
        for _ in range(KILLS):
            time.sleep(dice.uniform(0.5, 4))
            service.end(signal.SIGKILL)
            service.start()
        done.set()
        submitter.result()
        followed = [each.result(240) for each in follows]
    assert len(followed) >= KILLS
    sweeps = {each.name: each for each in store.find()}
    assert len(sweeps) == len(followed)
    assert {(each.state, each.attempt, each.deaths) for each in sweeps.values()} == {("COMPLETE", 1, 0)}
    assert len(ray.jobs) == len(sweeps)
    assert len(ray.ran) == TRIALS * len(sweeps)
    assert set(ray.ran.values()) == {1}
    by_first = {store.events(each.id)[0]["number"]: each for each in sweeps.values()}
    for events in followed:
        sweep = by_first[events[0]["number"]]
        assert events == store.events(sweep.id)  # each once, in order, none missed
        ended = [each["trial_id"] for each in events if each.get("trial_state") == "COMPLETE"]
        assert len(ended) == len(set(ended)) == TRIALS
