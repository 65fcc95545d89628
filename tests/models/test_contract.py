"""What every encoder of the table promises; new ones are found by themselves."""

import inspect

import pytest
import torch

from ssl_sweep.knobs import knobs
from ssl_sweep.models.encoders import ENCODERS, Encoder, build_encoder

SIZE = 32


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest) -> Encoder:
    """Without memory for its weights: shapes and names are all that is looked at."""
    with torch.device("meta"):
        return build_encoder({"name": request.param}, SIZE).eval()


def test_its_shapes_are_those_that_it_declares(encoder: Encoder) -> None:
    images = torch.empty(2, 3, SIZE, SIZE, device="meta")
    assert encoder.image_size == SIZE
    assert encoder.feature_map(images).shape == (2, *encoder.map_shape)
    assert encoder(images).shape == (2, encoder.feature_dim)


def test_it_is_trainable_if_it_has_weights_and_they_are_in_its_net(encoder: Encoder) -> None:
    names = [name for name, _ in encoder.named_parameters()]
    assert encoder.trainable == bool(names)
    assert all(name.startswith("net.") for name in names)


@pytest.mark.parametrize("name", ENCODERS)
def test_its_knobs_have_a_default_and_a_text(name: str) -> None:
    first, *others = inspect.signature(ENCODERS[name]).parameters.values()
    assert first.name == "image_size"
    assert all(knob.kind is knob.KEYWORD_ONLY and knob.default is not knob.empty for knob in others)
    fields = knobs.knobs_of(ENCODERS[name]).model_fields
    assert [knob for knob, field in fields.items() if not field.description] == []
