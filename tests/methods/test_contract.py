"""What every file of `methods/` promises; new files are found by themselves."""

import importlib
import inspect
import pkgutil
import re
from collections.abc import Callable
from difflib import get_close_matches
from itertools import count
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import pytest
import torch
from pydantic import TypeAdapter
from torch import Generator, Tensor, nn

import ssl_sweep.methods
from ssl_sweep.data.images import Images, Shard
from ssl_sweep.data.views import Augment
from ssl_sweep.knobs import knobs, methods
from ssl_sweep.models.encoders import ENCODERS, Encoder
from ssl_sweep.models.resnet import ResNetEncoder
from ssl_sweep.models.vit import ViTEncoder
from ssl_sweep.training import loop
from ssl_sweep.training.declarations import MethodDeclarations, declared
from ssl_sweep.training.loop import Stage
from ssl_sweep.training.optimizers import Recipe
from ssl_sweep.training.pretrain import pretrain

IMAGE_SIZE = 16
AUGMENT = Augment(IMAGE_SIZE, overlay_alpha=0.3, brightness=0.4)


def method_class(name: str) -> type[nn.Module]:
    found: type[nn.Module] = importlib.import_module(f"ssl_sweep.methods.{name}").Method
    return found


NAMES = [module.name for module in pkgutil.iter_modules(ssl_sweep.methods.__path__)]
PRETRAINING = [name for name in NAMES if methods.pretrains(name)]
OPTIONAL = get_type_hints(MethodDeclarations)


# the papers' widths prove no more
NARROW = {"dim": 128, "hidden_dim": 128, "queue_size": 16, "prototypes": 64, "decoder_dim": 32, "decoder_depth": 1}
SMALL = {ResNetEncoder: {"width": 8}, ViTEncoder: {"patch_size": 4}}


def build(name: str, seed: int = 0) -> nn.Module:
    method = method_class(name)
    widths = {knob: width for knob, width in NARROW.items() if knob in inspect.signature(method).parameters}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return method(encoder_for(method), **widths)


def encoder_for(method: type[nn.Module]) -> Encoder:
    """A small encoder of the kind that the method's annotation asks for."""
    wanted = inspect.signature(method).parameters["encoder"].annotation
    kind, widths = next((kind, widths) for kind, widths in SMALL.items() if issubclass(kind, wanted))
    fitting = next(encoder for encoder in ENCODERS.values() if issubclass(encoder, kind))
    constructor: Callable[..., Encoder] = fitting
    return constructor(IMAGE_SIZE, **widths)


def photographs(count: int) -> Images:
    """Numbered, labelled images of unequal size: half of them fill only a corner of their frame."""
    pixels = torch.randint(256, (count, 3, 20, 24), dtype=torch.uint8, generator=Generator().manual_seed(1))
    pixels[::2, :, 16:] = 0
    sizes = torch.tensor([[16, 24], [20, 24]]).repeat(count, 1)[:count]
    return Images(pixels, sizes, torch.arange(count), torch.arange(count) % 2)


def draw(method: nn.Module, count: int = 4, seed: int = 2) -> dict[str, Tensor]:
    batch: dict[str, Tensor] = method.views(photographs(count), AUGMENT, Generator().manual_seed(seed))
    return batch


