"""A stored spec whose plugins are not at hand: it is read as it is, and no code of theirs runs."""

from pathlib import Path
from typing import Any

import pytest

from ssl_sweep.plugins import catalog
from ssl_sweep.plugins.catalog import PluginError
from ssl_sweep.spec.sweep import SpecError, SweepSpec, from_dump, grid, resolve

PARTS = {
    "methods/mine.py": """
        from __future__ import annotations
        from typing import Annotated
        from pydantic import Field
        from torch import nn
        from ssl_sweep.models.encoder import Encoder

        Weight = Annotated[float, Field(ge=0, le=1)]

        class Method(nn.Module):
            def __init__(self, encoder: Encoder, *, weight: Weight = 0.5, shifts: tuple[int, ...] = (0, 1)):
                super().__init__()
                self.encoder = encoder
        """,
    "encoders/net.py": """
        from torch import nn
        from ssl_sweep.models.encoder import Encoder

        class Backbone(Encoder):
            def __init__(self, image_size: int, *, width: int = 8):
                super().__init__(nn.Conv2d(3, width, 1), image_size, (width, image_size, image_size))
        """,
    "evaluations/score.py": """
        METRICS = ("top1_val", "top1_test")

        def evaluate(encoder, splits, stage, *, epochs: int = 4, power: float = 1.0):
            return {}
        """,
}


@pytest.fixture
def spec(tmp_path: Path) -> SweepSpec:
    for name, text in PARTS.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("\n".join(line[8:] for line in text.splitlines()))
    catalog.use(tmp_path)
    methods = {"choices": ["moco", {"name": "local/mine", "weight": [0, 1], "shifts": [[2, 3]]}]}
    cases: dict[str, Any] = {
        "plain": {},
        "net": {"encoder": {"name": "local/net", "width": 4}, "evaluate.local/score.power": 2},
    }
    made = SweepSpec.model_validate(
        {
            "name": "demo",
            "data": {"source": "digits", "image_size": 8},
            "encoder": "resnet18",
            "method": "local/mine",
            "evaluate": {"local/score": {}, "knn": {}},
            "search": {"space": {"method": methods}, "cases": cases, "pruner": "asha"},
        }
    )
    catalog.use(None)
    return made


def test_a_local_evaluation_is_the_default_of_objective_columns_and_pruner(spec: SweepSpec) -> None:
    assert spec.search.objective == "maximize local/score/top1_val"
    assert spec.search.prune_on == "maximize local/score/top1_val"
    assert spec.table.columns == ("local/score/top1_test", "knn/top1_test")


def test_a_stored_spec_is_read_without_its_plugins(spec: SweepSpec, tmp_path: Path) -> None:
    dump = spec.model_dump(mode="json")
    read = from_dump(dump)
    assert read.model_dump(mode="json") == dump
    choices = grid(read)
    assert choices == grid(spec)
    with pytest.raises(PluginError, match="--plugins DIR"):  # its recipe of views is not known
        resolve(read, choices[-1], 0)
    catalog.use(tmp_path)
    assert [resolve(read, choice, 1) for choice in choices] == [resolve(spec, choice, 1) for choice in choices]
    catalog.use(None)


def test_a_spec_of_a_user_needs_its_plugins(spec: SweepSpec) -> None:
    with pytest.raises(ValueError, match="there is no encoder 'local/net'; name its folder with --plugins DIR"):
        SweepSpec.model_validate(spec.model_dump(mode="json"))


def test_the_package_s_own_settings_are_checked_in_a_stored_spec_too(spec: SweepSpec) -> None:
    with pytest.raises(SpecError, match=r"the stored spec: evaluate.knn.neighbours: 5: is not a knob of knn"):
        from_dump({**spec.model_dump(mode="json"), "evaluate": {"local/score": {"a": 1}, "knn": {"neighbours": 5}}})
