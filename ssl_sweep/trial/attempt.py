"""One try at a trial: the edge at which its errors are caught, named and written down."""

import json
import logging
import math
import os
import platform
import re
import socket
import subprocess
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cache as remember
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ssl_sweep.data.images import DataError
from ssl_sweep.knobs.cost import costs
from ssl_sweep.knobs.objective import COSTS
from ssl_sweep.models.distributed import Dismissed, is_of_a_lost_rank, rank
from ssl_sweep.storage.bucket import BucketError
from ssl_sweep.training.health import Collapsed
from ssl_sweep.training.loop import Diverged, Report, Stop
from ssl_sweep.trial import run as trial
from ssl_sweep.trialdir import disk, watchdog
from ssl_sweep.trialdir.events import AttemptStarted, Ended
from ssl_sweep.trialdir.journal import Journal
from ssl_sweep.trialdir.record import TrialRecord
from ssl_sweep.trialdir.requests import read_stop_request
from ssl_sweep.trialdir.states import TrialState

# the state of a trial that did as it was asked
REQUESTED_STATES = {"prune": TrialState.PRUNED, "stop": TrialState.STOPPED, "pause": TrialState.PAUSED}
MONITOR = ("low on memory", "OutOfMemory", "OUT_OF_MEMORY")  # of Ray's words for a process that its monitor killed
# torch has a type for a full GPU only: a full memory of the machine, cuBLAS and NCCL are told by their words
MEMORY_WORDS = ("can't allocate memory", "ALLOC_FAILED", "out of memory")
# as a traceback names it
BUCKET_ERROR = rf"^{re.escape(BucketError.__module__)}\.{BucketError.__name__}: (.+)$"
log = logging.getLogger("ssl_sweep.attempt")


@dataclass(frozen=True)
class Outcome:
    """How an attempt ended: COMPLETE, FAILED (with its reason), PRUNED, STOPPED or PAUSED."""

    state: TrialState
    results: dict[str, float] = field(default_factory=dict)
    reason: str | None = None
    message: str | None = None
    traceback: str | None = None

    @classmethod
    def from_json(cls, text: str) -> "Outcome":
        """An outcome from the JSON of what `asdict` has made of it."""
        told = json.loads(text)
        return cls(**{**told, "state": TrialState(told["state"])})


def attempt(
    record: TrialRecord,
    number: int,
    report: Report,
    folder: Path,
    cache: Path,
    *,
    stages: Path | None = None,
    objectives: Sequence[str] = (),
    timeout: float | None = None,
) -> Outcome:
    """Run a trial in its folder and say how it went; only what ends the process, or another rank's, passes through.

    Every rank of a trial with several workers calls it; rank 0's outcome is the trial's, unless another has failed.

    Args:
        record: the trial's identity and config.
        number: which attempt this is, from 1 on.
        report: see `trial.run`.
        folder: the trial's folder.
        cache: where decoded data lies on this node.
        stages: where the sweep's pretrainings lie; see `trial.run`.
        objectives: the metrics that the search goes by; a trial without a finite value of each has failed.
        timeout: seconds without a sign of life after which this process is ended; None: never.
    """
    if rank() > 0:
        return _run_worker(record, folder, cache, stages, timeout)

    def told(metrics: dict[str, float], step: int) -> None:
        with watchdog.waiting():  # a driver that is busy is no trial that hangs
            report(metrics, step)

    try:
        folder.mkdir(parents=True, exist_ok=True)
        record.write(folder)
        Journal(folder).append(AttemptStarted(attempt=number, **_provenance()))
        with _log_file(folder / "log.txt"), watchdog.watched(folder, timeout):
            outcome = _run(record, told, folder, cache, stages, objectives)
        return ended(folder, outcome)
    except OSError as error:
        if not disk.is_full(error):
            raise
        # its journal cannot say so: the driver must hear of it, or takes the trial for lost, and tries it at once
        return Outcome(TrialState.FAILED, {}, "disk", disk.message(error, folder), traceback.format_exc())


def with_stop_check(report: Report, folder: Path) -> Report:
    """The report, and after it an end of the trial of this folder if it is asked to."""

    def told(metrics: dict[str, float], step: int) -> None:
        report(metrics, step)
        if (wish := read_stop_request(folder)) is not None:
            raise Stop(wish.why)

    return told


def ended(folder: Path, outcome: Outcome) -> Outcome:
    """The outcome of an attempt, written down."""
    told = {name: value for name, value in asdict(outcome).items() if name != "results"}
    Journal(folder).append(Ended(**told))
    return outcome


def dead_process_outcome(folder: Path, message: str, said: str, config: Mapping[str, Any]) -> Outcome:
    """The outcome of an attempt whose process died, written down: of itself, for want of memory, or of a sign of life.

    Args:
        folder: the trial's.
        message: what to tell where nothing more is known.
        said: what Ray says of the process.
        config: the trial's.
    """
    if found := re.search(BUCKET_ERROR, said, flags=re.MULTILINE):
        message = found[1]
    outcome = Outcome(TrialState.FAILED, reason="lost", message=message)
    if any(words in said for words in MONITOR):
        message = f"out of memory, ended by Ray's memory monitor; {what_to_lower(config)}"
        outcome = Outcome(TrialState.FAILED, reason="oom", message=message, traceback=said)
    dumps = [watchdog.take_dump(each) for each in (folder, *sorted(folder.glob("rank*")))]
    if (dump := next(filter(None, dumps), None)) is not None:
        message = f"{watchdog.summary(dump)} (resources.timeout)"
        outcome = Outcome(TrialState.FAILED, reason="hung", message=message, traceback=dump)
    return ended(folder, outcome)


