"""Each mistake in an encoder fails the check that is about it, and no other."""

import re

import pytest

from .conftest import Checked, changed, failures
from .right import ENCODER

KNOBS, BUILT = "its knobs have types and defaults and texts", "it can be built on the meta device"
SHAPES, SIZES = "its shapes are those that it declares", "a size that it cannot take is refused in words"
REFUSAL = 'raise ValueError(f"image_size: {image_size} is too small; use 32 or more")'
INIT = "super().__init__(nn.Conv2d"
LAST = "(width, side, side))"

MISTAKES: dict[str, tuple[list[tuple[str, str]], str, str]] = {
    "no text": (
        [('Annotated[int, Field(ge=1, description="channels")]', "int")],
        KNOBS,
        "knob width has no text; write width: Annotated",
    ),
    "no size": ([("image_size: int", "side: int"), ("image_size", "side")], KNOBS, "takes first side; let it take"),
    "no Encoder": (
        [("class Backbone(Encoder)", "class Backbone(nn.Module)"), (INIT, "super().__init__()\n        (nn.Conv2d")],
        BUILT,
        "it is no Encoder; derive it from",
    ),
    "numbers on the meta device": (
        [(INIT, f"width = torch.tensor(width).item()\n        {INIT}"), ("from torch", "import torch\nfrom torch")],
        BUILT,
        "cannot be called on meta tensors; compute plain numbers in Python",
    ),
    "map": ([("(width, side, side)", "(width, side, 1)")], SHAPES, r"returns \(2, 8, 16, 16\), and map_shape is \(8, "),
    "features": (
        [(LAST, f"{LAST}\n        self.feature_dim = 3")],
        SHAPES,
        r"returns \(2, 8\), and feature_dim is 3; set self.feature_dim",
    ),
    "size not passed": ([("padding=1), image_size", "padding=1), 64")], SHAPES, "image_size is 64, not 32; pass it"),
    "weights beside net": (
        [(LAST, f"{LAST}\n        self.head = nn.Linear(2, 2)")],
        "its weights are below net",
        "the weight head.weight is not in self.net",
    ),
    "not trainable": (
        [("    def __init__", "    trainable = False\n\n    def __init__")],
        "it is trainable if it has weights",
        "trainable is False, and it has weights; set trainable = True",
    ),
    "refused without remedy": (
        [(REFUSAL, 'raise ValueError("too small")')],
        SIZES,
        "for 8 pixels is 'too small'; name",
    ),
    "refused by a trace": (
        [(REFUSAL, "raise KeyError(image_size)")],
        SIZES,
        "raises KeyError for 8 pixels: 8; raise V",
    ),
    "found too late": (
        [
            (REFUSAL, "pass"),
            ("nn.Conv2d(3, width, 3, stride=2, padding=1)", "nn.Conv2d(3, width, 20)"),
            ("(image_size + 1) // 2", "image_size - 19"),
        ],
        SIZES,
        "it is built for 8 pixels, and then raises RuntimeError: .*; raise ValueError",
    ),
}


def test_a_right_encoder_keeps_its_contract(checked: Checked) -> None:
    findings = checked("encoders", ENCODER)
    assert {finding.result for finding in findings} == {"holds"}, failures(findings)
    assert len(findings) == 7


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_fails_its_check_alone(checked: Checked, mistake: str) -> None:
    changes, check, message = MISTAKES[mistake]
    findings = checked("encoders", changed(ENCODER, *changes))
    assert list(failures(findings)) == [check], failures(findings)
    [failure] = (finding for finding in findings if finding.result == "fails")
    assert re.search(message, failure.message), failure.message
    assert failure.place is not None
    assert "/encoders/mine.py:" in failure.place