def test_there_are_methods() -> None:
    assert {"autoencoder", "supervised"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_the_docstring_names_a_source(name: str) -> None:
    text = inspect.getdoc(method_class(name))
    assert text is not None
    assert re.search(r"Source: .*\b(19|20)\d\d\b", text, re.DOTALL)


@pytest.mark.parametrize("name", NAMES)
def test_knobs_are_annotated_and_have_a_default_and_a_text(name: str) -> None:
    parameters = list(inspect.signature(method_class(name)).parameters.values())
    assert parameters[0].name == "encoder"
    for knob in parameters[1:]:
        assert knob.kind is knob.KEYWORD_ONLY, f"{knob} is neither wiring nor a knob"
        assert knob.default is not knob.empty, f"{knob} has no default"
        assert get_origin(knob.annotation) is Annotated, f"{knob} has no bounds and text"
        assert any(getattr(extra, "description", None) for extra in knob.annotation.__metadata__), f"{knob} has no text"


@pytest.mark.parametrize("name", NAMES)
def test_declarations_are_of_their_types(name: str) -> None:
    for declaration, value in vars(declared(MethodDeclarations, build(name))).items():
        adapter = TypeAdapter[Any](OPTIONAL[declaration], config={"arbitrary_types_allowed": True})
        assert adapter.validate_python(value, strict=True) == value
        if callable(value) and not isinstance(value, nn.Module):
            kinds = (OPTIONAL[declaration], *get_args(OPTIONAL[declaration]))
            arguments = next(get_args(kind)[0] for kind in kinds if get_origin(kind) is Callable)
            inspect.signature(value).bind(*arguments)


@pytest.mark.parametrize("name", NAMES)
def test_no_attribute_is_nearly_a_declaration(name: str) -> None:
    others = {attribute for attribute in vars(method_class(name)) if not attribute.startswith("_")} - set(OPTIONAL)
    assert {attribute: get_close_matches(attribute, OPTIONAL, cutoff=0.8) or None for attribute in others} == (
        dict.fromkeys(others)
    )


@pytest.mark.parametrize("name", NAMES)
def test_groups_of_a_batch_are_a_knob_each(name: str) -> None:
    defaults = knobs.knobs_of(method_class(name))().model_dump()
    groups = methods.batch_groups(name, defaults)
    assert groups == {knob: defaults[knob] for knob in groups}


def test_the_baseline_does_not_pretrain() -> None:
    assert "supervised" not in PRETRAINING


@pytest.mark.parametrize("name", PRETRAINING)
@pytest.mark.parametrize("count", [2, 4, 5])
def test_a_step_has_a_finite_loss_and_gradients_that_reach_the_encoder(name: str, count: int) -> None:
    method = build(name)
    loss, scalars = method.loss(draw(method, count))
    loss.backward()
    assert loss.shape == ()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert not any(torch.as_tensor(value).requires_grad for value in scalars.values())
    gradients = [parameter.grad for parameter in method.encoder.parameters() if parameter.requires_grad]
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert sum(gradient.abs().sum() for gradient in gradients) > 0


@pytest.mark.parametrize("name", PRETRAINING)
def test_the_next_step_has_a_finite_loss(name: str) -> None:
    method = build(name)
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    for step in range(2):
        loss, _ = method.loss(draw(method, seed=step))
        assert loss.isfinite()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        declared(MethodDeclarations, method).after_step(step / 2)


@pytest.mark.parametrize("name", PRETRAINING)
def test_views_draw_from_the_generator_alone(name: str) -> None:
    method = build(name)  # torch's global generator goes on from draw to draw, so its use would show
    same, again, other = draw(method), draw(method), draw(method, seed=4)
    torch.testing.assert_close(same, again, rtol=0, atol=0)
    assert any(not torch.equal(same[key], other[key]) for key in same)


def share(whole: Images, rows: slice) -> Images:
    """One worker's rows of a batch."""

    def load(some: Tensor) -> Images:
        return Images(*(field[some] for field in whole[:4]))

    return Images(*(field[rows] for field in whole[:4]), Shard(whole.sizes, rows, load))


@pytest.mark.parametrize("name", PRETRAINING)
def test_a_workers_share_has_the_random_numbers_of_its_rows_of_the_batch(name: str) -> None:
    method = build(name)
    rngs = [Generator().manual_seed(2) for _ in range(2)]
    whole = method.views(photographs(8), AUGMENT, rngs[0])
    local = method.views(share(photographs(8), slice(4, 8)), AUGMENT, rngs[1])
    assert torch.equal(*(rng.get_state() for rng in rngs)), "draw through Images.sampler"
    assert local.keys() == whole.keys()
    for key, view in local.items():
        expected = whole[key]
        if len(view) < len(expected):  # the others, such as MoCo's orders, are of the global batch
            expected = expected.unflatten(0, (-1, 8))[:, 4:].flatten(0, 1)  # DrLIM has 8 rows per shift
        torch.testing.assert_close(view, expected, rtol=0, atol=0)


@pytest.mark.parametrize("name", PRETRAINING)
def test_the_same_seed_gives_the_same_loss(name: str) -> None:
    losses = [method.loss(draw(method))[0] for method in (build(name), build(name))]
    assert losses[0] == losses[1]
    method = build(name, seed=1)
    assert method.loss(draw(method))[0] != losses[0]


@pytest.mark.parametrize("name", PRETRAINING)
def test_the_loss_draws_nothing(name: str) -> None:
    method = build(name)
    batch = draw(method)
    before = torch.get_rng_state()
    method.loss(batch)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", PRETRAINING)
def test_bf16_autocast_leaves_a_finite_fp32_loss(name: str) -> None:
    method = build(name)
    batch = draw(method, 8)  # of fewer images, batch normalisation blows the rounding up
    with torch.autocast("cpu", torch.bfloat16):
        loss, _ = method.loss(batch)
    loss.backward()
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, method.loss(batch)[0], rtol=0.05, atol=0.01)


