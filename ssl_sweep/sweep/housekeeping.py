"""Removes files that a sweep no longer needs.

Trials that can still be resumed (running, failed, stopped or paused) keep all their files, and so do the pretrainings
that they share. Journals, results, logs, artifacts and the ledger are never touched.
"""

import shutil
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any

from ssl_sweep.knobs.knobs import UnknownNameError
from ssl_sweep.knobs.pins import PinError, check_pins
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.plugins.catalog import PluginError
from ssl_sweep.spec.sweep import grid
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.best import ranked_trials
from ssl_sweep.tables.pareto import on_front
from ssl_sweep.tracking.spool import Spool
from ssl_sweep.trial.run import encoder_path
from ssl_sweep.trial.stage_keys import PRECISIONS, stage_key
from ssl_sweep.trial.stages import FinishedStages, key_of, newest_turn
from ssl_sweep.trialdir.checkpoint import DAMAGED
from ssl_sweep.trialdir.locks import try_lock
from ssl_sweep.trialdir.states import TrialState

FINAL = (TrialState.COMPLETE, TrialState.PRUNED)  # states of trials that are never resumed
ABSENT = (PinError, PluginError, UnknownNameError)  # a plugin is not at hand, or has changed
CHECKPOINTS = "checkpoints of trials and stages that have ended"
ENCODERS = "encoders of choices that are not among the best"
PRETRAININGS = "shared pretrainings whose trials have ended without an encoder"
LEFTOVERS = "leftovers of processes that died"


@dataclass(frozen=True)
class Removable:
    """Files and folders of one kind that can be removed."""

    kind: str
    paths: tuple[Path, ...]

    @property
    def files(self) -> list[Path]:
        """All files, those in the folders too."""
        return [file for path in self.paths for file in _files(path)]


def find_removable(ledger: LedgerReader, storage: Storage, keep_encoders: int | None) -> list[Removable]:
    """The files that can be removed, by kind. Valid only while no driver works on the sweep.

    Args:
        ledger: the sweep's.
        storage: where it lies.
        keep_encoders: how many of the best choices keep the encoders of their trials; None keeps all encoders.
    """
    sweep = storage.sweep(ledger.spec.name)
    folders = {trial.trial_id: storage.trial(ledger.spec.name, trial.trial_id) for trial in ledger.trials}
    encoders = [encoder_path(folders[trial.trial_id]) for trial in _outranked(ledger, storage, keep_encoders)]
    encoders = [path for path in encoders if path.exists()]
    kept = {
        FinishedStages(folder / "stages.json").key("pretrain")
        for folder in folders.values()
        if encoder_path(folder).exists() and encoder_path(folder) not in encoders
    }
    turns = [folder for folder in sweep.glob("stages/*") if folder.suffix != ".partial" and not _is_locked(folder)]
    stages = {key_of(folder): folder for folder in turns if folder == newest_turn(folder)}
    lost = [path for folder in turns if folder not in stages.values() for path in folder.iterdir()]
    needed = _needed(ledger, stages)
    free = {key: folder for key, folder in stages.items() if key not in needed}
    checkpoints = [path for trial in ledger.trials for path in _ended(trial, folders[trial.trial_id])]
    checkpoints += [folder / "checkpoint.pt" for key, folder in free.items() if key in kept]
    return [
        Removable(CHECKPOINTS, tuple(path for path in checkpoints if path.exists())),
        Removable(ENCODERS, tuple(encoders)),
        Removable(PRETRAININGS, tuple(folder for key, folder in free.items() if key not in kept)),
        Removable(LEFTOVERS, (*_leftovers(sweep, [*folders.values(), *stages.values()]), *lost)),
    ]


def freed_bytes(removable: Iterable[Removable]) -> dict[str, int]:
    """Bytes that each kind frees. A hard-linked file counts with the last of its names."""
    names: Counter[tuple[int, int]] = Counter()
    freed: dict[str, int] = {}
    for kind in removable:
        freed[kind.kind] = 0
        for file in kind.files:
            status = file.lstat()
            names[status.st_dev, status.st_ino] += 1
            if names[status.st_dev, status.st_ino] == status.st_nlink:
                freed[kind.kind] += status.st_size
    return freed


