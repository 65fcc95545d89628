"""The same spec gives the same numbers, however many of its trials run at a time: real trials on a real Ray.

What the choices depend on is tested without Ray, in `tests/ledger/test_what_choices_depend_on.py`.
"""

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from quick_sweeps import TRAINED, Silent

from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage

# two pretrainings, so that two trials at a time are two processes at work
LISTS = {"views.overlay_alpha": [0.0, 0.3]}
RANGES = {"views.overlay_alpha": {"low": 0.0, "high": 0.4}, "pretrain.lr": {"low": 0.001, "high": 0.1, "log": True}}
faults = pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="dozens of trials: make test-faults")
Table = list[tuple[dict[str, Any], list[Any]]]
RunSweep = Callable[..., Table]


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


@pytest.fixture
def table(tmp_path: Path) -> RunSweep:
    """Runs a sweep in a storage of its own; returns each choice's knobs and the results of its trials."""
    numbers = itertools.count()

    def run(resources: dict[str, Any], evaluate: dict[str, Any] | None = None, **search: Any) -> Table:
        storage = FolderStorage(tmp_path / str(next(numbers)))
        storage.sweep("same").mkdir(parents=True)
        spec = {**TRAINED, "name": "same", "search": search, "resources": resources}
        ledger = open_ledger(storage.ledger_url, from_dump({**spec, "evaluate": evaluate or {"knn": {}}}))
        run_sweep(ledger, storage, Silent())
        assert {trial.state for trial in ledger.trials} == {"COMPLETE"}
        return [(dict(choice.knobs), [trial.results for trial in choice.trials]) for choice in ledger.choices]

    return run


@pytest.mark.slow
def test_a_grid_gives_one_table_with_one_and_two_trials_at_a_time(table: RunSweep) -> None:
    """Slow: Ray starts, two workers import torch, and eight trials are trained."""
    search = {"space": LISTS, "sampler": "grid", "seeds": 2}
    alone = table({"cpus": 1, "max_concurrent": 1}, **search)
    assert [len(results) for _, results in alone] == [2, 2]
    assert table({"cpus": 1, "max_concurrent": 2}, **search) == alone


@faults
@pytest.mark.slow
def test_so_does_a_random_search_with_trained_evaluations(table: RunSweep) -> None:
    """Slow: sixteen trials are trained."""
    evaluate: dict[str, Any] = {"linear": {"epochs": 1}, "finetune": {"epochs": 1}}
    search = {"space": RANGES, "sampler": "random", "trials": 8, "objective": "maximize linear/top1_val"}
    alone = table({"cpus": 1, "max_concurrent": 1}, evaluate, **search)
    assert table({"cpus": 1, "max_concurrent": 2}, evaluate, **search) == alone


@faults
@pytest.mark.slow
def test_tpe_repeats_itself_one_trial_at_a_time(table: RunSweep) -> None:
    """Slow: 28 trials are trained; TPE draws the first ten at random."""
    search = {"space": RANGES, "sampler": "tpe", "trials": 14}
    first = table({"cpus": 1, "max_concurrent": 1}, **search)
    assert table({"cpus": 1, "max_concurrent": 1}, **search) == first
    two = table({"cpus": 1, "max_concurrent": 2}, **search)
    assert two[:10] == first[:10]


@faults
@pytest.mark.slow
def test_threads_change_no_more_than_rounding(table: RunSweep) -> None:
    """Slow: four trials are trained, in processes of one and of two threads."""
    search = {"space": LISTS, "sampler": "grid", "seeds": 1}
    one, two = (table({"cpus": cpus, "max_concurrent": 1}, **search) for cpus in (1, 2))
    assert [knobs for knobs, _ in two] == [knobs for knobs, _ in one]
    for (_, (ours,)), (_, (theirs,)) in zip(one, two, strict=True):
        assert ours.keys() == theirs.keys()
        assert theirs["pretrain/loss"] == pytest.approx(ours["pretrain/loss"], rel=1e-3)
        assert theirs["knn/top1_test"] == pytest.approx(ours["knn/top1_test"], abs=2.0)
