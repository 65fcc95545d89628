"""One attempt at a trial: catches its errors and turns them into the trial's state and reason."""

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
from dataclasses import asdict, dataclass, field, replace
from functools import cache as remember
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ssl_sweep.data.images import DataError
from ssl_sweep.knobs.cost import costs
from ssl_sweep.knobs.objective import COSTS
from ssl_sweep.knobs.pins import PinError
from ssl_sweep.models.distributed import Dismissed, is_of_a_lost_rank, rank
from ssl_sweep.models.library import LibraryError
from ssl_sweep.models.weights import WeightsError
from ssl_sweep.plugins.catalog import PluginError
from ssl_sweep.storage.bucket import BucketError
from ssl_sweep.training.health import Collapsed
from ssl_sweep.training.loop import Diverged, Report, Stop
from ssl_sweep.trial import run as trial
from ssl_sweep.trial.claim import claim, keep
from ssl_sweep.trialdir import disk, waits, watchdog
from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.events import AttemptStarted, Ended, MetricsReported
from ssl_sweep.trialdir.journal import Journal
from ssl_sweep.trialdir.record import TrialRecord
from ssl_sweep.trialdir.requests import read_stop_request
from ssl_sweep.trialdir.states import TrialState

# the state of a trial that has ended on request
REQUESTED_STATES = {"prune": TrialState.PRUNED, "stop": TrialState.STOPPED, "pause": TrialState.PAUSED}
MONITOR = ("low on memory", "OutOfMemory", "OUT_OF_MEMORY")  # in Ray's messages on processes that its monitor killed
# torch has a type for a full GPU only: host memory, cuBLAS and NCCL are recognized by their messages
MEMORY_WORDS = ("can't allocate memory", "ALLOC_FAILED", "out of memory")
# the line of an error in a traceback
IMPORT_ERROR = r"^(?:ModuleNotFoundError|ImportError): .+$"
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
        """The outcome whose `asdict` is this JSON."""
        fields = json.loads(text)
        return cls(**{**fields, "state": TrialState(fields["state"])})


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
    """Run a trial and return the outcome. Exceptions become outcomes, except process exits and failures of other ranks.

    Each worker of a trial calls it; rank 0's outcome is the trial's, unless another rank has failed.

    Args:
        record: the trial's identity and config.
        number: of the attempt, from 1 on.
        report: see `trial.run`.
        folder: the trial's folder.
        cache: folder of decoded data on this node.
        stages: folder of the sweep's pretrainings; see `trial.run`.
        objectives: the search's metrics; a trial without a finite value of each has failed.
        timeout: seconds without a heartbeat after which this process ends; None: never.
    """
    if rank() > 0:
        return _run_worker(record, folder, cache, stages, timeout)

    def unwatched_report(metrics: dict[str, float], step: int) -> None:
        with watchdog.waiting():  # a busy driver does not mean that the trial hangs
            report(metrics, step)

    try:
        claim(folder, record)
        waits.clear(folder)  # of an attempt that was killed
        Journal(folder).append(AttemptStarted(attempt=number, **_provenance()))
        with _log_file(folder / "log.txt"), watchdog.watched(folder, timeout):
            outcome = _run(record, unwatched_report, folder, cache, stages, objectives)
        keep(folder, record)
        return ended(folder, outcome)
    except DamagedFileError as error:  # of the trial's own folder: an end cannot be written there either
        return Outcome(TrialState.FAILED, {}, "data", str(error), traceback.format_exc())
    except OSError as error:
        if not disk.is_full(error):
            raise
        # the journal is on this disk: without an outcome the driver would count the trial as lost, and retry it at once
        return Outcome(TrialState.FAILED, {}, "disk", disk.message(error, folder), traceback.format_exc())


def with_stop_check(report: Report, folder: Path) -> Report:
    """The report, after which `Stop` is raised if the trial of this folder has a stop request."""

    def report_and_check(metrics: dict[str, float], step: int) -> None:
        report(metrics, step)
        if (request := read_stop_request(folder)) is not None:
            raise Stop(request.why)

    return report_and_check


def ended(folder: Path, outcome: Outcome) -> Outcome:
    """Write the outcome of an attempt to the journal, and return it."""
    fields = {name: value for name, value in asdict(outcome).items() if name != "results"}
    Journal(folder).append(Ended(**fields))
    return outcome


def dead_process_outcome(folder: Path, message: str, ray_message: str, config: Mapping[str, Any]) -> Outcome:
    """Write and return the outcome of an attempt whose process died: `lost`, `oom`, `hung` or `import`.

    Args:
        folder: the trial's.
        message: for an outcome about which nothing more is known.
        ray_message: Ray's message about the process.
        config: the trial's.
    """
    if error := re.search(BUCKET_ERROR, ray_message, flags=re.MULTILINE):
        message = error[1]
    outcome = Outcome(TrialState.FAILED, reason="lost", message=message)
    try:
        Journal(folder)
    except DamagedFileError as error:
        return replace(outcome, reason="data", message=str(error))
    if any(words in ray_message for words in MONITOR):
        message = f"out of memory, ended by Ray's memory monitor; {what_to_lower(config)}"
        outcome = Outcome(TrialState.FAILED, reason="oom", message=message, traceback=ray_message)
    if errors := re.findall(IMPORT_ERROR, ray_message, flags=re.MULTILINE):
        outcome = Outcome(TrialState.FAILED, reason="import", message=errors[-1], traceback=ray_message)
    dumps = [watchdog.take_dump(path) for path in (folder, *sorted(folder.glob("rank*")))]
    if (dump := next(filter(None, dumps), None)) is not None:
        message = f"{watchdog.summary(dump)} (resources.timeout)"
        outcome = Outcome(TrialState.FAILED, reason="hung", message=message, traceback=dump)
    return ended(folder, outcome)


