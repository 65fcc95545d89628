"""An id means one setting for life, and a knob with steps has a value that its range lists."""

import math
import shutil
from pathlib import Path

import pytest
from quick_sweeps import complete, search_spec

from ssl_sweep.ledger.open import load_ledger, open_ledger
from ssl_sweep.ledger.reader import LedgerReader, setting_key
from ssl_sweep.ledger.sampling import Knobs
from ssl_sweep.ledger.study import Ledger
from ssl_sweep.spec.domains import Range
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.trial.stage_keys import stage_key

STEPS = {"low": 0.0, "high": 1.0, "step": 0.1}
LISTED = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def spec(sampler: str, trials: int, **space: object) -> SweepSpec:
    return search_spec(sampler, trials, space, seeds=2)


def run(ledger: Ledger, count: int, worth: float = 1.0) -> None:
    """Ask and complete so many choices; the objective is `worth` times the flip's probability."""
    assert complete(ledger, count, lambda knobs: worth * float(knobs["views.gray"])) == count


def settings_by_id(ledger: LedgerReader) -> dict[str, tuple[str, int]]:
    """The setting and the seed that each trial's id stands for."""
    return {
        trial.trial_id: (setting_key(choice.knobs), trial.seed)
        for choice in ledger.choices
        for trial in choice.all_trials
    }


def test_an_id_of_a_restored_ledger_never_means_a_second_setting(url: str, tmp_path: Path) -> None:
    wanted = spec("tpe", 16, **{"views.gray": {"low": 0.0, "high": 1.0}})
    run(open_ledger(url, wanted), 11)
    shutil.copy(tmp_path / "ledger.db", tmp_path / "backup.db")
    run(open_ledger(url, wanted), 5)
    before = settings_by_id(load_ledger(url, "sweep"))
    shutil.copy(tmp_path / "backup.db", tmp_path / "ledger.db")
    run(open_ledger(url, wanted), 5, worth=-1.0)  # other results: the sampler goes another way
    after = settings_by_id(load_ledger(url, "sweep"))
    assert len(before) == len(after) == 32
    assert set(before.values()) != set(after.values())
    assert {trial: before[trial] for trial in before.keys() & after} == {
        trial: after[trial] for trial in before.keys() & after
    }


def test_the_ids_of_stored_trials_stay(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = spec("random", 3, **{"views.gray": {"low": 0.0, "high": 1.0}})
    with monkeypatch.context() as earlier:
        earlier.setattr(LedgerReader, "_trial_id", lambda self, number, knobs, seed: f"{number}-{seed}")
        run(open_ledger(url, wanted), 2)
    ledger = open_ledger(url, wanted)
    run(ledger, 1)
    assert [trial.trial_id for trial in ledger.trials][:4] == ["0-0", "0-1", "1-0", "1-1"]
    assert all(len(trial.trial_id) == 36 for trial in ledger.trials[4:])


@pytest.mark.parametrize("sampler", ["random", "qmc", "tpe", "gp", "cmaes", "nsga2"])
def test_sampled_steps_are_those_that_the_range_lists(url: str, sampler: str) -> None:
    ledger = open_ledger(url, spec(sampler, 11, **{"views.gray": STEPS}))
    run(ledger, 11)
    stored = [choice.knobs["views.gray"] for choice in load_ledger(url, "sweep").choices]
    assert sorted(stored) == sorted(choice.knobs["views.gray"] for choice in ledger.choices) == list(LISTED)
    assert all(choice.run_with == choice.knobs for choice in ledger.choices)


def test_steps_of_a_methods_own_knobs_are_listed_too(url: str) -> None:
    method = {"choices": ["autoencoder", {"name": "simclr", "temperature": {"low": 0.1, "high": 0.7, "step": 0.2}}]}
    ledger = open_ledger(url, spec("random", 12, **{"method": method, "views.gray": STEPS}))
    run(ledger, 12)
    drawn = {choice.knobs.get("method.temperature", 0.1) for choice in ledger.choices}
    assert drawn <= {0.1, 0.3, 0.5, 0.7}


def test_a_study_of_an_earlier_version_goes_on_with_its_stage_keys(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = spec("random", 11, **{"views.gray": STEPS})
    with monkeypatch.context() as earlier:
        earlier.setattr(Knobs, "misrounded", lambda *_: {})
        old = open_ledger(url, wanted)
        run(old, 8)
        keys = [stage_key(old.config(choice.knobs, 0), "pretrain", "fp32") for choice in old.choices]
        assert any(choice.knobs["views.gray"] not in LISTED for choice in old.choices)
    ledger = open_ledger(url, wanted)
    assert [stage_key(ledger.config(choice.run_with, 0), "pretrain", "fp32") for choice in ledger.choices] == keys
    run(ledger, 3)
    assert ledger.ask() is None
    assert sorted(choice.knobs["views.gray"] for choice in ledger.choices) == list(LISTED)


def test_a_choice_of_an_earlier_version_is_retried_with_its_own_digits(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = spec("random", 11, **{"views.gray": STEPS})
    with monkeypatch.context() as earlier:
        earlier.setattr(Knobs, "misrounded", lambda *_: {})
        old = open_ledger(url, wanted)
        run(old, 8)
    ledger = open_ledger(url, wanted)
    choice = next(choice for choice in ledger.choices if choice.misrounded)
    ledger.retry(choice, [choice.trials[0].trial_id])
    again = ledger.choice(choice.number)
    assert (again.run_with, again.knobs) == (choice.run_with, choice.knobs)
    assert again.run_with != again.knobs


def test_a_range_finds_the_step_that_a_value_was_rounded_from() -> None:
    values = Range(low=0.1, high=0.7, step=0.2)
    assert [values.nearest(value) for value in (0.1, 0.30000000000000004, 0.7000000000000001)] == [0.1, 0.3, 0.7]
    assert values.nearest(0.4) == 0.4
    assert Range(low=1e-6, high=5e-6, step=1e-6).nearest(math.nextafter(3e-6, 1.0)) == 3e-6
    assert Range(low=2, high=8, step=2).nearest(4) == 4
    assert Range(low=0.0, high=1.0).nearest(0.30000000000000004) == 0.30000000000000004
