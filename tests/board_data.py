"""A service whose sweeps have run, as far as the board can tell: a real ledger, journals, MLflow store and database."""

import json
import math
import random
import sqlite3
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml
from optuna import load_study
from optuna.trial import create_trial
from services import Service, hold_lease
from sqlalchemy import Engine, event

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.open import load_ledger, open_ledger
from ssl_sweep.service.queue import Capacity
from ssl_sweep.service.store import Submission
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.sweep.status import counts
from ssl_sweep.tracking.recorder import Recorder

METRIC = "knn/top1_val"
EPOCHS = 20
SPEC: dict[str, Any] = {
    "description": "How much of a second image an autoencoder takes",
    "data": {"source": "digits", "image_size": 8},
    "encoder": "resnet18",
    "method": "autoencoder",
    "pretrain": {"epochs": EPOCHS},
    "evaluate": {"knn": {}},
    "search": {
        "space": {
            "views.overlay_alpha": [0.0, 0.1, 0.2, 0.3],
            "pretrain.lr": {"low": 0.0001, "high": 0.1, "log": True},
            "pretrain.optimizer": ["sgd", "adamw"],
        },
        "sampler": "random",
        "trials": 12,
        "seeds": 2,
        "objective": f"maximize {METRIC}",
    },
    "table": {"rows": ["views.overlay_alpha"], "columns": ["knn/top1_test", METRIC]},
}