def _run_worker(record: TrialRecord, folder: Path, cache: Path, stages: Path | None, timeout: float | None) -> Outcome:
    try:
        trial.run_worker(record.config, folder, cache=cache, stages=stages, timeout=timeout)
    except (Dismissed, Diverged) as alike:  # rank 0 has the same loss to the bit, fails too, and says so
        return Outcome(TrialState.STOPPED, message=str(alike))
    except Exception as error:  # the trial's edge
        return _failed(error, record.config, folder)
    return Outcome(TrialState.COMPLETE)


def _run(
    record: TrialRecord, report: Report, folder: Path, cache: Path, stages: Path | None, objectives: Sequence[str]
) -> Outcome:
    try:
        if (ask := read_stop_request(folder)) is not None:  # while it waited for its resources
            raise Stop(ask.why)
        results = trial.run(record.config, report, folder, cache=cache, stages=stages)
        if any(objective in COSTS for objective in objectives):
            measured = costs(record.config)
            Journal(folder).report(measured, 0)
            results |= measured
        for objective in objectives:
            _check_objective(results, objective)
    except Stop as stop:
        return stopped(folder, stop)
    except Exception as error:  # the trial's edge: whatever went wrong becomes the trial's state
        return _failed(error, record.config, folder)
    return Outcome(TrialState.COMPLETE, results)


def _failed(error: Exception, config: Mapping[str, Any], folder: Path) -> Outcome:
    """The outcome of an attempt that an error ended; where it is a lost rank's, that rank tells more: it is raised."""
    log.error("failed", exc_info=error)
    reason, message = failure_reason(error), f"{type(error).__name__}: {error}"
    if reason != "oom" and is_of_a_lost_rank(error):
        raise error
    if reason == "oom":
        message = f"out of memory; {what_to_lower(config)} ({message})"
    if reason == "disk":
        message = disk.message(error, folder)
    return Outcome(TrialState.FAILED, {}, reason, message, "".join(traceback.format_exception(error)))


def failure_reason(error: BaseException) -> str:
    """The kind of a failure: `disk`, `oom`, `diverged`, `collapsed`, `data` or `crash`."""
    if disk.is_full(error):
        return "disk"
    kinds: dict[str, tuple[type[BaseException], ...]] = {
        "oom": (torch.OutOfMemoryError, MemoryError),
        "diverged": (Diverged,),
        "collapsed": (Collapsed,),
        "data": (DataError,),
    }
    kind = next((kind for kind, types in kinds.items() if isinstance(error, types)), "crash")
    full = isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_WORDS)
    return "oom" if kind == "crash" and full else kind


def _check_objective(results: Mapping[str, float], objective: str) -> None:
    """Refuse results that the search cannot compare with others.

    Raises:
        Diverged: the objective is not a finite number.
        LookupError: this choice's settings do not measure it.
    """
    if objective not in results:
        measured = ", ".join(results) or "nothing"
        raise LookupError(
            f"search.objective {objective} is not measured by this choice, which measures {measured}; give a new sweep "
            "an objective that all of its choices measure"
        )
    if not math.isfinite(results[objective]):
        raise Diverged(
            f"search.objective {objective} is {results[objective]}, no finite number: the features may have collapsed; "
            "lower pretrain.lr, or give a new sweep an objective that a collapse does not undo"
        )


def stopped(folder: Path, stop: Stop) -> Outcome:
    """The outcome of an attempt that was asked to end."""
    ask = read_stop_request(folder)
    outcome = Outcome(REQUESTED_STATES[ask.ask] if ask else TrialState.STOPPED, message=str(stop))
    log.info("%s: %s", outcome.state, stop)
    return outcome


def what_to_lower(config: Mapping[str, Any]) -> str:
    """What of a trial's settings takes memory, with the values that were too much."""
    stages = {"pretrain": config["pretrain"], **{f"evaluate.{name}": each for name, each in config["evaluate"].items()}}
    sizes = {f"{name}.batch_size": each["batch_size"] for name, each in stages.items() if "batch_size" in each}
    sizes["data.image_size"] = config["data"]["image_size"]
    listed = ", ".join(f"{name} ({size})" for name, size in sizes.items())
    precision = "" if config["precision"] == "bf16" else ", set precision: bf16"
    return f"lower one of {listed}{precision}, or have fewer trials share the device or the machine"


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Everything that the package logs during an attempt also goes to the trial's own file."""
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logger = logging.getLogger("ssl_sweep")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        handler.close()


@remember
def _provenance() -> dict[str, Any]:
    """What a reader needs to know of where a number came from."""
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "git_commit": _git_commit(),
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in ("torch", "torchvision")},
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the code that runs, marked `-dirty` when files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
