"""Two ranks train as one does: the same losses, weights and statistics, for every method, and over a resume."""

import inspect
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from ssl_sweep.data.pack import Pack
from ssl_sweep.data.views import Augment
from ssl_sweep.knobs import knobs, methods
from ssl_sweep.models.distributed import Dismissed, rank
from ssl_sweep.models.encoders import ENCODERS, Encoder, build_encoder
from ssl_sweep.models.resnet import ResNetEncoder
from ssl_sweep.models.vit import ViTEncoder
from ssl_sweep.training import loop
from ssl_sweep.training.loop import Diverged, Epoch, Stage, Stop
from ssl_sweep.training.optimizers import Recipe
from ssl_sweep.training.pretrain import pretrain

CPU = torch.device("cpu")
SIZE = 16
RECIPE = Recipe(epochs=1, batch_size=8, lr=0.01, clip_norm=1.0)
VIEWS: dict[str, Any] = {
    "overlay_alpha": 0.3, "mask_ratio": 0.25, "mask_patch": 4, "mask_fill": "mean", "brightness": 0.4, "contrast": 0.4,
    "saturation": 0.4, "hue": 0.1, "gray": 0.2, "blur": 0.5, "solarize": 0.2,
}  # fmt: skip
NARROW = {"dim": 8, "hidden_dim": 16, "queue_size": 16, "prototypes": 8, "decoder_dim": 16, "decoder_depth": 1}
METHODS = [name for name in knobs.names("methods") if methods.pretrains(name)]
OTHER_SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "moco, plain": ("moco", {"key_batch_norm": "plain", "symmetric": True}),
    "moco, split": ("moco", {"key_batch_norm": "split", "bn_splits": 2}),
    "leoclr, end to end": ("leoclr", {"mechanism": "end_to_end"}),
    "featmix, others in the mask": ("featmix", {"mask_fill": "other", "mix_site": "projection", "base": "simsiam"}),
    "featmix, images": ("featmix", {"mix_site": "image", "target": "maximum"}),
    "drlim, by label": ("drlim", {"pairs": "label"}),
    "swav, queue in use": ("swav", {"queue_size": 8, "queue_start": 0.0, "frozen_steps": 1, "local_crops": 1}),
    "views, others in the mask": ("simclr", {}),
    "dino, small crops": ("dino", {"local_crops": 2}),
    "dino, patches of a transformer": (
        "dino",
        {"local_crops": 1, "patch_weight": 1.0, "patch_mask_min": 0.2, "batch_norm": True},
    ),
}
CASES = {name: (name, {}) for name in METHODS} | OTHER_SETTINGS
# of a library: its normalisations have activations of their own, and the map leaves weights unused
CASES |= {f"{name}, of timm": (name, {}) for name in ("autoencoder", "moco", "simclr")}


