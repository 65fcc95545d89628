"""A trial of a sweep as a Python object: its results, its encoder, its log."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.logs import trial_log
from ssl_sweep.sweep.status import state_now
from ssl_sweep.trial.export import Trained, check_target, read_trial, write
from ssl_sweep.trialdir.record import RECORD
from ssl_sweep.trialdir.states import TrialState

if TYPE_CHECKING:
    from ssl_sweep.models.encoders import Encoder


@dataclass(frozen=True)
class TrialHandle:
    """One choice of the searched knobs with one seed, as it was when it was asked for."""

    id: str
    sweep: str
    choice: int
    seed: int
    state: TrialState
    knobs: Mapping[str, Any]
    metrics: Mapping[str, float]  # of a complete trial
    reason: str | None  # of a failure: crash, oom, diverged, ...
    message: str | None
    folder: Path
    description: str = field(repr=False)  # its knobs and score, and why it is the best
    storage: Storage = field(repr=False)

    @classmethod
    def of(cls, trial: Trial, ledger: LedgerReader, storage: Storage, description: str) -> "TrialHandle":
        """The handle of a trial in a ledger."""
        return cls(
            id=trial.trial_id,
            sweep=ledger.spec.name,
            choice=trial.choice,
            seed=trial.seed,
            state=state_now(trial, ledger),
            knobs=dict(ledger.choice(trial.choice).knobs),
            metrics=dict(trial.results or {}),
            reason=trial.reason,
            message=trial.message,
            folder=storage.trial(ledger.spec.name, trial.trial_id),
            description=description,
            storage=storage,
        )

    def encoder(self) -> "Encoder":
        """The pretrained encoder on the CPU, in evaluation mode: images (B, 3, S, S) in [0, 1] -> features (B, D).

        Raises:
            ExportError: the trial has none.
        """
        return self._trained().encoder

    def export(self, path: str | Path, *, force: bool = False) -> dict[str, str]:
        """Write the encoder to a safetensors file, with torchvision's names of weights; returns its description.

        Args:
            path: ends in `.safetensors`.
            force: replace an existing file.

        Raises:
            ExportError: the trial has no encoder, or `path` cannot be written to.
        """
        check_target(Path(path), force=force)
        return write(self._trained(), Path(path), self.metrics, force=force)

    def log(self, lines: int = 20) -> str:
        """The last lines of the trial's log."""
        return trial_log(load_ledger(self.storage.ledger_url, self.sweep), self.storage, self.id, lines)

    def _trained(self) -> Trained:
        self.storage.fetch(*(self.folder / file for file in (RECORD, "stages.json", "encoder.pt")))
        return read_trial(self.folder)
