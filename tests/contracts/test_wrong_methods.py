"""Each mistake in a method fails the check that is about it, and no other, in words that say what to do."""

import re

import pytest

from .conftest import Checked, changed, failures
from .right import METHOD

NOISE = 'Annotated[float, Field(ge=0, description="standard deviation")] = 0.1'
HEAD = "self.head = nn.Linear(encoder.feature_dim, 8)"
NOISY = "images.sampler(rng).randn(*first.shape[1:])"
SQUARES = "(one - other).square().mean()"
WHOLE = "it has views and a loss"
KNOBS, DECLARED = "its knobs have types and defaults and texts", "its declarations have their types"
LOSS, VIEWS = "the loss is one finite fp32 number", "views draw from the generator alone"
STATE, SEED = "all that matters is in the state", "the seed decides the loss"
SHOWN, BUILT = "a visualization is images", "it can be built"

MISTAKES: dict[str, tuple[list[tuple[str, str]], str, str]] = {
    "no text": ([(NOISE, "float = 0.1")], KNOBS, "knob noise has no text; write noise: Annotated"),
    "no default": ([(f"{NOISE}", NOISE.removesuffix(" = 0.1"))], KNOBS, "knob noise has no default; give it one"),
    "no star": ([("encoder: Encoder, *, noise", "encoder: Encoder, noise")], KNOBS, r"put `\*` before it"),
    "no encoder": ([("encoder: Encoder, *", "net: Encoder, *")], KNOBS, "takes first net; let it take .encoder"),
    "default out of bounds": ([("] = 0.1", "] = -1.0")], KNOBS, r"noise: -1.0: .*; correct CHECK, or the default"),
    "near views": (
        [("def views", "def view")],
        WHOLE,
        r"Method has no `views`; rename `view` in .*/methods/mine.py",
    ),
    "no views, no loss": (
        [("def views", "def drawn"), ("def loss", "def energy")],
        WHOLE,
        r"no `views`; define views\(self, images, augment, rng\), and has no `loss`; define loss\(self, batch\) in ",
    ),
    "near declaration": (
        [("def after_step", "def after_steps")],
        "no attribute is nearly a declaration",
        "after_steps is nearly the declaration after_step; call it so",
    ),
    "groups": (
        [("    def views", '    batch_groups = staticmethod(lambda settings: {"splits": 2})\n\n    def views')],
        "groups of a batch are knobs",
        "{'splits': 2}, which is no knob",
    ),
    "encoder not kept": (
        [("self.encoder, self.noise = encoder", "self.net, self.noise = encoder")],
        BUILT,
        "self.encoder is NoneType; keep the argument as self.encoder",
    ),
    "constructor raises": (
        [(HEAD, "self.head = nn.Linear(encoder.feature_dim, 8, 9, 10, 11)")],
        BUILT,
        "the constructor raises TypeError: .*; if it needs other knobs, encoder or image_size, name them in CHECK",
    ),
    "numbers on the meta device": (
        [("super().__init__()", "super().__init__()\n        noise = torch.tensor(noise).item()")],
        "it can be built on the meta device",
        "item.* cannot be called on meta tensors; compute plain numbers in Python",
    ),
    "type of a declaration": (
        [("    def views", '    num_pictures = "all"\n\n    def views')],
        DECLARED,
        "num_pictures is 'all', which is not int",
    ),
    "arguments of a declaration": (
        [("def after_step(self, progress)", "def after_step(self)")],
        DECLARED,
        r"after_step\(\) cannot be called; let it take 1 argument",
    ),
    "no dict of views": (
        [('return {"first": first', 'return [first]\n        return {"first": first')],
        LOSS,
        "no dict",
    ),
    "loss alone": ([("return loss, {", "return loss\n        return loss, {")], LOSS, "loss returns Tensor; return "),
    "loss by image": ([(SQUARES, "(one - other).square().mean(1)")], LOSS, r"the loss has shape \(4,\); reduce it"),
    "not a number": ([(SQUARES, f"{SQUARES} * float('nan')")], LOSS, "the loss is nan; "),
    "attached scalar": ([("one.detach().square()", "one.square()")], LOSS, r"return spread.detach\(\)"),
    "views raise": ([(NOISY, "nothing")], LOSS, "the plugin raises NameError: name 'nothing' is not defined"),
    "detached": (
        [("self.encoder(batch[name])", "self.encoder(batch[name]).detach()")],
        "gradients reach the encoder",
        r"no gradient reaches the encoder; remove .detach\(\)",
    ),
    "deviation of one": (
        [(SQUARES, f"{SQUARES} + one.chunk(2)[0].std(0).mean()")],
        "a batch of two trains the encoder",
        "the loss is nan; .*deviations of one number",
    ),
    "halves": (
        [(SQUARES, f"{SQUARES} + one.view(2, -1, 8).mean()")],
        "an odd batch trains the encoder",
        "the plugin raises RuntimeError: shape",
    ),
    "unused weights": (
        [(HEAD, f"{HEAD}\n        self.spare = nn.Linear(2, 2)")],
        "what is not trained gets no gradient",
        "spare.weight wants a gradient and gets none",
    ),
    "grows": (
        [("self.center.mul_(0.9)", 'self.center.fill_(float("inf"))')],
        "the next step has a finite loss",
        "the loss is inf",
    ),
    "labels": (
        [
            (SQUARES, f'{SQUARES} + F.one_hot(batch["label"], 2).float().mean()'),
            ('"second": second}', '"second": second, "label": images.labels}'),
        ],
        "images without labels have a finite loss",
        r"label is -1, for none, RuntimeError: .*declare needs_labels\(settings\)",
    ),
    "global generator": (
        [(NOISY, "torch.randn(first.shape)")],
        VIEWS,
        r"views draw from torch's global generator; draw through images.sampler\(rng\)",
    ),
    "numpy's generator": (
        [(NOISY, "float(numpy.random.rand())"), ("import torch\n", "import numpy\nimport torch\n")],
        VIEWS,
        "views of one generator differ between two calls; random and numpy.random",
    ),
    "no generator": (
        [(NOISY, "0.1"), ("augment.view(images, rng)", "augment.view(images, torch.Generator().manual_seed(3))")],
        VIEWS,
        "views of two generators are the same",
    ),
    "a worker's own numbers": (
        [(NOISY, "torch.randn(first.shape, generator=rng)")],
        "a share of the batch has the random numbers of its rows",
        "a worker with half of the batch draws other numbers than one with all of it",
    ),
    "dropout": (
        [(SQUARES, "(F.dropout(one) - other).square().mean()")],
        "the loss draws nothing",
        "the loss draws from torch's global generator; draw in views",
    ),
    "weights of another generator": (
        [
            (HEAD, f"{HEAD}\n        nn.init.constant_(self.head.weight, random.random())"),
            ("import torch\n", "import random\nimport torch\n"),
        ],
        SEED,
        "two methods of one seed have different losses; draw weights by torch alone",
    ),
    "a seed of its own": (
        [(HEAD, f"{HEAD}\n        for weight in self.parameters():\n            nn.init.constant_(weight, 0.01)")],
        SEED,
        "two methods of different seeds have the same loss",
    ),
    "loss in bf16": (
        [("one.float(), other.float()", "one, other"), ("self.center)", "self.center.to(one.dtype))")],
        "bf16 autocast leaves a finite fp32 loss",
        r"the loss is in bfloat16; compute it in fp32, by .float\(\)",
    ),
    "buffer not persistent": (
        [('"center", torch.zeros(8)', '"center", torch.zeros(8), persistent=False')],
        STATE,
        "center is a buffer with persistent=False",
    ),
    "state as an attribute": (
        [('self.register_buffer("center", torch.zeros(8))', "self.center = torch.zeros(8)")],
        STATE,
        r"center is an attribute; register it: self.register_buffer\('center'",
    ),
    "counter": (
        [
            (HEAD, f"{HEAD}\n        self.steps = 0"),
            (SQUARES, f"{SQUARES} * (1 + (self.steps > 1))"),
            ("self.center.mul_", "self.steps += 1; self.center.mul_"),
        ],
        "a resumed run ends as an unbroken one",
        "that is stopped and resumed ends with other values of .*; keep all that a later step needs",
    ),
    "shape of pictures": ([("clamp(0, 1)", "clamp(0, 1)[0]")], SHOWN, r"shape \(3, 16, 16\); return images"),
    "range of pictures": ([("clamp(0, 1)", "mul(3)")], SHOWN, r"clamp them to \[0, 1\]"),
    "CHECK": ([('"image_size": 16', '"image_sizes": 16')], "it can be imported", "CHECK: image_sizes: .*any of knobs"),
    "no Method": ([("class Method", "class Methods")], "it can be imported", "has no `Method`; define it there"),
    "syntax": ([("super().__init__()", "super(.__init__()")], "it can be imported", r"mine.py:\d+: invalid syntax"),
}


