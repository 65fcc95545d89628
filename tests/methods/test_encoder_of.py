"""Which encoder of a method with a moving average is evaluated, with which projector."""

from typing import Any

import pytest
from torch import nn

from ssl_sweep.knobs import knobs
from ssl_sweep.models.encoders import Encoder
from ssl_sweep.training.declarations import evaluated_encoder
from ssl_sweep.training.health import Health, voting_projector

NARROW: dict[str, dict[str, Any]] = {
    "byol": {"hidden_dim": 16, "dim": 8},
    "featmix": {"hidden_dim": 16, "dim": 8},
    "leoclr": {"queue_size": 16},
    "moco": {"queue_size": 16},
    "moco_v3": {"hidden_dim": 16, "dim": 8},
}
AVERAGES = {"byol": "target", "featmix": "average", "leoclr": "keys.network", "moco": "keys.network", "moco_v3": "keys"}


@pytest.mark.parametrize("name", NARROW)
def test_teacher_and_student(encoder: Encoder, name: str) -> None:
    make = knobs.load("methods", name)
    teacher, student = (make(encoder, encoder_of=kind, **NARROW[name]) for kind in ("teacher", "student"))
    average = teacher.get_submodule(AVERAGES[name])
    by_projections = Health(votes_by="projections")
    assert evaluated_encoder(teacher) is average[0]
    assert voting_projector(teacher, by_projections) is average[1]
    assert evaluated_encoder(student) is student.encoder
    assert voting_projector(student, by_projections) is student.projector
    assert average[0].state_dict().keys() == student.encoder.state_dict().keys()


@pytest.mark.parametrize(
    ("name", "settings"), [("featmix", {"base": "simsiam"}), ("leoclr", {"mechanism": "end_to_end"})]
)
def test_without_an_average_there_is_no_teacher(encoder: Encoder, name: str, settings: dict[str, str]) -> None:
    (value,) = settings.values()
    with pytest.raises(ValueError, match=rf"encoder_of: {value} has no moving average; use student, or"):
        knobs.load("methods", name)(encoder, encoder_of="teacher", **settings, **NARROW[name])
    assert evaluated_encoder(knobs.load("methods", name)(encoder, **settings, **NARROW[name])) is encoder


def test_a_method_without_a_declaration_has_its_own_encoder(encoder: Encoder) -> None:
    method = knobs.load("methods", "simclr")(encoder)
    assert isinstance(method, nn.Module)
    assert evaluated_encoder(method) is encoder
