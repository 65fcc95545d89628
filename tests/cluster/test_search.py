"""The scheduler needs no Ray; Tune's searcher hands it everything as JSON."""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ray.tune.search import Searcher

from ssl_sweep.cluster.scheduler import Idle, Launch
from ssl_sweep.cluster.search import LedgerSearch
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir.record import TrialRecord

LAUNCH = Launch(TrialRecord("x", config={"seed": 0}), attempt=2, folder=Path("/sweeps/x"))


class Scheduler:
    """Hands out what it is given, and notes what it is told."""

    def __init__(self, *answers: Any) -> None:
        self.answers, self.told = list(answers), list[tuple[Any, ...]]()

    def next(self, run: str) -> Any:
        return self.answers.pop(0)

    def report(self, *words: Any) -> None:
        self.told.append(("report", *words))

    def end(self, *words: Any) -> None:
        self.told.append(("end", *words))

    def process_died(self, *words: Any) -> None:
        self.told.append(("process_died", *words))

    def abandon(self, *words: Any) -> None:
        self.told.append(("abandon", *words))

    def poll_requests(self) -> None:
        raise OSError("disk")


def test_the_scheduler_is_imported_without_ray() -> None:
    code = "import sys, ssl_sweep.cluster.scheduler; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tune_gets_json_and_is_told_to_wait_or_that_there_is_no_more() -> None:
    search = LedgerSearch(Scheduler(LAUNCH, Idle.WAIT, Idle.FINISHED))  # type: ignore[arg-type]
    config = search.suggest("a")
    assert isinstance(config, dict)
    assert (config["attempt"], config["folder"]) == (2, "/sweeps/x")
    assert json.loads(config["record"]) == asdict(LAUNCH.record) | {"settings": []}  # JSON has no tuples
    assert search.suggest("b") is None
    assert search.suggest("b") == Searcher.FINISHED


def test_each_end_of_an_attempt_reaches_the_scheduler() -> None:
    scheduler = Scheduler()
    search = LedgerSearch(scheduler)  # type: ignore[arg-type]
    outcome = Outcome("COMPLETE", {"knn/top1_val": 1.0})
    search.death_messages["b"] = "low on memory"
    search.on_trial_result("a", {"metrics": '{"pretrain/loss": 1.0}', "step": 3})
    search.on_trial_complete("a", {"outcome": json.dumps(asdict(outcome))})
    search.on_trial_complete("b", error=True)
    search.on_trial_complete("c", error=True)
    search.on_trial_complete("d")
    search.death_messages["e"] = "The actor is dead because its owner has died. Owner Id: 01"  # this driver's node
    search.on_trial_complete("e", error=True)
    assert scheduler.told == [
        ("report", "a", {"pretrain/loss": 1.0}, 3),
        ("end", "a", outcome),
        ("process_died", "b", "low on memory"),
        ("process_died", "c", ""),
        ("abandon", "d"),
        ("abandon", "e"),
    ]


def test_the_first_error_is_kept_for_the_end_of_the_sweep() -> None:
    search = LedgerSearch(Scheduler())  # type: ignore[arg-type]
    search.poll_requests()
    first = search.first_error
    assert isinstance(first, OSError)
    assert search.suggest("a") is None  # it has no answers: a second error
    assert search.first_error is first
