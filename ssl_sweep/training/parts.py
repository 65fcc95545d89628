"""Runs a stage in sequential parts, each of which resumes separately; a finished part is not run again."""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from ssl_sweep.training.loop import Stage, derive_seed
from ssl_sweep.trialdir import checkpoint

Results = dict[str, float]


def run_parts(names: Sequence[str], work: Callable[[str, Stage], Results], stage: Stage) -> dict[str, Results]:
    """The results of `work(name, part)` for each name, in order; `part` is a stage with its own folder and seed.

    A part's numbers do not depend on which parts ran before it in the same process.
    """
    path, folder = stage.folder / "checkpoint.pt", stage.folder / "parts"
    state = checkpoint.load(path, torch.device("cpu"))
    if state is None:  # new, or restarted: then the parts' folders are of other settings
        shutil.rmtree(folder, ignore_errors=True)
        state = {"finished": {}}
        checkpoint.save(path, state)
    finished: dict[str, Results] = state["finished"]
    for number, name in enumerate(names):
        if name not in finished:
            part = replace(stage, folder=folder / str(number), seed=derive_seed(stage.seed, name))
            torch.manual_seed(part.seed)  # torch's modules initialise weights from the global generator
            finished[name] = work(name, part)
            checkpoint.save(path, {"finished": finished})
        shutil.rmtree(folder / str(number), ignore_errors=True)  # its checkpoint contains a whole encoder
    return finished
