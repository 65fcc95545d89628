"""How soon a trial trains: seconds from the start of an attempt to its first training step, cold and warm.

    make bench

Four trials of the digits autoencoder, one after the other in one worker. The first decodes the data; the others find
it packed and mapped, and torch imported.
"""

import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console

from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.sweep.drive import drive
from ssl_sweep.trialdir import journal

TRAIN_IMAGES = 1_293  # of the digits, without validation and test


def main() -> None:
    """Run the sweep and print the seconds of each trial."""
    spec = from_dump(
        {
            "name": "first-step",
            "data": {"source": "digits", "image_size": 8},
            "encoder": {"name": "resnet18", "width": 16},
            "method": "autoencoder",
            "pretrain": {"epochs": 1, "batch_size": 128},
            "evaluate": {"knn": {}},
            "precision": "fp32",
            "search": {"seeds": 4},
            "resources": {"max_concurrent": 1},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        summary = drive(spec, FolderStorage(Path(folder)), Console(quiet=True))
        for number, trial in enumerate(summary.trials, 1):
            events = journal.read(FolderStorage(Path(folder)).trial(spec.name, trial.trial_id))[0]
            print(f"trial {number}: trains {seconds_to_first_step(events):.2f} s after its start")


def seconds_to_first_step(events: list[dict[str, Any]]) -> float:
    """The first epoch's end less its length, from the attempt's start on."""
    start = next(event for event in events if event.name == "attempt")
    epoch = next(event for event in events if event.name == "report")
    length = TRAIN_IMAGES / float(epoch.metrics["pretrain/images_per_second"])
    return float(epoch.time) - length - float(start.time)


if __name__ == "__main__":
    main()
