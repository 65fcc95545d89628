"""What every encoder of the table promises; new ones are found by themselves."""

import pytest

from ssl_sweep.contracts.contract import Check
from ssl_sweep.contracts.encoders import ENCODERS, EncoderPlugin
from ssl_sweep.knobs import knobs

CASES = [
    pytest.param(plugin, check, id=f"{check.run.__name__}-{plugin.name}")
    for plugin in map(ENCODERS.load, knobs.own_names("encoders"))
    for check in ENCODERS.checks_of(plugin)
]


@pytest.mark.parametrize(("plugin", "check"), CASES)
def test_an_encoder_keeps_its_contract(plugin: EncoderPlugin, check: Check) -> None:
    check.run(plugin)
