"""A driver to be killed: `driver.py STORAGE STEPS [NAME]` runs a sweep of fake trials through all that a real one has.

A fake trial multiplies a few weights, step by step, and leaves a checkpoint after each; only training is not real.
"""

import os
import sys
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import typer

from ssl_sweep.api.handle import run
from ssl_sweep.cli import open_streams
from ssl_sweep.commands.driving import _show as run_and_exit
from ssl_sweep.commands.shared import err, user_errors
from ssl_sweep.sweep import drive
from ssl_sweep.trial import attempt as attempts
from ssl_sweep.trialdir import checkpoint
from ssl_sweep.trialdir.journal import Journal
from ssl_sweep.trialdir.record import TrialRecord

STEP_S = 0.1
METRIC = "knn/top1_val"
SPEC = {
    "data": {"source": "digits", "image_size": 8},
    "encoder": "resnet18",
    "method": "autoencoder",
    "evaluate": {"knn": {}},
    "search": {"space": {"views.overlay_alpha": [0.0, 0.1, 0.2, 0.3]}, "seeds": 2},
    "resources": {"max_concurrent": 2},
    "tracking": {"models": "none"},
    "table": {"columns": [METRIC]},
}


def main(storage: str, steps: int, name: str = "faults") -> int:
    """The sweep's exit code."""

    def fake(config: Mapping[str, Any], report: Any, folder: Path, **_: Any) -> dict[str, float]:
        journal, path = Journal(folder), folder / "weights.pt"
        generator = torch.Generator().manual_seed(config["seed"])
        start = {"step": 0, "weights": torch.rand(4, generator=generator) + config["views"]["overlay_alpha"]}
        state = checkpoint.load(path, torch.device("cpu")) or start
        while state["step"] < steps:
            time.sleep(STEP_S)
            state = {"step": state["step"] + 1, "weights": state["weights"] * 1.01}
            with (folder / "executed").open("a") as file:
                file.write(f"{state['step']}\n")
            metrics = {METRIC: float(state["weights"].sum())}
            journal.report(metrics, state["step"])
            report(metrics, state["step"])
            checkpoint.save(path, state)
        return {METRIC: float(state["weights"].sum())}

    def work(record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Any:
        attempts.trial.run = fake
        return attempts.attempt(record, number, report, folder, cache)

    run_sweep = drive.run_sweep
    drive.run_sweep = lambda *wiring, **knobs: run_sweep(*wiring, **knobs, work=work)
    try:
        with user_errors():
            run_and_exit(lambda: run({**SPEC, "name": name}, storage=storage, console=err))
    except typer.Exit as error:
        return error.exit_code


if __name__ == "__main__":
    open_streams()
    if os.environ.pop("LD_PRELOAD", None):  # a library for this process alone, not for Ray's
        time.sleep = lambda seconds: threading.Event().wait(seconds)  # libfaketime refuses what CPython's own calls
    sys.exit(main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:]))
