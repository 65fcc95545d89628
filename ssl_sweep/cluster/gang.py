"""Runs a trial on several workers: Ray Train places and starts them, rank 0 runs the trial, the others assist it.

Ray Train polls for its own reports, and workers do not wait for it. Here rank 0 sends each report to the trial's driver
and waits until the driver has handled it, so that it sees a stop request at once. The ledger counts attempts: Ray Train
retries nothing.
"""

import asyncio
import json
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import ray

from ssl_sweep.cluster import compat
from ssl_sweep.cluster.shipping import shipped
from ssl_sweep.spec.section import Resources
from ssl_sweep.storage.layout import Storage
from ssl_sweep.training.loop import Report
from ssl_sweep.trial.attempt import Outcome, dead_process_outcome, ended
from ssl_sweep.trialdir.record import TrialRecord
from ssl_sweep.trialdir.states import TrialState

COLLECTIVE_TIMEOUT_S = 10 * 24 * 3600  # a trial may wait long for another's pretraining; `resources.timeout` limits it
POLL_S = 0.2
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # how soon a dead worker is noticed
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less: lost nodes have their own budget here
}
Message = dict[str, Any]


class GangFailed(RuntimeError):  # noqa: N818 - says what it is
    """A worker raises it after sending its outcome: Ray Train then ends the others, which may wait for it."""


def run_gang(
    work: Callable[[Report], Outcome],
    resources: Resources,
    record: TrialRecord,
    storage: Storage,
    scratch: Path,
    report: Report,
) -> Outcome:
    """Run a trial on several workers and return its outcome. All processes of the gang are killed by then.

    Args:
        work: what each worker runs: an attempt at the trial, given the function that it reports to.
        resources: the trial's.
        record: see `attempt`.
        storage: where the trial's folder lies.
        scratch: a folder for Ray Train's files, which are never read back; every node must see it.
        report: called in this process with rank 0's reports; rank 0 waits for it.
    """
    os.environ.update(SETTINGS)
    mailbox: Any = ray.remote(num_cpus=0)(_Mailbox).remote()
    outcomes: dict[int, Outcome] = {}
    actors: list[Any] = [mailbox]
    training = _in_background(_trainer(work, mailbox, resources, scratch).fit)
    received = mailbox.receive.remote()
    try:
        while not training.done():
            ready, _ = ray.wait([received], timeout=POLL_S)
            if ready:
                message = ray.get(received)
                if "stopped" in message and outcomes:  # the rest of fit() takes seconds on a busy machine
                    break
                _handle(message, report, outcomes, actors)
                received = mailbox.receive.remote()
                mailbox.acknowledge.remote()
    finally:
        for actor in reversed(actors):  # the mailbox last: the controller may be waiting for it
            ray.kill(actor)
    folder = storage.trial(record.sweep, record.trial_id)
    error = training.exception() if training.done() else None
    return _outcome(outcomes, error, record.config, folder, partial(storage.synced_journal, folder))


def hide_gpus(resources: Resources) -> None:
    """Hide the node's GPUs from a trial that has none: Ray leaves them visible, and other trials use them."""
    if resources.gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _handle(message: Message, report: Report, outcomes: dict[int, Outcome], actors: list[Any]) -> None:
    if "controller" in message:
        actors.append(message["controller"])
    elif "outcome" in message:
        outcomes[message["rank"]] = Outcome.from_json(message["outcome"])
    elif "metrics" in message:
        report(message["metrics"], message["step"])


def _outcome(
    outcomes: Mapping[int, Outcome],
    error: BaseException | None,
    config: Mapping[str, Any],
    folder: Path,
    at_hand: Callable[[], AbstractContextManager[None]],
) -> Outcome:
    """Rank 0's outcome, which is in the journal; else that of the first rank to fail; else a process has died."""
    if 0 in outcomes:
        return outcomes[0]
    if outcomes:
        with at_hand():
            return ended(folder, next(iter(outcomes.values())))
    failures = getattr(error, "worker_failures", {})
    who = f"worker {', '.join(map(str, failures))}" if failures else "a worker"
    with at_hand():
        return dead_process_outcome(folder, f"{who} of the trial died: killed, or out of memory", str(error), config)


def _trainer(work: Callable[[Report], Outcome], mailbox: Any, resources: Resources, scratch: Path) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    # max_preemption_failures is an argument of Ray Train 2, which type checkers do not see
    limits: dict[str, Any] = {"max_failures": 0, "max_preemption_failures": 0}

    def send(message: Message) -> None:
        ray.get(mailbox.send.remote(message))

    def rank_loop() -> None:
        import torch
        from ray.train import get_context

        torch.set_num_threads(max(1, int(resources.cpus)))
        rank = get_context().get_world_rank()
        outcome = work(lambda metrics, step: send({"metrics": metrics, "step": step}))
        if rank == 0 or outcome.state == TrialState.FAILED:
            send({"rank": rank, "outcome": json.dumps(asdict(outcome))})
        if outcome.state == TrialState.FAILED or (rank == 0 and outcome.state != TrialState.COMPLETE):
            raise GangFailed(outcome.message)

    def refuse(outcome: str) -> None:
        from ray.train import get_context

        send({"rank": get_context().get_world_rank(), "outcome": outcome})
        raise RuntimeError(outcome)  # Ray Train then ends the other workers

    checked = shipped(rank_loop, refuse)

    def loop() -> None:  # Ray Train looks at its arguments
        checked()

    return compat.torch_trainer(
        loop,
        controller_started=lambda controller: send({"controller": controller}),
        workers_stopped=lambda: send({"stopped": True}),
        torch_config=compat.torch_config(
            lambda workers: workers.execute(hide_gpus, resources),
            # ranks exchange CPU data between steps by gloo
            backend="cpu:gloo,cuda:nccl" if resources.gpus else "gloo",
            timeout_s=COLLECTIVE_TIMEOUT_S,
        ),
        scaling_config=ScalingConfig(
            num_workers=resources.workers,
            use_gpu=resources.gpus > 0,
            resources_per_worker={"CPU": resources.cpus, "GPU": resources.gpus},
        ),
        run_config=RunConfig(storage_path=str(scratch), failure_config=FailureConfig(**limits)),
    )


class _Mailbox:
    """Passes messages of the workers to the trial's driver, one at a time; each sender waits to be acknowledged."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._messages: asyncio.Queue[Message] = asyncio.Queue()
        self._acknowledgements: asyncio.Queue[None] = asyncio.Queue()

    async def send(self, message: Message) -> None:
        async with self._turn:
            self._messages.put_nowait(message)
            await self._acknowledgements.get()

    async def receive(self) -> Message:
        return await self._messages.get()

    async def acknowledge(self) -> None:
        self._acknowledgements.put_nowait(None)


def _in_background(function: Callable[[], Any]) -> "Future[Any]":
    """Run a function in a daemon thread, and return its future."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