def _run_worker(record: TrialRecord, folder: Path, cache: Path, stages: Path | None, timeout: float | None) -> Outcome:
    try:
        trial.run_worker(record.config, folder, cache=cache, stages=stages, timeout=timeout)
    except (Dismissed, Diverged) as error:  # rank 0 has the same loss to the bit: it fails as well, and reports it
        return Outcome(TrialState.STOPPED, message=str(error))
    except Exception as error:  # the trial's edge
        return _failed(error, record.config, folder)
    return Outcome(TrialState.COMPLETE)


def _run(
    record: TrialRecord, report: Report, folder: Path, cache: Path, stages: Path | None, objectives: Sequence[str]
) -> Outcome:
    try:
        if (request := read_stop_request(folder)) is not None:  # made while the trial waited for resources
            raise Stop(request.why)
        results = trial.run(record.config, report, folder, cache=cache, stages=stages)
        if any(objective in COSTS for objective in objectives):
            measured = costs(record.config)
            Journal(folder).append(MetricsReported(metrics=measured, step=0))
            results |= measured
        for objective in objectives:
            _check_objective(results, objective)
    except Stop as stop:
        return stopped(folder, stop)
    except Exception as error:  # the trial's edge: every error becomes the trial's state
        return _failed(error, record.config, folder)
    return Outcome(TrialState.COMPLETE, results)


def _failed(error: Exception, config: Mapping[str, Any], folder: Path) -> Outcome:
    """The outcome of an attempt that an error ended. Raises errors that a lost rank caused: that rank tells more."""
    log.error("failed", exc_info=error)
    reason, message = failure_reason(error), f"{type(error).__name__}: {error}"
    if reason != "oom" and is_of_a_lost_rank(error):
        raise error
    if reason == "oom":
        message = f"out of memory; {what_to_lower(config)} ({message})"
    if reason == "disk":
        message = disk.message(error, folder)
    if isinstance(error, ImportError):
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "importlib" not in frame.filename]
        message = f"{message} ({frames[-1].filename}:{frames[-1].lineno})"
    return Outcome(TrialState.FAILED, {}, reason, message, "".join(traceback.format_exception(error)))


def failure_reason(error: BaseException) -> str:
    """The kind of a failure: `disk`, `oom`, `diverged`, `collapsed`, `data`, `plugin`, `import` or `crash`."""
    if disk.is_full(error):
        return "disk"
    kinds: dict[str, tuple[type[BaseException], ...]] = {
        "oom": (torch.OutOfMemoryError, MemoryError),
        "diverged": (Diverged,),
        "collapsed": (Collapsed,),
        "data": (DataError, WeightsError, DamagedFileError),
        "plugin": (PluginError, PinError),
        "import": (ImportError, LibraryError),
    }
    kind = next((kind for kind, types in kinds.items() if isinstance(error, types)), "crash")
    full = isinstance(error, RuntimeError) and any(words in str(error) for words in MEMORY_WORDS)
    return "oom" if kind == "crash" and full else kind


def _check_objective(results: Mapping[str, float], objective: str) -> None:
    """Check that the search can compare the results with others.

    Raises:
        Diverged: the objective is not a finite number.
        LookupError: the choice's settings do not measure it.
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
    """The outcome of an attempt that has ended on request."""
    request = read_stop_request(folder)
    outcome = Outcome(REQUESTED_STATES[request.ask] if request else TrialState.STOPPED, message=str(stop))
    log.info("%s: %s", outcome.state, stop)
    return outcome


def what_to_lower(config: Mapping[str, Any]) -> str:
    """The settings that determine a trial's memory, with their values, as advice for a message."""
    stages = {
        "pretrain": config["pretrain"],
        **{f"evaluate.{name}": knobs for name, knobs in config["evaluate"].items()},
    }
    sizes = {f"{name}.batch_size": knobs["batch_size"] for name, knobs in stages.items() if "batch_size" in knobs}
    sizes["data.image_size"] = config["data"]["image_size"]
    listed = ", ".join(f"{name} ({size})" for name, size in sizes.items())
    precision = "" if config["precision"] == "bf16" else ", set precision: bf16"
    return f"lower one of {listed}{precision}, or have fewer trials share the device or the machine"


@contextmanager
def _log_file(path: Path) -> Iterator[None]:
    """Log the package's messages to the trial's own file while the block runs."""
    handler = logging.FileHandler(path, encoding="utf-8", errors="replace")
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
    """The machine, process and versions that produce the results."""
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
    """Commit of the running code, with `-dirty` if files differ from it; None outside a checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()  # noqa: S603
    except (OSError, subprocess.SubprocessError):
        return None