def test_a_right_method_keeps_its_contract(checked: Checked) -> None:
    findings = checked("methods", METHOD)
    assert {finding.result for finding in findings} == {"holds"}, failures(findings)
    assert len(findings) == 23


@pytest.mark.filterwarnings("ignore:std")
@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_fails_its_check_alone(checked: Checked, mistake: str) -> None:
    changes, check, message = MISTAKES[mistake]
    findings = checked("methods", changed(METHOD, *changes))
    assert list(failures(findings)) == [check], failures(findings)
    [failure] = (finding for finding in findings if finding.result == "fails")
    assert re.search(message, failure.message), failure.message
    assert failure.place is None or "/methods/mine.py:" in failure.place


def test_an_exception_is_shown_at_its_line_in_the_plugin(checked: Checked) -> None:
    text = changed(METHOD, (NOISY, "nothing"))
    [failure] = (finding for finding in checked("methods", text) if finding.result == "fails")
    line = next(number for number, words in enumerate(text.splitlines(), start=1) if "nothing" in words)
    assert failure.place is not None
    assert failure.place.endswith(f"/methods/mine.py:{line}")
    assert "Traceback" in failure.trace


def test_checks_that_need_a_failed_one_are_not_run(checked: Checked) -> None:
    findings = checked("methods", changed(METHOD, (NOISY, "torch.randn(first.shape)")))
    waiting = {finding.check: finding.message for finding in findings if finding.result == "not checked"}
    assert waiting[SEED] == f"needs: {VIEWS}"


def test_a_check_that_hangs_ends_after_its_time(checked: Checked) -> None:
    text = changed(METHOD, ("super().__init__()", "super().__init__()\n        while True:\n            pass"))
    failed = failures(checked("methods", text, limit_s=1.0))
    assert "it has run for 1 s, and was ended" in failed[BUILT]


def test_a_method_without_pretraining_makes_no_steps(checked: Checked) -> None:
    text = changed(METHOD, ("    def views", "    pretrains = False\n\n    def views"))
    assert len(checked("methods", text)) == 7
