"""A trial with several workers: Ray Train places and starts them, rank 0 runs the trial, the others assist it.

Ray Train's own reports are polled for and not waited for. Here rank 0 tells the trial's driver of each epoch, and goes
on when that has dealt with it, so that it hears at once when it is to stop. Attempts are counted in the ledger:
whatever fails, Ray Train is to try nothing again.
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
from ssl_sweep.spec.section import Resources
from ssl_sweep.storage import mirror
from ssl_sweep.storage.layout import Storage
from ssl_sweep.training.loop import Report
from ssl_sweep.trial.attempt import Outcome, dead_process_outcome, ended
from ssl_sweep.trialdir.record import TrialRecord
from ssl_sweep.trialdir.states import TrialState

COLLECTIVE_TIMEOUT_S = 10 * 24 * 3600  # a trial may wait long for another's pretraining; `resources.timeout` watches
POLL_S = 0.2
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.5",  # so soon a worker that died is seen
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # one process less: a node that goes away has its own budget here
}
Message = dict[str, Any]


class GangFailed(RuntimeError):  # noqa: N818 - what it says
    """Raised by a worker whose outcome is told: Ray Train then ends the others, who may wait for it for ever."""


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
        work: what each worker runs: an attempt at the trial, which tells of its epochs by the report it is given.
        resources: of the trial.
        record: see `attempt`.
        storage: where the trial's folder lies.
        scratch: where Ray Train may leave what is never read back; every node must see it.
        report: called in this process with rank 0's reports, which wait for it.
    """
    os.environ.update(SETTINGS)
    post: Any = ray.remote(num_cpus=0)(_Mailbox).remote()
    told: list[tuple[int, Outcome]] = []
    started: list[Any] = [post]
    fitted = _in_background(_trainer(work, post, resources, scratch).fit)
    heard = post.hear.remote()
    try:
        while not fitted.done():
            ready, _ = ray.wait([heard], timeout=POLL_S)
            if ready:
                _take(ray.get(heard), report, told, started)
                heard = post.hear.remote()
                post.answer.remote()
    finally:
        for actor in started:
            ray.kill(actor)
    folder = storage.trial(record.sweep, record.trial_id)
    return _outcome(told, fitted.exception(), record.config, folder, partial(mirror.at_hand, storage, folder))


def hide_gpus(resources: Resources) -> None:
    """Hide the node's GPUs from a trial that is given none: Ray leaves all in sight, and they are other trials'."""
    if resources.gpus == 0:
        os.environ["CUDA_VISIBLE_DEVICES"] = ""


def _take(message: Message, report: Report, told: list[tuple[int, Outcome]], started: list[Any]) -> None:
    if "controller" in message:
        started.append(message["controller"])
    elif "outcome" in message:
        told.append((message["rank"], Outcome.from_json(message["outcome"])))
    else:
        report(message["metrics"], message["step"])


def _outcome(
    told: list[tuple[int, Outcome]],
    error: BaseException | None,
    config: Mapping[str, Any],
    folder: Path,
    at_hand: Callable[[], AbstractContextManager[None]],
) -> Outcome:
    """Rank 0's, which has written it down; else what the first rank to fail says; else a process has died."""
    for rank, outcome in sorted(told, key=lambda each: each[0] > 0):
        if rank == 0:
            return outcome
        with at_hand():
            return ended(folder, outcome)
    failures = getattr(error, "worker_failures", {})
    who = f"worker {', '.join(map(str, failures))}" if failures else "a worker"
    with at_hand():
        return dead_process_outcome(folder, f"{who} of the trial died: killed, or out of memory", str(error), config)


def _trainer(work: Callable[[Report], Outcome], post: Any, resources: Resources, scratch: Path) -> Any:
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    # one of them is of Ray Train 2, which type checkers do not see
    limits: dict[str, Any] = {"max_failures": 0, "max_preemption_failures": 0}

    def tell(message: Message) -> None:
        ray.get(post.tell.remote(message))

    def loop() -> None:
        import torch
        from ray.train import get_context

        torch.set_num_threads(max(1, int(resources.cpus)))
        rank = get_context().get_world_rank()
        outcome = work(lambda metrics, step: tell({"metrics": metrics, "step": step}))
        if rank == 0 or outcome.state == TrialState.FAILED:
            tell({"rank": rank, "outcome": json.dumps(asdict(outcome))})
        if outcome.state == TrialState.FAILED or (rank == 0 and outcome.state != TrialState.COMPLETE):
            raise GangFailed(outcome.message)

    return compat.torch_trainer(
        loop,
        controller_started=lambda controller: tell({"controller": controller}),
        torch_config=compat.torch_config(
            lambda workers: workers.execute(hide_gpus, resources),
            # gloo beside NCCL: for what ranks tell one another between steps, on the CPU
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
    """Carries what the workers tell to the trial's driver, one after the other; each waits for its answer."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()
        self._told: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[None] = asyncio.Queue()

    async def tell(self, message: Message) -> None:
        async with self._turn:
            self._told.put_nowait(message)
            await self._answers.get()

    async def hear(self) -> Message:
        return await self._told.get()

    async def answer(self) -> None:
        self._answers.put_nowait(None)


def _in_background(function: Callable[[], Any]) -> "Future[Any]":
    """A future of `function()` in a thread that no exit waits for."""
    future: Future[Any] = Future()

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)

    Thread(target=run, daemon=True).start()
    return future
