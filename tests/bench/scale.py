"""What thousands of trials cost their driver: ours against plain Ray Tune with OptunaSearch, in one run.

    make bench

Trials report once and end. Each measurement is a process of its own with a Ray of its own, all with warm workers
(`reuse_actors`) and Optuna's random sampler. `ours` has its study in SQLite on the disk. `plain` is Tune as its guide
has it: a study in memory, a log and a snapshot on the disk. `bare` is Tune without these two. `tpe` asks a ledger
without Ray. Ends with 1 where ours is slower than plain, or its trials get slower by half as there are more of them.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import psutil

METRIC = "knn/top1_val"
WARM = 100  # trials until every worker has torch, and Python its memory
WINDOW = 200  # trials over which a cost is taken, at the beginning and at the end of a run
SLOWER, GROWS = 1.0, 1.5  # what is promised
SPACE = {"views.overlay_alpha": {"low": 0.0, "high": 0.4}, "pretrain.lr": {"low": 0.001, "high": 1.0, "log": True}}


class Meter:
    """Time and memory of this process as each trial ends, and the time that has gone into the ledger. An `Observer`."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.ledger_seconds: list[float] = []
        self.megabytes: list[float] = []
        self._process, self._in_ledger, self._depth = psutil.Process(), 0.0, 0

    def ended(self, *_: Any) -> None:
        self.seconds.append(time.monotonic())
        self.ledger_seconds.append(self._in_ledger)
        self.megabytes.append(self._process.memory_info().rss / 1e6)

    def started(self, *_: Any) -> None: ...
    def reported(self, *_: Any) -> None: ...

    def watch(self, ledger: Any) -> None:
        """Take the time of what a trial costs in the ledger."""
        for name in ("ask", "update", "report"):
            setattr(ledger, name, self._timed(getattr(ledger, name)))
        ledger._study._storage._database.transact = self._timed(ledger._study._storage._database.transact)

    def _timed(self, call: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*wiring: Any) -> Any:
            began, outermost = time.perf_counter(), self._depth == 0
            self._depth += 1
            try:
                return call(*wiring)
            finally:
                self._depth -= 1
                self._in_ledger += (time.perf_counter() - began) * outermost

        return timed

    def summary(self) -> dict[str, float]:
        """Milliseconds a trial at the beginning and at the end, and megabytes for a thousand trials more."""
        end = len(self.seconds) - 1
        warm, window = min(WARM, end // 4), min(WINDOW, end // 4)

        def ms(times: list[float], first: int, last: int) -> float:
            return 1000 * (times[last] - times[first]) / (last - first)

        return {
            "trials": len(self.seconds),
            "first": ms(self.seconds, warm, warm + window),
            "last": ms(self.seconds, end - window, end),
            "mean": ms(self.seconds, warm, end),
            "ledger_first": ms(self.ledger_seconds, warm, warm + window),
            "ledger_last": ms(self.ledger_seconds, end - window, end),
            "mb": 1000 * (self.megabytes[end] - self.megabytes[warm]) / (end - warm),
        }


@contextmanager
def driven(folder: Path, trials: int, sampler: str, meter: Meter) -> Iterator[tuple[Any, Any, Any]]:
    """A new sweep's ledger, its time taken, its storage and its lease."""
    from ssl_sweep.ledger.lease import sole_driver
    from ssl_sweep.ledger.open import open_ledger, open_notes
    from ssl_sweep.spec.sweep import from_dump
    from ssl_sweep.storage.folder_storage import FolderStorage

    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    search = {"space": SPACE, "sampler": sampler, "trials": trials}
    spec = from_dump({"name": "bench", **base, "evaluate": {"knn": {}}, "search": search})
    storage = FolderStorage(folder)
    storage.sweep("bench").mkdir()
    with sole_driver(storage.sweep("bench"), open_notes(storage.ledger_url, spec)) as lease:
        ledger = open_ledger(storage.ledger_url, spec, owner=lease.owner)
        meter.watch(ledger)
        yield ledger, storage, lease


def ours(folder: Path, trials: int) -> Meter:
    import ray

    from ssl_sweep.cluster.run import run_sweep
    from ssl_sweep.trial.attempt import Outcome
    from ssl_sweep.trialdir.record import TrialRecord

    def fake(record: TrialRecord, number: int, report: Any, *_: Any) -> Outcome:
        report({METRIC: 50.0}, 1)
        return Outcome("COMPLETE", {METRIC: 50.0})

    meter = Meter()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    with driven(folder, trials, "random", meter) as (ledger, storage, lease):
        run_sweep(ledger, storage, meter, work=fake, lease=lease)
    return meter


def bare(folder: Path, trials: int) -> Meter:
    import ssl_sweep.cluster  # noqa: F401 - turns Tune's logs and snapshots off, as for ours

    return plain(folder, trials)


def plain(folder: Path, trials: int) -> Meter:
    """Ray Tune as its guide has it, but for its warm workers."""
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    import ray
    from ray import tune
    from ray.tune.search.optuna import OptunaSearch

    def trainable(config: dict[str, Any]) -> None:
        import torch  # noqa: F401 - as a trial must

        tune.report({METRIC: 50.0})

    class Watch(tune.Callback):
        def __init__(self) -> None:
            self.meter = Meter()

        def __getstate__(self) -> dict[str, Any]:
            return {}  # Tune pickles it into its snapshots

        def on_trial_complete(self, *_: Any, **__: Any) -> None:
            self.meter.ended()

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    space = {"alpha": tune.uniform(0.0, 0.4), "lr": tune.loguniform(0.001, 1.0)}
    search = OptunaSearch(metric=METRIC, mode="max", sampler=optuna.samplers.RandomSampler(seed=0), study_name="bench")
    watch = Watch()
    tune.Tuner(
        tune.with_resources(trainable, {"cpu": 1}),
        param_space=space,
        tune_config=tune.TuneConfig(search_alg=search, num_samples=trials, reuse_actors=True),
        run_config=tune.RunConfig(storage_path=str(folder), verbose=0, callbacks=[watch]),
    ).fit()
    return watch.meter


def tpe(folder: Path, trials: int) -> Meter:
    """TPE's choices, asked of the ledger one after the other and told at once."""
    meter = Meter()
    with driven(folder, trials, "tpe", meter) as (ledger, _, _):
        while (choice := ledger.ask()) is not None:
            value = 50.0 + choice.knobs["views.overlay_alpha"]
            ledger.update(replace(choice.trials[0], state="COMPLETE", results={METRIC: value}))
            meter.ended()
    return meter


RUNS = ["ours:1000", "plain:1000", "bare:1000", "ours:5000", "tpe:1000"]
KINDS: dict[str, Callable[[Path, int], Meter]] = {"ours": ours, "plain": plain, "bare": bare, "tpe": tpe}


def measured_here(run: str) -> dict[str, float]:
    from ray import cloudpickle

    kind, trials = run.split(":")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import this file
    with tempfile.TemporaryDirectory() as folder:
        return KINDS[kind](Path(folder), int(trials)).summary()


def measured(run: str) -> dict[str, float]:
    """In a process of its own."""
    command = [sys.executable, "-m", "tests.bench.scale", "--here", run]
    found: dict[str, float] = json.loads(
        subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()[-1]
    )
    return found


def verdicts(found: dict[str, dict[str, float]]) -> list[tuple[str, float, float]]:
    """What is promised: in words, as measured, and at most."""
    promised = []
    for size in sorted({run.split(":")[1] for run in found}, key=int):
        if {f"ours:{size}", f"plain:{size}"} <= found.keys():
            ratio = found[f"ours:{size}"]["mean"] / found[f"plain:{size}"]["mean"]
            promised.append((f"ours / plain at {size}", ratio, SLOWER))
    runs = [run for run in found if run.startswith("ours")]
    if runs:
        longest = found[max(runs, key=lambda run: found[run]["trials"])]
        words = f"ours, the last of {longest['trials']} trials / after {WARM}"
        promised.append((words, longest["last"] / longest["first"], GROWS))
        promised.append((f"{words}, in the ledger", longest["ledger_last"] / longest["ledger_first"], GROWS))
    return promised


def main() -> None:
    """Print the table that goes into experiments/LOG.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", default=RUNS, help="KIND:TRIALS")
    parser.add_argument("--here", action="store_true", help="one run, in this process")
    wanted = parser.parse_args()
    if wanted.here:
        print(json.dumps(measured_here(wanted.runs[0])))
        return
    import ray

    print(
        f"{os.cpu_count()} CPUs, Python {platform.python_version()}, ray {ray.__version__}, optuna {optuna.__version__}"
    )
    print("ms a trial: first  last   mean   in the ledger: first  last   MB a 1,000 trials")
    found = {}
    for run in wanted.runs:
        each = found[run] = measured(run)
        times = f"{each['first']:6.1f} {each['last']:5.1f}  {each['mean']:5.1f}"
        ledger = f"{each['ledger_first']:21.1f} {each['ledger_last']:5.1f}"
        print(f"{run:10} {times}  {ledger}  {each['mb']:18.1f}", flush=True)
    kept = True
    for words, ratio, limit in verdicts(found):
        print(f"{words}: {ratio:.2f}, at most {limit:g}")
        kept = kept and ratio <= limit
    sys.exit(not kept)


if __name__ == "__main__":
    main()
