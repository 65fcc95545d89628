"""How often, and how soon, a failed trial is handed out again: the scheduler with a fake clock."""

import json
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from sqlite3 import OperationalError
from typing import Any

import pytest

from ssl_sweep.cluster import scheduler as scheduler_module
from ssl_sweep.cluster import trial_queue
from ssl_sweep.cluster.scheduler import Idle, Launch, LedgerScheduler
from ssl_sweep.cluster.search import LedgerSearch
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import SweepSpec, from_dump, resolve
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.trial.attempt import Outcome, attempt
from ssl_sweep.trialdir.events import MetricsReported
from ssl_sweep.trialdir.record import TrialRecord

CRASH = Outcome("FAILED", reason="crash", message="broken")


class Clock:
    """Time that passes when the test says so."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now


class Quiet:
    """A observer that does not look."""

    def started(self, trial: Trial) -> None: ...
    def reported(self, trial: Trial, report: MetricsReported) -> None: ...
    def ended(self, trial: Trial) -> None: ...


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (scheduler_module, trial_queue):
        monkeypatch.setattr(module, "time", clock)
    return clock


def spec(**changes: Any) -> SweepSpec:
    search = {"space": {"views.overlay_alpha": [0.0, 0.1]}, "seeds": 1, "sampler": "grid"}
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    return from_dump({"name": "sweep", **base, "evaluate": {"knn": {}}, "search": search, **changes})


def make(tmp_path: Path, **changes: Any) -> tuple[Ledger, LedgerScheduler]:
    storage = FolderStorage(tmp_path)
    ledger = open_ledger(storage.ledger_url, spec(**changes))
    return ledger, LedgerScheduler(ledger, storage, Quiet())


def alpha(given: Any) -> float:
    assert isinstance(given, Launch), given
    return float(given.record.knobs["views.overlay_alpha"])


def test_a_crashed_trial_waits_twice_as_long_each_time_and_others_run_meanwhile(tmp_path: Path, clock: Clock) -> None:
    ledger, search = make(tmp_path, retries=8)
    waited = []
    for number in range(9):
        began = clock.now
        while (given := search.next(str(number))) is Idle.WAIT:  # Tune asks on, about once a second
            clock.now += 0.25
            assert clock.now - began < 100, "never handed out again"
        waited.append(clock.now - began)
        assert alpha(given) == 0.0
        search.end(str(number), CRASH)
        if number == 0:
            assert alpha(search.next("b")) == 0.1
            search.end("b", Outcome("COMPLETE", {"knn/top1_val": 50.0}))
    assert waited == [0, 1, 2, 4, 8, 16, 32, 60, 60]
    assert [trial.state for trial in ledger.trials] == ["FAILED", "COMPLETE"]


def test_a_budget_that_is_used_up_is_named(tmp_path: Path, clock: Clock) -> None:
    ledger, search = make(tmp_path, retries=1, lost_retries=2, search={"seeds": 1})
    ends = [CRASH, None, None, None]
    for number, outcome in enumerate(ends):
        given = search.next(str(number))
        assert isinstance(given, Launch)
        if outcome is None:
            search.process_died(str(number), "")
        else:
            search.end(str(number), outcome)
        clock.now += 100
    (trial,) = ledger.trials
    assert (trial.state, trial.reason, trial.attempts, trial.failures, trial.lost) == ("FAILED", "lost", 4, 1, 3)
    assert trial.message is not None
    assert trial.message.endswith("(3 times; lost_retries: 2)")
    assert search.next("none") is Idle.FINISHED


def test_what_is_left_of_a_budget_outlives_the_driver(tmp_path: Path, clock: Clock) -> None:
    _, search = make(tmp_path, retries=2, search={"seeds": 1})
    for number in range(2):
        assert isinstance(search.next(str(number)), Launch)
        search.end(str(number), CRASH)
        clock.now += 100
    ledger, again = make(tmp_path, retries=2, search={"seeds": 1})  # the first driver was killed
    assert isinstance(again.next("x"), Launch)
    again.end("x", CRASH)
    assert [(trial.state, trial.failures) for trial in ledger.trials] == [("FAILED", 3)]


def test_a_lost_process_is_tried_again_at_once_and_is_no_fault_of_the_sweeps(tmp_path: Path, clock: Clock) -> None:
    ledger, search = make(tmp_path, search={"seeds": 1})
    for number in range(5):
        assert isinstance(search.next(str(number)), Launch)
        search.process_died(str(number), "")
    assert search.halted is None
    assert Counter(trial.state for trial in ledger.trials) == {"CREATED": 1}


def test_a_ledger_from_before_lost_trials_were_counted_is_read(tmp_path: Path) -> None:
    ledger, _ = make(tmp_path)
    trial = ledger.ask().trials[0]  # type: ignore[union-attr]
    old = {name: value for name, value in asdict(trial).items() if name != "lost"}
    ledger._open[0]._trial.set_user_attr("seed:0", {**old, "state": "RUNNING", "attempts": 2})
    again, _ = make(tmp_path)
    assert [(each.state, each.attempts, each.lost) for each in again.trials] == [("RUNNING", 2, 0)]


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("no room"),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling cublasCreate(handle)"),
    ],
)
def test_out_of_memory_says_what_to_lower(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def full(*_: Any, **__: Any) -> dict[str, float]:
        raise error

    monkeypatch.setattr("ssl_sweep.trial.run.run", full)
    config = resolve(spec(evaluate={"linear": {"batch_size": 96}, "knn": {}}), {"views.overlay_alpha": 0.0}, 0)
    outcome = attempt(TrialRecord("t", config=config), 1, print, tmp_path / "trial", tmp_path)
    assert outcome.reason == "oom"
    assert outcome.message is not None
    for said in ("pretrain.batch_size (256)", "linear.batch_size (96)", "data.image_size (8)", "precision: bf16"):
        assert said in outcome.message


@pytest.mark.parametrize("reason", ["disk", "code"])
def test_what_every_trial_meets_ends_the_sweep_costs_no_budget_and_is_taken_up_again(
    reason: str, tmp_path: Path, clock: Clock
) -> None:
    full = Outcome("FAILED", reason=reason, message="the disk of /x is full, or a worker has other code")
    ledger, search = make(tmp_path)
    assert isinstance(search.next("a"), Launch)
    assert isinstance(search.next("b"), Launch)
    search.end("a", full)
    assert search.next("c") is Idle.WAIT  # the other one may well come to its end
    search.end("b", Outcome("COMPLETE", {"knn/top1_val": 50.0}))
    assert search.next("c") is Idle.FINISHED
    assert search.halted == full.message
    assert [(trial.state, trial.reason) for trial in ledger.trials] == [("CREATED", reason), ("COMPLETE", None)]
    _, again = make(tmp_path)
    assert alpha(again.next("a")) == 0.0
    assert [(trial.failures, trial.lost) for trial in ledger.trials] == [(0, 0), (0, 0)]


@pytest.mark.parametrize(
    ("death", "reason", "said"),
    [
        ("Task was killed due to the node running low on memory.", "oom", "lower one of pretrain.batch_size (256)"),
        ("(1) The process is killed by SIGKILL by OOM killer due to high memory usage.", "lost", "maybe by the kernel"),
        ("", "lost", "see `dmesg`"),
        (
            "The actor failed to import:\n  File ...\nModuleNotFoundError: No module named 'x'\n\nAn error",
            "import",
            "ModuleNotFoundError: No module named 'x'",
        ),
    ],
)
def test_what_ray_says_of_a_process_that_died_tells_memory_from_loss(
    tmp_path: Path, death: str, reason: str, said: str
) -> None:
    ledger, search = make(tmp_path, lost_retries=0, search={"seeds": 1})
    assert isinstance(search.next("a"), Launch)
    search.process_died("a", death)
    (trial,) = ledger.trials
    assert (trial.state, trial.reason, trial.attempts) == ("FAILED", reason, 1)
    assert said in (trial.message or "")


def test_a_ledger_that_cannot_be_written_ends_the_sweep_and_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger, scheduler = make(tmp_path)
    search = LedgerSearch(scheduler)
    assert isinstance(search.suggest("a"), dict)

    def full(*_: Any) -> None:
        raise OperationalError("database or disk is full")

    with monkeypatch.context() as patch:
        patch.setattr(ledger, "update", full)
        complete = Outcome("COMPLETE", {"knn/top1_val": 50.0})
        search.on_trial_complete("a", {"outcome": json.dumps(asdict(complete))})
        assert search.suggest("b") is None
    assert isinstance(search.first_error, OperationalError)
    assert ledger.trials[0].state == "RUNNING"  # and is gone on with