def photographs(count: int = 20) -> Pack:
    """Labelled images of two sizes."""
    rng = np.random.default_rng(0)
    sizes = np.array([[16, 24], [20, 18]] * (count // 2))
    pixels = rng.integers(256, size=int(3 * sizes.prod(axis=1).sum()), dtype=np.uint8)
    return Pack(pixels, sizes, torch.arange(count) % 2, ("a", "b"), ())


def build(case: str) -> nn.Module:
    """In fp64: rounding in fp32 would hide a small mistake."""
    name, settings = CASES[case]
    method = knobs.load("methods", name)
    parameters = inspect.signature(method).parameters
    torch.manual_seed(0)
    wanted = parameters["encoder"].annotation
    encoder: Encoder
    if case.endswith("of timm"):
        encoder = build_encoder({"name": "timm/mobilenetv3_small_050"}, SIZE)
    elif case.endswith("of a transformer") or (
        wanted is not inspect.Parameter.empty and issubclass(wanted, ViTEncoder)
    ):
        encoder = ENCODERS["vit_tiny"](SIZE, patch_size=4)
    else:
        assert issubclass(ResNetEncoder, wanted)
        encoder = ENCODERS["resnet18"](SIZE, width=4)
    narrow = {knob: value for knob, value in NARROW.items() if knob in parameters}
    built = method(encoder, **{**narrow, **settings}).double()
    views = built.views

    def double(*wiring: Any) -> dict[str, Tensor]:
        return {name: x.double() if x.is_floating_point() else x for name, x in views(*wiring).items()}

    built.views = double
    return built


def train(
    case: str,
    folder: Path,
    recipe: Recipe = RECIPE,
    after: Callable[[Epoch], None] = lambda epoch: None,
    at_step: Callable[[], Any] = lambda: None,
    times: float = 1.0,
) -> dict[str, Any]:
    """What pretraining leaves: the state of the method, and the last epoch's metrics.

    The loss is multiplied by `times` where `at_step` gives something true.
    """
    fill = {"mask_fill": "other"} if case.startswith("views") else {}
    folder.mkdir(exist_ok=True)
    method = build(case)
    loss = method.loss

    def of_step(batch: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        factor = times if at_step() else 1.0
        value, scalars = loss(batch)
        return value * factor, scalars

    method.loss = of_step
    stage = Stage(folder, lambda metrics, step: None, 3, CPU)
    metrics = pretrain(method, photographs(), Augment(SIZE, **VIEWS | fill), recipe, stage, after)
    del metrics["images_per_second"]
    return {"metrics": metrics, "state": {name: x.clone() for name, x in method.state_dict().items()}}


def on_two_ranks(work: Callable[[Path], Any], folder: Path) -> list[Any]:
    """What `work(folder)` returns on each of two ranks."""
    folder.mkdir()
    context = mp.get_context("spawn")
    ranks = [context.Process(target=_rank, args=(index, work, folder)) for index in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(240)
        process.kill()
    found = [torch.load(folder / f"{index}.pt", weights_only=False) for index in range(2)]
    for each in found:
        assert not isinstance(each, str), each
    return found


def _rank(index: int, work: Callable[[Path], Any], folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=index, world_size=2)
    try:
        found = work(folder)
    except Exception:
        found = traceback.format_exc()
    torch.save(found, folder / f"{index}.pt")


RESUMED = ("simsiam", "moco, split")
TWO_EPOCHS = replace(RECIPE, epochs=2)


def stop_after_the_first(epoch: Epoch) -> None:
    if epoch.number == 1:
        raise Stop("enough")


def begun(case: str, folder: Path) -> str:
    """One of two epochs; what ended it."""
    try:
        train(case, folder, TWO_EPOCHS, stop_after_the_first)
    except (Stop, Dismissed) as error:
        return type(error).__name__
    return "nothing"


def broken_off(case: str, folder: Path) -> None:
    """Ends in the loss of the last of four steps, with a checkpoint of the third, in the middle of an epoch."""
    loop.SAVE_EVERY_SECONDS, loop.CHECK_EVERY_STEPS = -1.0, 1
    steps = 0

    def broken() -> None:
        nonlocal steps
        steps += 1
        if steps == 4:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(case, folder, TWO_EPOCHS, at_step=broken)
    loop.SAVE_EVERY_SECONDS, loop.CHECK_EVERY_STEPS = 300.0, 50


def message_of(kind: type[Exception], function: Callable[[], Any]) -> str:
    with pytest.raises(kind) as caught:
        function()
    return str(caught.value)


def everything(folder: Path) -> dict[str, Any]:
    """What two ranks do, in one pair of processes: to start them takes longer."""
    found: dict[str, Any] = {case: train(case, folder / case) for case in CASES}
    for case in RESUMED:
        found[f"{case}, unbroken"] = train(case, folder / f"{case}, unbroken", TWO_EPOCHS)
        found[f"{case}, from one"] = train(case, folder.parent / f"{case}, by one", TWO_EPOCHS)
        found[f"{case}, ended by"] = begun(case, folder / f"{case}, begun")
        found[f"{case}, again"] = train(case, folder / f"{case}, begun", TWO_EPOCHS)
        begun(case, folder / f"{case}, to one")
        broken_off(case, folder / f"{case}, broken")
        found[f"{case}, whole"] = train(case, folder / f"{case}, broken", TWO_EPOCHS)
        broken_off(case, folder / f"{case}, broken to one")
    odd = replace(RECIPE, batch_size=7)
    found["odd"] = message_of(ValueError, lambda: train("simsiam", folder / "odd", odd))
    found["nan"] = message_of(Diverged, lambda: train("simsiam", folder / "nan", at_step=rank, times=torch.nan))
    found["of their own"] = train("simsiam", folder / "own", replace(RECIPE, sync_batchnorm=False))
    return found


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[Any], Path]:
    """What both ranks found, and the folder they did it in, beside which one rank has begun two trainings."""
    folder = tmp_path_factory.mktemp("ranks")
    for case in RESUMED:
        assert begun(case, folder / f"{case}, by one") == "Stop"
    return on_two_ranks(everything, folder / "two"), folder / "two"


def assert_close(two: dict[str, Any], one: dict[str, Any], case: str) -> None:
    assert two["metrics"] == pytest.approx(one["metrics"], rel=1e-6), case
    assert two["state"].keys() == one["state"].keys(), case
    for name, value in one["state"].items():
        message = f"{case}, {name}: {{}}".format
        torch.testing.assert_close(two["state"][name], value, rtol=1e-6, atol=1e-9, msg=message)


def assert_same(first: dict[str, Any], second: dict[str, Any], case: str) -> None:
    assert first["metrics"] == second["metrics"], case
    for name, value in first["state"].items():
        assert torch.equal(value, second["state"][name]), f"{case}, {name}"


@pytest.mark.parametrize("case", CASES)
def test_two_ranks_end_where_one_does(ranks: tuple[list[Any], Path], case: str, tmp_path: Path) -> None:
    (first, second), _ = ranks
    assert_close(first[case], train(case, tmp_path), case)
    assert_same(first[case], second[case], case)


@pytest.mark.parametrize("case", RESUMED)
def test_stopped_by_rank_0_and_resumed_equals_unbroken(ranks: tuple[list[Any], Path], case: str) -> None:
    (first, second), _ = ranks
    assert (first[f"{case}, ended by"], second[f"{case}, ended by"]) == ("Stop", "Dismissed")
    assert_same(first[f"{case}, again"], first[f"{case}, unbroken"], case)
    assert_same(first[f"{case}, whole"], first[f"{case}, unbroken"], f"{case} in the middle of an epoch")
    assert_same(first[f"{case}, again"], second[f"{case}, again"], case)


@pytest.mark.parametrize("case", RESUMED)
def test_another_number_of_ranks_goes_on(ranks: tuple[list[Any], Path], case: str, tmp_path: Path) -> None:
    (first, _), folder = ranks
    unbroken = train(case, tmp_path, TWO_EPOCHS)
    assert_close(first[f"{case}, from one"], unbroken, f"{case}, one and then two")
    assert_close(train(case, folder / f"{case}, to one", TWO_EPOCHS), unbroken, f"{case}, two and then one")
    middle = train(case, folder / f"{case}, broken to one", TWO_EPOCHS)
    assert_close(middle, unbroken, f"{case}, two and in the middle of an epoch one")


def test_a_batch_that_cannot_be_shared_evenly_is_refused(ranks: tuple[list[Any], Path]) -> None:
    for found in ranks[0]:
        assert "2 workers cannot share a batch of 7 images evenly" in found["odd"]


def test_what_one_rank_alone_sees_diverge_ends_both(ranks: tuple[list[Any], Path]) -> None:
    for found in ranks[0]:
        assert found["nan"].startswith("loss is nan in epoch 1")


def test_statistics_of_their_own_are_shared_by_the_ranks_in_the_end(ranks: tuple[list[Any], Path]) -> None:
    (first, second), _ = ranks
    assert_same(first["of their own"], second["of their own"], "simsiam")
    assert first["of their own"]["metrics"]["loss"] != pytest.approx(first["simsiam"]["metrics"]["loss"], rel=1e-3)
