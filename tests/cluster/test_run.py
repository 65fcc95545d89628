"""Sweeps on a real Ray, with a fake trial: a quadratic of the knob in place of training."""

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
from PIL import Image
from ray import cloudpickle

from ssl_sweep.cluster import run
from ssl_sweep.cluster.errors import ClusterError
from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.cluster.scheduler import Launch, LedgerScheduler
from ssl_sweep.cluster.trial_queue import LOOK_AHEAD
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.training.loop import Stop
from ssl_sweep.trial.attempt import Outcome, stopped
from ssl_sweep.trialdir.events import MetricsReported
from ssl_sweep.trialdir.journal import read
from ssl_sweep.trialdir.record import TrialRecord

METRIC = "knn/top1_val"
ALPHAS = [0.0, 0.1, 0.2, 0.3]


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


class Log:
    """A observer that remembers."""

    def __init__(self) -> None:
        self.events: list[tuple[Any, ...]] = []

    def started(self, trial: Any) -> None:
        self.events.append(("started", trial.trial_id, trial.attempts))

    def reported(self, trial: Any, report: MetricsReported) -> None:
        self.events.append(("reported", trial.trial_id, report.step))

    def ended(self, trial: Any) -> None:
        self.events.append(("ended", trial.trial_id, trial.state))


