"""Arguments of the Python API that are of another type: refused in words."""

from typing import Any

import pytest

import ssl_sweep
from ssl_sweep.knobs.problems import SpecError


@pytest.mark.parametrize("call", [ssl_sweep.run, ssl_sweep.plan])
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([1],), r"^spec: \[1\]: a list is not understood; give the path of a YAML file, or its content as a dict$"),
        ((None,), r"^spec: a NoneType is not understood; give the path"),
        (({}, {"search.seeds": 3}), r"^overrides: {'search.seeds': 3}: a dict is not understood; give a list of texts"),
        (({}, [3]), r"^overrides: \[3\]: a list is not understood"),
    ],
)
def test_other_types_are_refused(call: Any, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        call(*arguments)
