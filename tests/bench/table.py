"""How long the table of 1,000 trials takes, from MLflow to text: 200 choices of three knobs, five seeds each.

    make bench

The store is MLflow's own SQLite file: one trial is written by the recorder, and its rows are repeated with other ids,
knobs, seeds and scores, since MLflow would take minutes to write them all.
"""

import argparse
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from ssl_sweep.spec.sweep import SweepSpec, from_dump, grid, resolve
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.tables.options import table_of
from ssl_sweep.tables.render import render
from ssl_sweep.tracking.recorder import Recorder
from ssl_sweep.tracking.transcript import text
from ssl_sweep.trialdir.events import AttemptStarted, Ended, StageFinished
from ssl_sweep.trialdir.journal import Journal

NAME, SEEDS, EPOCHS = "bench", 5, 20
ALPHA, MASK, LR = "views.overlay_alpha", "views.mask_ratio", "pretrain.lr"
ASKED: dict[str, dict[str, Any]] = {
    "as the spec says": {},
    "t interval, t-test": {"interval": "t", "baseline": "0.0, 0.0, 0.01"},
    "bootstrap, Wilcoxon": {"interval": "bootstrap", "baseline": "0.0, 0.0, 0.01", "test": "wilcoxon"},
    "best of each alpha": {"group_by": [ALPHA], "interval": "t", "baseline": "0.0"},
}


def make_spec() -> SweepSpec:
    space = {
        ALPHA: [0.0, 0.1, 0.2, 0.3, 0.4],
        MASK: [0.0, 0.1, 0.2, 0.3, 0.4],
        LR: [0.01 * (1 + index) for index in range(8)],
    }
    return from_dump(
        {
            "name": NAME,
            "data": {"source": "digits", "image_size": 8},
            "encoder": "resnet18",
            "method": "autoencoder",
            "evaluate": {"finetune": {}, "linear": {}, "knn": {}},
            "search": {"space": space, "seeds": SEEDS},
        }
    )


def write_trial(spec: SweepSpec, storage: Storage) -> None:
    """The first trial, as a worker writes it and the recorder shows it."""
    choice = grid(spec)[0]
    known = {"trial_id": "first", "sweep": NAME, "choice": 0, "seed": 0, "knobs": choice}
    folder = storage.trial(NAME, "first")
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump({**known, "config": resolve(spec, choice, 0)}))
    journal = Journal(folder)
    journal.append(AttemptStarted(attempt=1, host="node7", pid=1, git_commit="c0ffee", versions={"torch": "2.11"}))
    for epoch in range(EPOCHS):
        journal.report(
            {f"pretrain/{name}": 1.0 / (1 + epoch) for name in ("loss", "effective_rank", "uniformity")}, epoch
        )
    for stage in spec.evaluate:
        results = {f"top1_{split}": 50.0 for split in ("val", "test", "best_val", "best_test")}
        journal.append(StageFinished(stage=stage, key="k", seconds=1.0, results=results))
    journal.append(Ended(state="COMPLETE", reason=None, message=None, traceback=None))
    recorder = Recorder(NAME, storage.sweep(NAME), storage.tracking_uri, spec.model_dump(mode="json"))
    recorder.start()
    if recorder.close(120.0):
        raise SystemExit("MLflow did not take the first trial")


def repeat(spec: SweepSpec, store: Path) -> int:
    """Adds the other trials to the store's tables; returns how many there are then."""
    rng = random.Random(0)
    with sqlite3.connect(store) as database:
        query = "SELECT run_uuid FROM tags WHERE key = 'ssl_sweep.trial_id' AND value = 'first'"
        (first,) = database.execute(query).fetchone()
        trials = [(number, choice, seed) for number, choice in enumerate(grid(spec)) for seed in range(SEEDS)]
        for number, choice, seed in trials[1:]:
            run = uuid.UUID(int=rng.getrandbits(128)).hex
            own = {**{name: text(value) for name, value in choice.items()}, "seed": str(seed)}
            own |= {"ssl_sweep.trial_id": run, "ssl_sweep.choice": str(number), "ssl_sweep.seed": str(seed)}
            for table in ("runs", "params", "tags", "latest_metrics", "metrics"):
                rows = list(repeated(database, table, first, run, own, rng))
                database.executemany(f"INSERT INTO {table} VALUES ({','.join('?' * len(rows[0]))})", rows)
    return len(trials)


def repeated(
    database: sqlite3.Connection, table: str, first: str, run: str, own: dict[str, str], rng: random.Random
) -> Iterator[tuple[Any, ...]]:
    found = database.execute(f"SELECT * FROM {table} WHERE run_uuid = ?", (first,))
    columns = [each[0] for each in found.description]
    for values in found.fetchall():
        row = dict(zip(columns, values, strict=True)) | {"run_uuid": run}
        if table in ("params", "tags"):
            row["value"] = own.get(row["key"], row["value"])
        elif table == "latest_metrics":
            row["value"] += rng.gauss(0, 1)
        yield tuple(row.values())


def seconds(command: list[str]) -> float:
    started = time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - started


def main() -> None:
    """Print the seconds of each kind of table, and of the whole command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    wanted = parser.parse_args()
    spec = make_spec()
    with tempfile.TemporaryDirectory() as folder:
        storage = FolderStorage(Path(folder))
        write_trial(spec, storage)
        trials = repeat(spec, Path(storage.tracking_uri.removeprefix("sqlite:///")))
        print(f"{trials} trials in MLflow: seconds from the store to the Markdown, first and best of {wanted.repeats}")
        for name, asked in ASKED.items():
            taken = []
            for _ in range(wanted.repeats):
                started = time.monotonic()
                shown = render(table_of({NAME: storage.tracking_uri}, **asked), "md")
                taken.append(time.monotonic() - started)
            print(f"{name:22}  {shown.count('|'):5} cells  {taken[0]:.2f}  {min(taken):.2f}")
        whole = seconds([sys.executable, "-m", "ssl_sweep", "table", NAME, "--storage", folder])
        imports = seconds([sys.executable, "-c", "import ssl_sweep.tracking.reader"])
        print(f"ssl-sweep table        {whole:.2f}, of which {imports:.2f} to import MLflow and pandas")


if __name__ == "__main__":
    main()
