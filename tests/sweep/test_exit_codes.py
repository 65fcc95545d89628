"""What a driver's exit code tells a script and the service."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.cluster.errors import ClusterError, InfeasibleError
from ssl_sweep.cluster.run import Ending
from ssl_sweep.ledger.entries import LedgerError, Trial
from ssl_sweep.ledger.lease import SweepLockedError
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.sweep import drive
from ssl_sweep.sweep.exit_codes import ExitCode
from ssl_sweep.trialdir.states import TrialState

SPEC: dict[str, Any] = {
    "name": "demo",
    "data": {"source": "digits", "image_size": 8},
    "encoder": "resnet18",
    "method": "autoencoder",
    "evaluate": {"knn": {}},
    "search": {"space": {"views.overlay_alpha": {"low": 0.0, "high": 0.4}}, "trials": 2, "sampler": "random"},
}


@pytest.mark.parametrize(
    ("states", "ending", "code"),
    [
        (("COMPLETE", "PRUNED"), Ending(interrupted=False, halted=None), ExitCode.COMPLETE),
        (("COMPLETE", "FAILED"), Ending(interrupted=False, halted=None), ExitCode.INCOMPLETE),
        (("COMPLETE",), Ending(interrupted=True, halted="all failed alike"), ExitCode.INCOMPLETE),
        (("COMPLETE",), Ending(interrupted=True, halted=None), ExitCode.INTERRUPTED),
    ],
)
def test_how_the_trials_ended_is_the_exit_code(states: tuple[str, ...], ending: Ending, code: ExitCode) -> None:
    trials = [Trial(str(number), 0, number, TrialState(state)) for number, state in enumerate(states)]
    assert drive.Summary(trials, 2, ending, None, 0).exit_code == code


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SweepLockedError("another driver is running this sweep"), 75),
        (InfeasibleError("demo cannot run here: a trial wants 1 GPU, there are 0"), 75),
        (ClusterError("no Ray cluster lets us in"), 2),
        (LedgerError("demo was stopped"), 2),
    ],
)
def test_what_may_pass_by_itself_is_told_from_a_users_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(drive, "drive", refuse)
    spec = tmp_path / "demo.yaml"
    spec.write_text(yaml.safe_dump(SPEC))
    ran = CliRunner().invoke(app, ["run", str(spec), "--storage", str(tmp_path)])
    assert (ran.exit_code, ran.output) == (code, f"{error}\n")


@pytest.mark.parametrize("option", ["--choices", "--trials"])  # the second is the older name
@pytest.mark.parametrize(
    ("error", "code"), [(InfeasibleError, ExitCode.TRY_AGAIN), (ClusterError, ExitCode.USER_ERROR)]
)
def test_an_extension_that_cannot_run_says_that_it_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str, error: type[ClusterError], code: ExitCode
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error("demo cannot run here")

    monkeypatch.setattr(drive, "drive", refuse)
    open_ledger(FolderStorage(tmp_path).ledger_url, from_dump(SPEC))
    ran = CliRunner().invoke(app, ["extend", "demo", option, "+1", "--storage", str(tmp_path)])
    said = "demo cannot run here; demo is extended already, continue it: ssl-sweep resume demo\n"
    assert (ran.exit_code, ran.output) == (code, said)
