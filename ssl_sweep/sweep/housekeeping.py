"""What of a sweep nobody needs any more: found by rule, counted, removed.

Whatever can still be resumed keeps all that it has: trials that are under way, that failed, were stopped or paused, and
the pretrainings that they share. Journals, results, logs, artifacts and the ledger are never touched.
"""

import shutil
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import SweepSpec, grid, resolve
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.best import ranked
from ssl_sweep.tables.pareto import on_front
from ssl_sweep.tracking.spool import Spool
from ssl_sweep.trial.run import encoder_path
from ssl_sweep.trial.stage_keys import PRECISIONS, stage_key
from ssl_sweep.trial.stages import Finished
from ssl_sweep.trialdir.checkpoint import DAMAGED
from ssl_sweep.trialdir.states import TrialState

FINAL = (TrialState.COMPLETE, TrialState.PRUNED)  # the states of trials that nobody goes on with
CHECKPOINTS = "checkpoints of trials and stages that have ended"
ENCODERS = "encoders of other choices than the best"
PRETRAININGS = "shared pretrainings whose trials have ended without an encoder"
LEFTOVERS = "leftovers of processes that died"


@dataclass(frozen=True)
class Surplus:
    """Files and folders of one kind that can go."""

    kind: str
    paths: tuple[Path, ...]

    @property
    def files(self) -> list[Path]:
        """Every file of it."""
        return [file for path in self.paths for file in _files(path)]


def surplus(ledger: Ledger, storage: Storage, keep_encoders: int | None) -> list[Surplus]:
    """What can go, by kind; only true while no driver works on the sweep.

    keep_encoders: how many of the best choices keep the encoders of their trials; None: all choices do.
    """
    sweep = storage.sweep(ledger.spec.name)
    folders = {trial.trial_id: storage.trial(ledger.spec.name, trial.trial_id) for trial in ledger.trials}
    encoders = [encoder_path(folders[each.trial_id]) for each in _outranked(ledger, storage, keep_encoders)]
    encoders = [path for path in encoders if path.exists()]
    kept = {
        Finished(folder / "stages.json").key("pretrain")
        for folder in folders.values()
        if encoder_path(folder).exists() and encoder_path(folder) not in encoders
    }
    stages = {folder.name: folder for folder in sweep.glob("stages/*") if not _is_locked(folder)}
    needed = _needed(ledger)
    free = {key: folder for key, folder in stages.items() if key not in needed}
    checkpoints = [path for trial in ledger.trials for path in _ended(trial, folders[trial.trial_id])]
    checkpoints += [folder / "checkpoint.pt" for key, folder in free.items() if key in kept]
    return [
        Surplus(CHECKPOINTS, tuple(path for path in checkpoints if path.exists())),
        Surplus(ENCODERS, tuple(encoders)),
        Surplus(PRETRAININGS, tuple(folder for key, folder in free.items() if key not in kept)),
        Surplus(LEFTOVERS, tuple(_leftovers(sweep, [*folders.values(), *stages.values()]))),
    ]


def freed_bytes(found: Iterable[Surplus]) -> dict[str, int]:
    """The room that each kind gives back: a file with several names counts with the last of them."""
    names: Counter[tuple[int, int]] = Counter()
    freed: dict[str, int] = {}
    for each in found:
        freed[each.kind] = 0
        for file in each.files:
            status = file.lstat()
            names[status.st_dev, status.st_ino] += 1
            if names[status.st_dev, status.st_ino] == status.st_nlink:
                freed[each.kind] += status.st_size
    return freed


def remove(found: Iterable[Surplus]) -> None:
    """Remove it, trials' encoders before the pretrainings that they are from."""
    for each in found:
        for path in each.paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def undelivered(ledger: Ledger, storage: Storage) -> int:
    """Events that MLflow lacks, where it is to show encoders as models: these must not go before it has them."""
    return 0 if ledger.spec.tracking.models == "none" else Spool(storage.sweep(ledger.spec.name)).pending()


def _outranked(ledger: Ledger, storage: Storage, keep_encoders: int | None) -> list[Trial]:
    """The trials of all choices but the best; of those that are not through yet nobody knows how good they are."""
    if keep_encoders is None:
        return []
    best = {trials[0].choice for trials in ranked(ledger, storage)[:keep_encoders]}
    best |= _front(ledger)
    through = [choice for choice in ledger.choices if all(trial.state in FINAL for trial in choice.all_trials)]
    return [trial for choice in through if choice.number not in best for trial in choice.all_trials]


def _front(ledger: Ledger) -> set[int]:
    """The choices that no other beats in two objectives."""
    search = ledger.spec.search
    if len(search.metrics) < 2:
        return set()
    means = {choice.number: choice.means(search.metrics) for choice in ledger.choices}
    first, second = (objective.sign for objective in search.objectives)
    points = {number: (first * each[0], second * each[1]) for number, each in means.items() if each}
    return {number for number, front in zip(points, on_front(list(points.values())), strict=True) if front}


def _needed(ledger: Ledger) -> set[str]:
    """The keys of the pretrainings that a trial still wants, whatever hardware it will run on."""
    spec = ledger.spec
    open_: list[tuple[Mapping[str, object], int]] = [
        (ledger.choice(trial.choice).knobs, trial.seed) for trial in ledger.trials if trial.state not in FINAL
    ]
    if spec.search.sampler == "grid":
        open_ += product(grid(spec)[len(ledger.choices) :], spec.search.seeds)
    configs = [config for knobs, seed in open_ if (config := _config(spec, knobs, seed)) is not None]
    workers = spec.resources.workers
    return {stage_key(config, "pretrain", precision, workers) for config in configs for precision in PRECISIONS}


def _config(spec: SweepSpec, knobs: Mapping[str, object], seed: int) -> dict[str, Any] | None:
    try:
        return resolve(spec, knobs, seed)
    except (KeyError, ValueError):  # its driver died before all its knobs were written: nothing was made for it
        return None


def _ended(trial: Trial, folder: Path) -> Iterator[Path]:
    """A trial's checkpoints of what has ended."""
    if trial.state in FINAL:
        yield from folder.rglob("checkpoint.pt")
        return
    finished = Finished(folder / "stages.json")
    for key in folder.glob("*/key"):  # of a stage that was killed after its last word
        if finished.results(key.parent.name, key.read_text()) is not None:
            yield from key.parent.rglob("checkpoint.pt")


def _leftovers(sweep: Path, folders: Iterable[Path]) -> Iterator[Path]:
    """Files that their writer never gave their name, damaged ones that were set aside, Ray's snapshots."""
    found = [*sweep.glob("*.partial"), *sweep.glob("artifacts/*.partial"), *sweep.glob(".ray")]
    for folder in folders:
        found += [*folder.rglob("*.partial"), *folder.rglob(f"*{DAMAGED}")]
    yield from (path for path in found if path.parent not in found)


def _is_locked(stage: Path) -> bool:
    """Whether a process that outlived its driver makes this pretraining."""
    try:
        with FileLock(stage / "lock", timeout=0):
            return False
    except Timeout:
        return True


def _files(path: Path) -> list[Path]:
    return [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]
