"""What every file of `methods/` promises; new files are found by themselves."""

import inspect
import re

import pytest

from ssl_sweep.contracts.contract import Check
from ssl_sweep.contracts.method_class import MethodPlugin
from ssl_sweep.contracts.methods import METHODS, STEP_CHECKS
from ssl_sweep.knobs import knobs, methods

NAMES = knobs.own_names("methods")
LOADED = {name: METHODS.load(name) for name in NAMES}
CASES = [
    pytest.param(plugin, check, id=f"{check.run.__name__}-{name}")
    for name, plugin in LOADED.items()
    for check in METHODS.checks_of(plugin)
]


def test_there_are_methods() -> None:
    assert {"autoencoder", "supervised"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_names_a_source(name: str) -> None:
    text = inspect.getdoc(LOADED[name].method)
    assert text is not None
    assert re.search(r"Source: .*\b(19|20)\d\d\b", text, re.DOTALL)


def test_the_baseline_alone_makes_no_steps() -> None:
    assert [name for name in NAMES if not methods.pretrains(name)] == ["supervised"]
    assert not {*METHODS.checks_of(LOADED["supervised"])} & {*STEP_CHECKS}


@pytest.mark.parametrize(("plugin", "check"), CASES)
def test_a_method_keeps_its_contract(plugin: MethodPlugin, check: Check) -> None:
    check.run(plugin)