class Filled(Service):
    """A service whose sweeps are submitted and run by the test's own hand."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        ways = {"mlflow_url": "http://mlflow.lab:5000", "ray_url": "http://ray.lab:8265"}
        super().__init__(folder, **(ways | settings))
        self.storage = self.settings.storage
        self.dispatcher.capacity = Capacity(64, 8)
        self.draw = random.Random(0)

    def submit(self, name: str, owner: str = "ann", *, gpus: float = 0.5, **changes: Any) -> Submission:
        """A sweep in the queue; changes are its spec's, or `state`, `reason`, ... of the submission."""
        own = {key: changes.pop(key) for key in list(changes) if key in Submission.__dataclass_fields__}
        spec = from_dump({**SPEC, "root": str(self.storage.root / "data"), **changes, "name": name})
        now = time.time()
        trials = 2 * (changes.get("search") or SPEC["search"])["trials"]
        known = {"name": name, "total": trials, "objective": f"maximize {METRIC}", "best": None, "waiting": trials}
        values: dict[str, Any] = {"slots": 4, "cpus": 2, "gpus": gpus, "created": now, "queued": now, "counts": known}
        values |= {"id": name, "name": name, "owner": owner, "spec": spec.model_dump(mode="json")}
        return self.store.add(Submission(**(values | own)))

    def run(
        self,
        name: str,
        end: str = "COMPLETE",
        *,
        failure: tuple[str, str] = ("oom", "CUDA out of memory: 2.1 GiB wanted"),
        began: float | None = None,
        mlflow: bool = False,
    ) -> None:
        """Run a submitted sweep: its trials complete, but some fail, are pruned, or run on where `end` is RUNNING."""
        submission = self.now(name)
        spec, start = from_dump(dict(submission.spec)), began or time.time() - 7200
        with _in_memory_of_the_disk():
            ledger = open_ledger(self.storage.ledger_url, spec)
            if end == "RUNNING":
                hold_lease(ledger)
            said, clock = [], start
            while choice := ledger.ask():
                for trial in choice.trials:
                    took = self.draw.uniform(60, 300)
                    ended = self._ended(trial, choice.knobs, len(ledger.choices), failure, running=end == "RUNNING")
                    self._write(name, ended, choice.knobs, clock, took)
                    ledger.update(ended)
                    said.append({"trial_id": ended.trial_id, "trial_state": "RUNNING", "time": clock})
                    if ended.state != "RUNNING":
                        said.append({"trial_id": ended.trial_id, "trial_state": ended.state, "time": clock + took})
                    clock += took / 4
        self.tell(name, said, end, start)
        if mlflow:
            folder = self.storage.sweep(name)
            recorder = Recorder(name, folder, self.storage.tracking_uri, spec.model_dump(mode="json"))
            recorder.start()
            assert recorder.close(120) == 0

    def fill(self, name: str, choices: int, seeds: int) -> None:
        """A sweep of so many complete trials, of which the ledger and the service know, and nobody else."""
        space = {"views.overlay_alpha": {"low": 0.0, "high": 0.3}, "pretrain.optimizer": ["sgd", "adamw"]}
        search = {**SPEC["search"], "space": space, "trials": choices, "seeds": seeds}
        submission = self.submit(name, search=search)
        with _in_memory_of_the_disk():
            ledger = open_ledger(self.storage.ledger_url, from_dump(dict(submission.spec)))
            made, trials = [], []
            for number in range(choices):
                knobs = {
                    "views.overlay_alpha": self.draw.uniform(0, 0.3),
                    "pretrain.optimizer": self.draw.choice(["sgd", "adamw"]),
                }
                ways, params = dict(ledger._knobs.always), ledger._knobs.params(knobs)
                made.append(create_trial(params=params, distributions=ways, value=50.0))
                for seed in range(seeds):
                    results = {METRIC: top1(knobs, EPOCHS) + self.draw.gauss(0, 1)}
                    trials.append(Trial(str(uuid.uuid4()), number, seed, "COMPLETE", 1, results=results))
            study = load_study(study_name=name, storage=self.storage.ledger_url)
            study.add_trials(made)
            ids = {each.number: each._trial_id for each in study.trials}
            noted = [(ids[each.choice], f"seed:{each.seed}", json.dumps(asdict(each))) for each in trials]
            with sqlite3.connect(self.storage.root / "ledger.db") as connection:  # as Optuna would, but all at once
                words = "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES (?, ?, ?)"
                connection.executemany(words, noted)
            connection.close()
        said = [{"trial_id": each.trial_id, "trial_state": "COMPLETE"} for each in trials]
        self.store.add_events(name, "trial", said)
        done = counts(load_ledger(self.storage.ledger_url, name))
        self.store.change(self.now(name), state="COMPLETE", attempt=1, launched=time.time(), counts=done)

    def tell(self, name: str, said: list[dict[str, Any]], end: str, start: float) -> None:
        """Have the service know what its dispatcher would have seen."""
        submission = self.now(name)
        self.store.add_events(submission.id, "trial", said)
        with self.store._engine.begin() as connection:  # when it would have seen it
            for row in said:
                connection.exec_driver_sql(
                    "UPDATE events SET time = ? WHERE submission = ? AND json_extract(data, '$.trial_id') = ? "
                    "AND json_extract(data, '$.trial_state') = ?",
                    (row["time"], submission.id, row["trial_id"], row["trial_state"]),
                )
        found = counts(load_ledger(self.storage.ledger_url, name))
        active = end in ("RUNNING", "LAUNCHING")
        self.store.change(
            submission,
            state=end,
            attempt=1,
            launched=start,
            granted=4 if active else 0,
            ended=None if active else time.time(),
            counts=found,
        )

    def _ended(
        self, trial: Trial, knobs: Mapping[str, Any], number: int, failure: tuple[str, str], *, running: bool
    ) -> Trial:
        begun = replace(trial, attempts=1)
        if number % 8 == 5:
            return replace(begun, state="FAILED", failures=1, reason=failure[0], message=failure[1])
        if number % 8 == 7:
            return replace(
                begun, state="PRUNED", message=f"pruned at epoch 4, with {METRIC} {self.draw.uniform(9, 20):.4g}"
            )
        if running and number >= 11:
            return replace(begun, state="RUNNING")
        value = top1(knobs, EPOCHS) + self.draw.gauss(0, 1.2)
        results = {METRIC: value, "knn/top1_test": value - self.draw.uniform(0, 2), "pretrain/loss": 2 - value / 60}
        return replace(begun, state="COMPLETE", results=results)

    def _write(self, name: str, trial: Trial, knobs: Mapping[str, Any], began: float, took: float) -> None:
        """The trial's folder, as it would have left it."""
        folder = self.storage.trial(name, trial.trial_id)
        folder.mkdir(parents=True)
        known = {"trial_id": trial.trial_id, "sweep": name, "choice": trial.choice, "seed": trial.seed}
        config = {"data": {"source": "digits"}, "method": {"name": "autoencoder"}}
        (folder / "config.yaml").write_text(yaml.safe_dump({**known, "knobs": dict(knobs), "config": config}))
        (folder / "log.txt").write_text(f"choice {trial.choice} has begun\n")
        lines = [{"time": began, "event": "attempt", "attempt": 1, "host": "node1"}]
        epochs = {"COMPLETE": EPOCHS, "RUNNING": 9, "PRUNED": 4, "FAILED": 2}[trial.state]
        for epoch in range(1, epochs + 1):
            value = top1(knobs, epoch) + self.draw.gauss(0, 0.4)
            metrics = {"pretrain/loss": 2 - value / 60, "pretrain/knn_top1_val": value}
            lines.append({"time": began + took * epoch / EPOCHS, "event": "report", "metrics": metrics, "step": epoch})
        if trial.state == "COMPLETE":
            results = {key.partition("/")[2]: value for key, value in (trial.results or {}).items() if "knn" in key}
            lines.append({"time": began + took, "event": "stage", "stage": "knn", "seconds": 2.0, "results": results})
        if trial.state != "RUNNING":
            end = {"state": trial.state, "reason": trial.reason, "message": trial.message}
            lines.append({"time": began + took, "event": "end", **end})
        # at once: a trial waits for the disk after each line
        (folder / "journal.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def top1(knobs: Mapping[str, Any], epoch: int) -> float:
    """What a trial reaches: an overlay of 0.2 and a learning rate of 0.01 are best."""
    alpha, rate = knobs.get("views.overlay_alpha", 0.0), math.log10(knobs.get("pretrain.lr", 0.01))
    best = (
        62 - 150 * (alpha - 0.2) ** 2 - 4 * (rate + 2) ** 2 + (2 if knobs.get("pretrain.optimizer") == "adamw" else 0)
    )
    return 10 + (best - 10) * (1 - math.exp(-epoch / 5))


@contextmanager
def _in_memory_of_the_disk() -> Iterator[None]:
    """SQLite that does not wait for the disk: a ledger of thousands of trials is written in seconds."""

    def hurry(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA synchronous=OFF")

    event.listen(Engine, "connect", hurry)
    try:
        yield
    finally:
        event.remove(Engine, "connect", hurry)