@pytest.mark.parametrize("name", PRETRAINING)
def test_all_that_matters_is_in_the_state(name: str) -> None:
    method, restored = build(name, seed=0), build(name, seed=1)
    loss, _ = method.loss(draw(method))
    loss.backward()
    declared(MethodDeclarations, method).after_step(0.5)
    restored.load_state_dict(method.state_dict())
    batch = draw(method, seed=5)
    assert restored.loss(batch)[0] == method.loss(batch)[0]


@pytest.mark.parametrize("name", PRETRAINING)
def test_no_gradient_reaches_what_is_not_trained(name: str) -> None:
    method = build(name)
    method.loss(draw(method))[0].backward()
    for parameter_name, parameter in method.named_parameters():
        assert parameter.requires_grad == (parameter.grad is not None), parameter_name


class EightPhotographs:
    """As much of a pack as pretraining needs."""

    def __len__(self) -> int:
        return 8

    def batch(self, indices: Tensor) -> Images:
        return Images(*(field[indices] for field in photographs(8)[:4]))


def pretrained(name: str, folder: Path, seed: int = 0, breaks_at: int | None = None) -> dict[str, Tensor]:
    """The state after two epochs of two steps; with `breaks_at` the process ends in the loss of that step."""
    method = build(name, seed)
    loss, steps = method.loss, count(1)

    def breakable(batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        if next(steps) == breaks_at:
            raise KeyboardInterrupt
        return loss(batch)

    method.loss = breakable
    recipe = Recipe(epochs=2, batch_size=4, lr=0.01)
    stage = Stage(folder, lambda metrics, step: None, 3, torch.device("cpu"))
    pretrain(method, EightPhotographs(), AUGMENT, recipe, stage, lambda epoch: None)
    return method.state_dict()


@pytest.mark.parametrize("name", PRETRAINING)
def test_broken_off_and_resumed_equals_unbroken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken = pretrained(name, tmp_path / "unbroken")
    monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", -1.0)  # after every step
    with pytest.raises(KeyboardInterrupt):
        pretrained(name, tmp_path / "broken", breaks_at=4)
    resumed = pretrained(name, tmp_path / "broken", seed=1)
    assert resumed.keys() == unbroken.keys()
    assert all(torch.equal(resumed[key], unbroken[key]) for key in unbroken)


@pytest.mark.parametrize("name", [name for name in PRETRAINING if hasattr(method_class(name), "visualize")])
def test_a_visualization_is_images(name: str) -> None:
    method = build(name).eval()
    shown = method.visualize(draw(method))
    assert shown.shape[1] == 3
    assert shown.ndim == 4
    assert 0 <= shown.min() <= shown.max() <= 1
    assert not shown.requires_grad