def remove(removable: Iterable[Removable]) -> None:
    """Remove the files: trials' encoders before the pretrainings that they come from."""
    for kind in removable:
        for path in kind.paths:
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def undelivered_events(ledger: LedgerReader, storage: Storage) -> int:
    """How many events MLflow lacks, if it shows encoders as models: until it has them, encoders must stay."""
    return 0 if ledger.spec.tracking.models == "none" else Spool(storage.sweep(ledger.spec.name)).pending()


def _outranked(ledger: LedgerReader, storage: Storage, keep_encoders: int | None) -> list[Trial]:
    """The trials of the finished choices that are not among the best."""
    if keep_encoders is None:
        return []
    best = {trials[0].choice for trials in ranked_trials(ledger, storage)[:keep_encoders]}
    best |= _front(ledger)
    finished = [choice for choice in ledger.choices if all(trial.state in FINAL for trial in choice.all_trials)]
    return [trial for choice in finished if choice.number not in best for trial in choice.all_trials]


def _front(ledger: LedgerReader) -> set[int]:
    """The choices on the Pareto front of two objectives."""
    search = ledger.spec.search
    if len(search.metrics) < 2:
        return set()
    means = {choice.number: choice.means(search.metrics) for choice in ledger.choices}
    first, second = (objective.sign for objective in search.objectives)
    points = {number: (first * mean[0], second * mean[1]) for number, mean in means.items() if mean}
    return {number for number, front in zip(points, on_front(list(points.values())), strict=True) if front}


def _needed(ledger: LedgerReader, stages: Collection[str]) -> set[str]:
    """The keys of the pretrainings that open trials need, for every precision that their hardware may choose.

    All of `stages` where open trials use a plugin that is not at hand, or has changed: it may decide the views.
    """
    workers = ledger.spec.resources.workers
    try:
        configs = open_configs(ledger)
        for config in configs:
            check_pins(config)
    except ABSENT:
        return set(stages)
    return {stage_key(config, "pretrain", precision, workers) for config in configs for precision in PRECISIONS}


def open_configs(ledger: LedgerReader) -> list[dict[str, Any]]:
    """The configs of the trials that can still run: those that have not ended for good, and all the rest of a grid."""
    spec = ledger.spec
    open_: list[tuple[Mapping[str, object], int]] = [
        (ledger.choice(trial.choice).run_with, trial.seed) for trial in ledger.trials if trial.state not in FINAL
    ]
    if spec.search.sampler == "grid":
        open_ += product(grid(spec)[ledger.num_searched :], spec.search.seeds)
    return [config for knobs, seed in open_ if (config := _config(ledger, knobs, seed)) is not None]


def _config(ledger: LedgerReader, knobs: Mapping[str, object], seed: int) -> dict[str, Any] | None:
    try:
        return ledger.config(knobs, seed)
    except ABSENT:
        raise
    except (KeyError, ValueError):  # its driver died before it wrote all knobs: no files exist for it
        return None


def _ended(trial: Trial, folder: Path) -> Iterator[Path]:
    """The checkpoints of a trial's finished stages."""
    if trial.state in FINAL:
        yield from folder.rglob("checkpoint.pt")
        return
    finished = FinishedStages(folder / "stages.json")
    for key in folder.rglob("key"):  # of a stage that was killed after it had finished
        if finished.results(key.parent.relative_to(folder).as_posix(), key.read_text()) is not None:
            yield from key.parent.rglob("checkpoint.pt")


def _leftovers(sweep: Path, folders: Iterable[Path]) -> Iterator[Path]:
    """Partial files of writers that died, damaged files that were set aside, and Ray's snapshots."""
    leftovers = [
        *sweep.glob("*.partial"),
        *sweep.glob("stages/*.partial"),
        *sweep.glob("artifacts/*.partial"),
        *sweep.glob(".ray"),
    ]
    for folder in folders:
        leftovers += [*folder.rglob("*.partial"), *folder.rglob(f"*{DAMAGED}")]
    yield from (path for path in leftovers if path.parent not in leftovers)


def _is_locked(stage: Path) -> bool:
    """Whether a process that outlived its driver still runs this pretraining."""
    with try_lock(stage / "lock") as is_free:
        return not is_free


def _files(path: Path) -> list[Path]:
    return [file for file in path.rglob("*") if file.is_file()] if path.is_dir() else [path]
