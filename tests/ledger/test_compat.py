"""The private parts of Optuna: they are there, and somebody has read them in this version's source."""

from pkgutil import resolve_name

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import TPESampler
from optuna.storages._rdb import models

from ssl_sweep.ledger import compat


def test_the_installed_optuna_was_read() -> None:
    compat.check_version(optuna.__version__)


def test_an_optuna_that_nobody_has_read_is_refused_in_words() -> None:
    with pytest.raises(compat.UnknownOptuna) as refused:
        compat.check_version("5.1.0")
    said = str(refused.value)
    assert "Optuna 5.1.0 is none of 5.0.0" in said
    assert "add it to READ_VERSIONS" in said
    assert all(name in said for name in compat.PRIVATE_PARTS)


@pytest.mark.parametrize("name", compat.PRIVATE_PARTS)
def test_each_private_part_is_there(name: str) -> None:
    assert resolve_name(name) is not None


@pytest.mark.parametrize("name", compat.COLUMNS)
def test_a_table_has_the_columns_that_are_written_and_no_others_but_its_own_id(name: str) -> None:
    table = models.BaseModel.metadata.tables[name]
    others = {column.name for column in table.columns} - compat.COLUMNS[name]
    assert others == {column.name for column in table.primary_key}


def test_trials_of_an_only_study_in_memory_have_their_numbers_as_ids() -> None:
    study = optuna.create_study(storage=optuna.storages.InMemoryStorage())
    for _ in range(3):
        study.ask()
    assert [compat.stored_id(trial) for trial in study.get_trials()] == [0, 1, 2]


def test_a_running_trial_is_continued() -> None:
    study = optuna.create_study()
    study.ask({"alpha": FloatDistribution(0.0, 1.0)})
    (begun,) = study.get_trials()
    continued = compat.running_trial(study, begun)
    assert (continued.number, continued.params) == (0, begun.params)
    study.tell(continued, 1.0)
    assert study.get_trials()[0].value == 1.0


def test_a_trial_with_fixed_params_gets_them() -> None:
    study = optuna.create_study()
    study.add_trial(
        optuna.trial.create_trial(
            state=optuna.trial.TrialState.WAITING, system_attrs=compat.fixed_params({"alpha": 0.25})
        )
    )
    assert study.ask({"alpha": FloatDistribution(0.0, 1.0)}).params == {"alpha": 0.25}


def test_the_groups_of_a_sampler_get_the_ranges_of_now() -> None:
    with pytest.warns(ExperimentalWarning):
        sampler = TPESampler(group=True, multivariate=True, n_startup_trials=0, seed=0)
    compat.set_group_ranges(sampler, {})  # before there are any
    study = optuna.create_study(sampler=sampler)
    ranges = {"method": CategoricalDistribution(["byol", "moco"]), "alpha": FloatDistribution(0.0, 1.0)}
    for value in (0.0, 1.0):
        study.tell(study.ask(ranges), value)
    sampler.infer_relative_search_space(study, study.get_trials()[-1])
    compat.set_group_ranges(sampler, {"alpha": FloatDistribution(0.0, 2.0)})
    group = sampler._search_space_group
    assert group is not None
    assert {name: values for each in group.search_spaces for name, values in each.items()} == {
        "method": ranges["method"],
        "alpha": FloatDistribution(0.0, 2.0),
    }
