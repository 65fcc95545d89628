"""Every private part of Optuna that this package touches.

A new Optuna may rename or change them without notice. When you raise Optuna's version, read the parts listed in
`PRIVATE_PARTS` in its source, compare its tables with `COLUMNS`, run `tests/ledger`, and add the version to
`READ_VERSIONS`.
"""

import json
from collections.abc import Mapping
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, distribution_to_json
from optuna.samplers import TPESampler
from optuna.storages._rdb import models
from optuna.trial import FrozenTrial
from sqlalchemy import Table

READ_VERSIONS = ("5.0.0",)
PRIVATE_PARTS = {
    "optuna.storages._rdb.models:TrialValueModel.value_to_stored_repr": "converts an objective's value for its table",
    "optuna.storages._rdb.models:TrialIntermediateValueModel.intermediate_value_to_stored_repr": (
        "converts a reported value for its table"
    ),
    "optuna.storages:InMemoryStorage.create_new_trial": "gives each trial of an only study its number as its id",
    "optuna.storages:RDBStorage._get_trials": "reads the trials of a study, in one transaction",
    "optuna.trial:FrozenTrial": "keeps its id in the storage in `_trial_id`",
    "optuna.trial:Trial.__init__": "continues a trial that is running, by its id",
    "optuna.trial:Trial._is_fixed_param": "takes a value from `fixed_params`, which stand in the system attributes",
    "optuna.samplers:TPESampler.sample_relative": "samples the groups in `_search_space_group`, which are edited here",
}
COLUMNS = {  # that are written, by table; Optuna's models and their columns are private too
    "study_user_attributes": {"study_id", "key", "value_json"},
    "study_system_attributes": {"study_id", "key", "value_json"},
    "trials": {"study_id", "number", "state", "datetime_start", "datetime_complete"},
    "trial_params": {"trial_id", "param_name", "param_value", "distribution_json"},
    "trial_user_attributes": {"trial_id", "key", "value_json"},
    "trial_system_attributes": {"trial_id", "key", "value_json"},
    "trial_values": {"trial_id", "objective", "value", "value_type"},
    "trial_intermediate_values": {"trial_id", "step", "intermediate_value", "intermediate_value_type"},
}
GET_TRIALS = "_get_trials"  # the method of RDBStorage that the public ones read trials by

NOTES = models.StudyUserAttributeModel.__table__
STUDY_ATTRS = models.StudySystemAttributeModel.__table__
TRIALS = models.TrialModel.__table__
PARAMS = models.TrialParamModel.__table__
USER_ATTRS = models.TrialUserAttributeModel.__table__
SYSTEM_ATTRS = models.TrialSystemAttributeModel.__table__
VALUES = models.TrialValueModel.__table__
STEPS = models.TrialIntermediateValueModel.__table__


class UnknownOptuna(RuntimeError):  # noqa: N818 - says what it is
    """Nobody has compared the private parts with this version of Optuna."""


def check_version(version: str) -> None:
    """Check that somebody has read the private parts in the source of a version of Optuna.

    Raises:
        UnknownOptuna: nobody has; the message lists what to read.
    """
    if version not in READ_VERSIONS:
        parts = "\n".join(f"  {name}: {use}" for name, use in PRIVATE_PARTS.items())
        raise UnknownOptuna(
            f"Optuna {version} is none of {', '.join(READ_VERSIONS)}. Read these private parts in its source, compare "
            f"its tables with COLUMNS, run tests/ledger, then add it to READ_VERSIONS in {__file__}:\n{parts}"
        )


def stored_id(trial: FrozenTrial) -> int:
    """A trial's id in the storage that it was read from."""
    return trial._trial_id


def running_trial(study: optuna.Study, trial: FrozenTrial) -> optuna.Trial:
    """Continue a trial that another process has begun."""
    return optuna.Trial(study, stored_id(trial))


def fixed_params(params: Mapping[str, Any]) -> dict[str, Any]:
    """The system attributes of an enqueued trial that is to have these parameters."""
    return {"fixed_params": dict(params)}


def set_group_ranges(sampler: TPESampler, ranges: Mapping[str, BaseDistribution]) -> None:
    """Give the parameters in a grouped TPE sampler's groups the ranges that they have now."""
    for group in sampler._search_space_group.search_spaces if sampler._search_space_group else ():
        group.update({name: ranges.get(name, values) for name, values in group.items()})


def row_of(trial: FrozenTrial, table: Table, key: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """One row of a table that belongs to a trial, without the trial's id: the columns that identify it, and the rest.

    Args:
        trial: the trial.
        table: any of the above but NOTES and TRIALS.
        key: the row's parameter, attribute, objective or step.
    """
    if table is PARAMS:
        distribution, value = trial.distributions[key], trial.params[key]
        internal, text = distribution.to_internal_repr(value), distribution_to_json(distribution)
        return {"param_name": key}, {"param_value": internal, "distribution_json": text}
    if table is VALUES:
        number, kind = models.TrialValueModel.value_to_stored_repr(trial.values[key])
        return {"objective": key}, {"value": number, "value_type": kind}
    if table is STEPS:
        stored = models.TrialIntermediateValueModel.intermediate_value_to_stored_repr(trial.intermediate_values[key])
        return {"step": key}, dict(zip(("intermediate_value", "intermediate_value_type"), stored, strict=True))
    attrs = trial.user_attrs if table is USER_ATTRS else trial.system_attrs
    return {"key": key}, {"value_json": json.dumps(attrs[key])}