def quadratic(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
    """Best at alpha 0.2; leaves a mark for each attempt, with the process that made it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"attempt-{number}").write_text(str(os.getpid()))
    value = 100 - 100 * (record.knobs["views.overlay_alpha"] - 0.2) ** 2
    for step in (1, 2, 3):
        report({METRIC: value * step / 3}, step)
    return Outcome("COMPLETE", {METRIC: value})


def fails(reason: str, attempts: int, message: str = "broken"):
    """A trial at alpha 0.1 that fails so often for this reason."""

    def trial(record: TrialRecord, number: int, *rest: Any) -> Outcome:
        if record.knobs["views.overlay_alpha"] == 0.1 and number <= attempts:
            return Outcome("FAILED", reason=reason, message=message)
        return quadratic(record, number, *rest)

    return trial


def make(tmp_path: Path, name: str = "sweep", **changes: Any) -> tuple[Ledger, Storage]:
    search = {"space": {"views.overlay_alpha": ALPHAS}, "seeds": 2, "sampler": "grid", **changes.pop("search", {})}
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    changes = {"resources": {"max_concurrent": 1}, **changes}  # a second process takes seconds to import torch
    spec = from_dump({"name": name, **base, "evaluate": {"knn": {}}, "search": search, **changes})
    storage = FolderStorage(tmp_path)
    storage.sweep(name).mkdir(exist_ok=True)
    return open_ledger(storage.ledger_url, spec), storage


def states(ledger: Ledger) -> Counter[str]:
    return Counter(trial.state for trial in ledger.trials)


def attempts(storage: Storage, ledger: Ledger) -> list[int]:
    folders = [storage.trial(ledger.spec.name, trial.trial_id) for trial in ledger.trials]
    return [len(list(folder.glob("attempt-*"))) for folder in folders]


def test_every_trial_runs_once_in_a_warm_worker(tmp_path: Path) -> None:
    ledger, storage = make(tmp_path, resources={})
    log = Log()
    ending = run_sweep(ledger, storage, log, work=quadratic)
    assert (ending.interrupted, ending.halted) == (False, None)
    assert states(ledger) == {"COMPLETE": 8}
    assert attempts(storage, ledger) == [1] * 8
    processes = {path.read_text() for path in storage.sweep("sweep").glob("trials/*/attempt-*")}
    assert len(processes) <= 2
    assert Counter(event[0] for event in log.events) == {"started": 8, "reported": 24, "ended": 8}
    best = max(ledger.trials, key=lambda trial: trial.results[METRIC])
    assert ledger.choice(best.choice).knobs == {"views.overlay_alpha": 0.2}
    assert not (storage.sweep("sweep") / ".ray").exists()
    again, _ = make(tmp_path)
    run_sweep(again, storage, Log(), work=quadratic)
    assert attempts(storage, again) == [1] * 8  # nothing is left to run, and nothing runs


def test_a_crash_is_tried_again_and_its_count_is_kept(tmp_path: Path) -> None:
    ledger, storage = make(tmp_path)
    run_sweep(ledger, storage, Log(), work=fails("crash", attempts=2))
    assert states(ledger) == {"COMPLETE": 8}
    assert sorted(trial.attempts for trial in ledger.trials) == [1] * 6 + [3] * 2


TRIES = {"crash": 3, "diverged": 1, "oom": 1, "data": 1, "collapsed": 1, "plugin": 1, "import": 1}


def test_trials_that_keep_failing_are_given_up(tmp_path: Path) -> None:
    def fails_or_not(record: TrialRecord, *rest: Any) -> Outcome:
        if (reason := reasons.get(record.knobs["views.overlay_alpha"])) is not None:
            return Outcome("FAILED", reason=reason, message=f"broken by {reason}")
        return quadratic(record, *rest)

    reasons = dict(zip([0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.15], TRIES, strict=True))
    ledger, storage = make(tmp_path, search={"space": {"views.overlay_alpha": [0.0, *reasons]}, "seeds": 1})
    run_sweep(ledger, storage, Log(), work=fails_or_not)
    assert states(ledger) == {"COMPLETE": 1, "FAILED": 7}
    failed = {trial.reason: (trial.attempts, trial.message) for trial in ledger.trials if trial.state == "FAILED"}
    messages = {reason: f"broken by {reason}" for reason in TRIES} | {"crash": "broken by crash (3 times; retries: 2)"}
    assert failed == {reason: (tries, messages[reason]) for reason, tries in TRIES.items()}


def test_a_killed_worker_is_replaced_and_its_trial_tried_again(tmp_path: Path) -> None:
    def dies(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
        if record.choice == 1 and record.seed == 0 and number == 1:
            folder.mkdir(parents=True)
            os.kill(os.getpid(), signal.SIGKILL)
        return quadratic(record, number, report, folder, cache)

    ledger, storage = make(tmp_path, resources={})
    run_sweep(ledger, storage, Log(), work=dies)
    assert states(ledger) == {"COMPLETE": 8}
    struck = ledger.choice(1).trials[0]
    assert (struck.attempts, struck.failures, struck.lost) == (2, 0, 1)
    ends = [event for event in read(storage.trial("sweep", struck.trial_id))[0] if event.name == "end"]
    assert [(end.state, end.reason) for end in ends] == [("FAILED", "lost")]
    assert "killed, maybe by the kernel for lack of memory" in ends[0].message


def test_when_the_first_trials_all_fail_alike_the_sweep_stops(tmp_path: Path) -> None:
    def broken(record: TrialRecord, number: int, *rest: Any) -> Outcome:
        return Outcome("FAILED", reason="crash", message="ImportError: no module named nothing")

    ledger, storage = make(tmp_path)
    ending = run_sweep(ledger, storage, Log(), work=broken)
    assert ending.halted == "ImportError: no module named nothing"
    assert sum(trial.attempts for trial in ledger.trials) <= 5
    assert len(ledger.choices) < 4


def test_seeds_that_diverge_alike_do_not_stop_the_other_choices(tmp_path: Path) -> None:
    def diverges_at_the_first(record: TrialRecord, *rest: Any) -> Outcome:
        if record.choice == 0:
            return Outcome("FAILED", reason="diverged", message="loss is nan in epoch 1; lower lr")
        return quadratic(record, *rest)

    ledger, storage = make(tmp_path, search={"seeds": 3})
    ending = run_sweep(ledger, storage, Log(), work=diverges_at_the_first)
    assert ending.halted is None
    assert states(ledger) == {"FAILED": 3, "COMPLETE": len(ledger.trials) - 3}


def test_tpe_finds_the_best_alpha(tmp_path: Path) -> None:
    space = {"views.overlay_alpha": {"low": 0.0, "high": 0.45}}
    search = {"space": space, "sampler": "tpe", "trials": 25, "seeds": 1}
    ledger, storage = make(tmp_path, search=search)
    run_sweep(ledger, storage, Log(), work=quadratic)
    assert states(ledger) == {"COMPLETE": 25}
    best = max(ledger.trials, key=lambda trial: trial.results[METRIC])
    assert abs(ledger.choice(best.choice).knobs["views.overlay_alpha"] - 0.2) < 0.03


WATCHED = "pretrain/knn_top1_val"


def learning(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
    """The quadratic, with a metric that rises towards it for nine epochs; ends itself when it is asked to."""
    value = 100 - 100 * (record.knobs["views.overlay_alpha"] - 0.2) ** 2
    try:
        for epoch in range(1, 10):
            report({WATCHED: value - 9 / epoch}, epoch)
    except Stop as stop:
        return stopped(folder, stop)
    return Outcome("COMPLETE", {METRIC: value})


def test_asha_ends_bad_choices_at_their_rung_and_runs_the_seeds_of_the_good(tmp_path: Path) -> None:
    space = {"views.overlay_alpha": [0.21, 0.2, 0.0, 0.05, 0.4, 0.19, 0.35, 0.1, 0.45]}
    search = {"space": space, "pruner": "asha"}
    ledger, storage = make(tmp_path, search=search, resources={"max_concurrent": 1}, pretrain={"epochs": 9})
    log = Log()
    ending = run_sweep(ledger, storage, log, work=learning)
    assert (ending.interrupted, ending.halted) == (False, None)
    assert {trial.state for trial in ledger.trials} == {"COMPLETE", "PRUNED"}
    pruned = [choice for choice in ledger.choices if choice.trials[0].state == "PRUNED"]
    assert {choice.knobs["views.overlay_alpha"] for choice in pruned} >= {0.0, 0.05, 0.4, 0.35, 0.1, 0.45}
    complete = [choice for choice in ledger.choices if choice not in pruned]
    assert {trial.state for choice in complete for trial in choice.trials} == {"COMPLETE"}
    assert 0.2 in {choice.knobs["views.overlay_alpha"] for choice in complete}
    epochs = Counter(event[1] for event in log.events if event[0] == "reported")
    for choice in pruned:
        first, second = choice.trials
        assert first.message.startswith(f"pruned at epoch {epochs[first.trial_id]},")  # none ran on after its rung
        assert (second.state, second.attempts, epochs[second.trial_id]) == ("PRUNED", 0, 0)


def test_no_more_run_at_once_than_asked(tmp_path: Path) -> None:
    def crowded(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
        here = folder.parent / "here"
        here.touch(exist_ok=False)  # fails when another trial is in
        outcome = quadratic(record, number, report, folder, cache)
        here.unlink()
        return outcome

    ledger, storage = make(tmp_path, resources={"max_concurrent": 1})
    (storage.sweep("sweep") / "trials").mkdir()
    run_sweep(ledger, storage, Log(), work=crowded)
    assert sorted(trial.attempts for trial in ledger.trials) == [1] * 8


@pytest.mark.parametrize(
    ("resources", "said"),
    [
        ({"cpus": 3}, "wants 3 CPU .*there are 2"),
        ({"gpus": 1}, "wants 1 GPU"),
        ({"workers": 4}, "wants 4 CPU .*there are 2"),
    ],
)
def test_a_trial_that_can_never_fit_is_refused(tmp_path: Path, resources: dict[str, int], said: str) -> None:
    ledger, storage = make(tmp_path, resources=resources)
    with pytest.raises(ClusterError, match=said):
        run_sweep(ledger, storage, Log(), work=quadratic)


SHARED = {"views.overlay_alpha": [0.0, 0.1], "evaluate.knn.k": [1, 5, 20]}  # three trials a pretraining


def suggested(search: LedgerScheduler, name: str) -> tuple[float, int]:
    """The knobs of the trial that a free worker gets."""
    given = search.next(name)
    assert isinstance(given, Launch)
    knobs = given.record.knobs
    return knobs["views.overlay_alpha"], knobs["evaluate.knn.k"]


def test_a_free_worker_gets_a_trial_that_need_not_wait(tmp_path: Path) -> None:
    ledger, storage = make(tmp_path, search={"space": SHARED, "seeds": 1})
    search = LedgerScheduler(ledger, storage, Log())
    assert suggested(search, "a") == (0.0, 1)
    search.report("a", {"pretrain/loss": 1.0}, 1)
    assert suggested(search, "b") == (0.1, 1)  # nobody makes its pretraining yet
    assert suggested(search, "c") == (0.0, 5)  # all are being made: it waits rather than the worker
    search.report("b", {"finetune/loss": 1.0}, 1)
    assert suggested(search, "d") == (0.1, 5)  # that one is made
    search.end("a", Outcome("COMPLETE", {METRIC: 1.0}))
    assert suggested(search, "e") == (0.0, 20)
    assert [choice.knobs["evaluate.knn.k"] for choice in ledger.choices] == [1, 5, 20] * 2  # in the ledger's order


def test_only_so_many_are_looked_at_ahead(tmp_path: Path) -> None:
    many = {"evaluate.knn.k": list(range(1, 2 * LOOK_AHEAD))}
    ledger, storage = make(tmp_path, search={"space": many, "seeds": 1})
    search = LedgerScheduler(ledger, storage, Log())
    for name in "ab":
        assert isinstance(search.next(name), Launch)
    assert len(ledger.choices) == LOOK_AHEAD + 1


def test_a_sampler_that_learns_is_not_asked_ahead(tmp_path: Path) -> None:
    ledger, storage = make(tmp_path, search={"space": SHARED, "seeds": 1, "sampler": "tpe", "trials": 5})
    search = LedgerScheduler(ledger, storage, Log())
    for name in "abc":
        assert isinstance(search.next(name), Launch)
    assert len(ledger.choices) == 3


def test_a_sweep_over_an_evaluation_pretrains_once_a_seed(tmp_path: Path) -> None:
    ledger, storage = make(
        tmp_path, search={"space": {"evaluate.knn.k": [1, 5, 20]}}, encoder={"name": "resnet18", "width": 4},
        pretrain={"epochs": 2}, precision="fp32",
    )  # fmt: skip
    run_sweep(ledger, storage, Log())
    assert states(ledger) == {"COMPLETE": 6}
    makers = [
        [event.trial for event in read(folder)[0] if event.name == "attempt"]
        for folder in storage.sweep("sweep").glob("stages/*")
    ]
    assert [len(each) for each in makers] == [1, 1]
    for seed in (0, 1):
        results = [trial.results or {} for trial in ledger.trials if trial.seed == seed]
        assert len({each["pretrain/loss"] for each in results}) == 1
        assert len({each["knn/top1_val"] for each in results}) > 1


def test_an_objective_that_is_no_number_fails_its_trial_and_no_more(tmp_path: Path) -> None:
    for number in range(40):  # all the same: the features have collapsed to a point
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    search = {"space": {"evaluate.label_free.views": {"low": 2, "high": 3}}, "sampler": "tpe", "trials": 2, "seeds": 1}
    search["objective"] = "minimize label_free/alpha_val"
    data = {"source": f"imagefolder:{tmp_path / 'data'}", "image_size": 8}
    untrained = {"encoder": "pixels", "method": "supervised", "evaluate": {"label_free": {}}}
    ledger, storage = make(tmp_path, search=search, data=data, **untrained)
    ending = run_sweep(ledger, storage, Log())
    assert (ending.interrupted, ending.halted) == (False, None)
    assert {(trial.state, trial.reason, trial.attempts) for trial in ledger.trials} == {("FAILED", "diverged", 1)}
    assert "label_free/alpha_val is nan" in (ledger.trials[0].message or "")
    assert [trial.state.name for trial in ledger._study.trials] == ["FAIL"] * 2


def test_an_image_that_decoding_alone_finds_damaged_costs_one_attempt(tmp_path: Path) -> None:
    for number in range(20):
        path = tmp_path / "data" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8)).save(path)
    path.write_bytes(path.read_bytes()[:45])
    data = {"source": f"imagefolder:{tmp_path / 'data'}", "image_size": 8}
    ledger, storage = make(tmp_path, data=data, search={"seeds": 1}, encoder="pixels", method="supervised")
    run_sweep(ledger, storage, Log())
    assert {(trial.state, trial.reason, trial.attempts) for trial in ledger.trials} == {("FAILED", "data", 1)}
    assert f"{path}: not a readable image" in (ledger.trials[0].message or "")


def test_ctrl_c_before_the_first_trial_leaves_the_sweep_to_be_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes while Ray starts, where an exception could end the process."""
    ledger, storage = make(tmp_path)
    before, nodes = signal.getsignal(signal.SIGINT), run._nodes

    def interrupted() -> Any:
        os.kill(os.getpid(), signal.SIGINT)
        return nodes()

    monkeypatch.setattr(run, "_nodes", interrupted)
    log = Log()
    ending = run_sweep(ledger, storage, log, work=quadratic)
    assert (ending.interrupted, log.events) == (True, [])
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_in_the_last_trial_is_an_interrupt(tmp_path: Path) -> None:
    space = {"views.overlay_alpha": {"low": 0.0, "high": 0.4}}
    ledger, storage = make(tmp_path, search={"space": space, "sampler": "random", "trials": 1, "seeds": 1})

    def slow(*_: Any) -> Outcome:
        time.sleep(60)
        raise AssertionError("was not ended")

    class CtrlC(Log):
        def started(self, trial: Any) -> None:
            threading.Timer(2, os.kill, (os.getpid(), signal.SIGINT)).start()

    ending = run_sweep(ledger, storage, CtrlC(), work=slow)
    assert ending.interrupted
    assert states(ledger) == {"RUNNING": 1}


def test_an_address_beside_a_running_ray_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"10\.0\.0\.1:6379: Ray runs already in this process"):
        run_sweep(*make(tmp_path), Log(), address="10.0.0.1:6379", work=quadratic)
