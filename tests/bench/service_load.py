"""The service under load: 200 people who list and follow while three sweeps run.

    make bench

Three processes: the service; this one, a played Ray whose drivers write ledgers and journals and train nothing; and
people, each of whom follows a sweep and asks for lists, sweeps and trials. The promise: 99 of 100 answers within
300 ms, no event lost, and no more memory at the end than in the middle. The exit code is 1 where it is not kept.
"""

import argparse
import asyncio
import gc
import json
import os
import platform
import random
import signal
import ssl
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx2
import psutil
import yaml

sys.path.insert(0, str(Path(__file__).parents[1]))  # what the tests share
from played_ray import Ray, Service
from services import API, SPEC

from ssl_sweep.client.client import Client
from ssl_sweep.service.store import Store
from ssl_sweep.storage.folder_storage import FolderStorage

SWEEPS = ("s0", "s1", "s2")
PROMISED_S, GROWTH, SLACK_MB = 0.3, 1.1, 8.0
TRIAL_S = 0.55  # what a played trial takes, its writes included; about
PAUSE_S = (1.0, 3.0)  # between one's questions
ARRIVE_S = 10.0  # over which people come: what 200 of this process's clients do at once would be its own time
Seen = dict[str, Any]


async def person(url: str, token: str, number: int, until: float, tls: ssl.SSLContext) -> Seen:
    """Somebody who follows a sweep to its end, and asks until a time; the numbers seen, and each answer's seconds."""
    dice, name = random.Random(number), SWEEPS[number % len(SWEEPS)]
    headers = {"Authorization": f"Bearer {token}"}
    seconds: list[float] = []
    await asyncio.sleep(dice.uniform(0, ARRIVE_S))
    async with httpx2.AsyncClient(base_url=url, headers=headers, timeout=600, verify=tls) as http:
        following = asyncio.create_task(followed(http, name))
        tags: dict[str, str] = {}
        paths = [f"{API}/sweeps", f"{API}/sweeps/{name}", f"{API}/sweeps/{name}/trials?limit=50"]
        await asyncio.sleep(dice.uniform(*PAUSE_S))
        while time.time() < until:
            path = dice.choice(paths)
            # half of them are browsers, which say what they have
            tag = {"If-None-Match": tags[path]} if number % 2 and path in tags else {}
            began = time.perf_counter()
            answer = await http.get(path, headers=tag)
            seconds.append(time.perf_counter() - began)
            assert answer.status_code in (200, 304), answer.text
            tags[path] = answer.headers["ETag"]
            await asyncio.sleep(dice.uniform(*PAUSE_S))
        return {"sweep": name, "events": await following, "seconds": seconds}


async def followed(http: httpx2.AsyncClient, name: str) -> list[int]:
    numbers = []
    async with http.stream("GET", f"{API}/sweeps/{name}/events") as answer:
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                numbers.append(int(line.removeprefix("id: ")))
            if line == "event: end":
                break
    return numbers


async def people(url: str, tokens: list[str], until: float) -> list[Seen]:
    gc.disable()  # the clients' own pauses are not the service's
    tls = ssl.create_default_context()  # one for all: to make it takes a client longer than all else
    return list(await asyncio.gather(*(person(url, token, n, until, tls) for n, token in enumerate(tokens))))


def load(folder: Path, clients: int, seconds: int) -> bool:
    """Run it, print what was measured, and say whether the promise was kept."""
    storage = FolderStorage(folder)
    ray, store = Ray(storage), Store(storage.service_url)
    service = Service(storage, ray, tick_s=2)
    service.start()
    process = psutil.Process(service.process.pid)
    tokens = [store.create_token(f"user{n}", "viewer")[0] for n in range(clients)]
    client = Client(service.url, store.create_token("ann", "submitter")[0])
    alphas = [round(0.5 * n / (seconds / TRIAL_S), 6) for n in range(int(seconds / TRIAL_S))]
    for name in SWEEPS:
        search = {"space": {"views.overlay_alpha": alphas}}
        client.submit(yaml.safe_dump({**SPEC, "name": name, "search": search}))
    asked = json.dumps({"url": service.url, "tokens": tokens, "until": time.time() + seconds})
    own = [sys.executable, "-m", "tests.bench.service_load", "--people"]
    others = subprocess.Popen(own, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert others.stdin is not None
    others.stdin.write(asked)
    others.stdin.close()
    memory = []
    for _ in range(3):
        time.sleep(seconds / 4)
        memory.append(process.memory_info().rss / 2**20)
    assert others.stdout is not None
    seen: list[Seen] = json.load(others.stdout)
    others.wait()
    told = {each.name: [event["number"] for event in store.events(each.id)] for each in store.find()}
    service.end(signal.SIGTERM)
    client.close()
    ray.close()
    return kept(seen, told, memory)


def kept(seen: list[Seen], told: dict[str, list[int]], memory: list[float]) -> bool:
    times = sorted(second for each in seen for second in each["seconds"])
    p50, p99 = (times[int(share * (len(times) - 1))] for share in (0.5, 0.99))
    sent, received = sum(len(told[each["sweep"]]) for each in seen), sum(len(each["events"]) for each in seen)
    right = all(each["events"] == told[each["sweep"]] for each in seen)
    print(f"{os.cpu_count()} CPUs, Python {platform.python_version()}, {len(seen)} clients, {len(told)} sweeps")
    print(f"reads    {len(times)}, p50 {1000 * p50:.0f} ms, p99 {1000 * p99:.0f} ms, longest {1000 * times[-1]:.0f} ms")
    print(f"events   {sent} sent, {received} received, {'each once, in order' if right else 'NOT as sent'}")
    print("memory   " + ", ".join(f"{each:.0f} MB" for each in memory) + " after 1/4, 2/4 and 3/4 of the time")
    return p99 < PROMISED_S and right and memory[-1] <= GROWTH * memory[1] + SLACK_MB


def main() -> None:
    """Measure, and print what goes into experiments/LOG.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--people", action="store_true", help="be the clients; what they need comes on standard input")
    wanted = parser.parse_args()
    if wanted.people:
        json.dump(asyncio.run(people(**json.load(sys.stdin))), sys.stdout)
        return
    with tempfile.TemporaryDirectory() as folder:
        promised = load(Path(folder), wanted.clients, wanted.seconds)
    print("as promised" if promised else "NOT as promised")
    sys.exit(not promised)


if __name__ == "__main__":
    main()
