"""What a step of every method that pretrains promises: its loss, its gradients, its random numbers."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Generator, Tensor

from ssl_sweep.contracts import made_images
from ssl_sweep.contracts.contract import ContractError, require
from ssl_sweep.contracts.knob_checks import checked_knobs
from ssl_sweep.contracts.method_class import MethodPlugin
from ssl_sweep.data.images import Images, Shard
from ssl_sweep.knobs import methods
from ssl_sweep.training.declarations import MethodDeclarations, declared

Plugin = MethodPlugin
SAMPLER = "draw through images.sampler(rng)"


def the_loss_is_one_finite_fp32_number(plugin: Plugin) -> None:
    method = plugin.build()
    batch = method.views(made_images.batch(4), plugin.augment, Generator().manual_seed(2))
    wrong = not isinstance(batch, dict) or [name for name, view in batch.items() if not isinstance(view, Tensor)]
    require(not wrong, "views returns no dict of tensors; return {name: tensor}", plugin.method.views)
    check_loss(plugin, method.loss(batch))


def check_loss(plugin: Plugin, outcome: Any) -> Tensor:
    """The loss, if what `loss` returned is a finite fp32 number and a dict of detached numbers."""
    at = plugin.method.loss
    remedy = "return (loss, {name: number})"
    is_pair = isinstance(outcome, tuple) and len(outcome) == 2 and isinstance(outcome[1], dict)
    require(is_pair and isinstance(outcome[0], Tensor), f"loss returns {type(outcome).__name__}; {remedy}", at)
    loss: Tensor = outcome[0]
    require(loss.shape == (), f"the loss has shape {tuple(loss.shape)}; reduce it by .mean()", at)
    remedy = "compute it in fp32, by .float() or under models.precision.full_precision"
    require(loss.dtype == torch.float32, f"the loss is in {_short(loss.dtype)}; {remedy}", at)
    remedy = "divisions by 0, logarithms of 0 and deviations of one number give such a loss"
    require(bool(loss.isfinite()), f"the loss is {loss.item()}; {remedy}", at)
    for name, value in outcome[1].items():
        attached = torch.as_tensor(value).requires_grad
        require(not attached, f"the logged {name} carries a gradient; return {name}.detach()", at)
    return loss


def gradients_reach_the_encoder(plugin: Plugin) -> None:
    _train_on(plugin, 4)


def a_batch_of_two_trains_the_encoder(plugin: Plugin) -> None:
    _train_on(plugin, 2)


def an_odd_batch_trains_the_encoder(plugin: Plugin) -> None:
    _train_on(plugin, 5)


def _train_on(plugin: Plugin, count: int) -> None:
    method = plugin.build()
    loss = check_loss(plugin, method.loss(plugin.draw(method, count)))
    remedy = "remove .detach() and no_grad between the encoder and the loss"
    require(loss.requires_grad, f"the loss has no gradient; {remedy}", plugin.method.loss)
    loss.backward()  # type: ignore[no-untyped-call]
    gradients = {name: weight.grad for name, weight in method.encoder.named_parameters() if weight.requires_grad}
    reached = [gradient for gradient in gradients.values() if gradient is not None]
    moved = sum(float(gradient.abs().sum()) for gradient in reached)
    require(bool(reached) and moved != 0, f"no gradient reaches the encoder; {remedy}", plugin.method.loss)
    for name, gradient in gradients.items():
        words = f"no gradient reaches the encoder's {name}; use all of it, or freeze it by requires_grad_(False)"
        if gradient is None:
            raise ContractError(words, plugin.method.loss)
        remedy = "roots and norms have none at 0: add a small number inside"
        finite = bool(gradient.isfinite().all())
        require(finite, f"the gradient of the encoder's {name} is not finite; {remedy}", plugin.method.loss)


def what_is_not_trained_gets_no_gradient(plugin: Plugin) -> None:
    method = plugin.build()
    method.loss(plugin.draw(method))[0].backward()
    for name, parameter in method.named_parameters():
        words = f"{name} wants a gradient and gets none; use it in the loss, or freeze it by requires_grad_(False)"
        require(parameter.requires_grad == (parameter.grad is not None), words, plugin.method)


def the_next_step_has_a_finite_loss(plugin: Plugin) -> None:
    method = plugin.build()
    optimizer = torch.optim.SGD(method.parameters(), lr=0.01)
    for step in range(2):
        loss = check_loss(plugin, method.loss(plugin.draw(method, seed=step)))
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        declared(MethodDeclarations, method).after_step(step / 2)


def images_without_labels_have_a_finite_loss(plugin: Plugin) -> None:
    if methods.needs_labels(plugin.name, checked_knobs(plugin.method, plugin.small.knobs, plugin.name)):
        return
    method = plugin.build()
    images = made_images.batch(4, labelled=False)
    try:
        outcome = method.loss(method.views(images, plugin.augment, Generator().manual_seed(2)))
        check_loss(plugin, outcome)
    except Exception as error:
        words = f"of images whose label is -1, for none, {type(error).__name__}: {error}"
        remedy = "leave labels alone, or declare needs_labels(settings), so that a sweep without any is refused"
        raise ContractError(f"{words}; {remedy}", plugin.method.loss) from error


def views_draw_from_the_generator_alone(plugin: Plugin) -> None:
    at, method = plugin.method.views, plugin.build()
    before = torch.get_rng_state()
    same = plugin.draw(method)
    unused = torch.equal(torch.get_rng_state(), before)
    require(unused, f"views draw from torch's global generator; {SAMPLER}", at)
    again, other = plugin.draw(method), plugin.draw(method, seed=4)
    words = f"of one generator differ between two calls; random and numpy.random are not the trial's: {SAMPLER}"
    require(_equal(same, again), f"views {words}", at)
    require(not _equal(same, other), f"views of two generators are the same; {SAMPLER}", at)


def a_share_of_the_batch_has_the_random_numbers_of_its_rows(plugin: Plugin) -> None:
    at, method, images = plugin.method.views, plugin.build(), made_images.batch(8)
    rngs = [Generator().manual_seed(2) for _ in range(2)]
    whole = method.views(images, plugin.augment, rngs[0])
    local = method.views(_share(images, slice(4, 8)), plugin.augment, rngs[1])
    words = "a worker with half of the batch draws other numbers than one with all of it"
    require(torch.equal(rngs[0].get_state(), rngs[1].get_state()), f"{words}; {SAMPLER}", at)
    require(local.keys() == whole.keys(), f"a share has views {[*local]}, the batch {[*whole]}; return the same", at)
    for name, view in local.items():
        expected = whole[name]
        if len(view) < len(expected):  # the others, such as orders, are of the global batch
            # a method may have several rows an image
            expected = expected.unflatten(0, (-1, 8))[:, 4:].flatten(0, 1) if len(expected) % 8 == 0 else expected
        remedy = "for what needs the whole batch, images.global_batch() has it"
        require(torch.equal(view, expected), f"{name}: {words}; {SAMPLER}; {remedy}", at)


def _share(whole: Images, rows: slice) -> Images:
    """One worker's rows of a batch."""

    def load(some: Tensor) -> Images:
        return made_images.photographs(len(whole.sizes)).batch(some)

    local = load(torch.arange(len(whole.sizes))[rows])
    return local._replace(shard=Shard(whole.sizes, rows, load))


def the_seed_decides_the_loss(plugin: Plugin) -> None:
    def loss(seed: int) -> float:
        method = plugin.build(seed)
        return float(method.loss(plugin.draw(method))[0].detach())

    first = loss(0)
    remedy = "draw weights by torch alone, whose seed is the trial's"
    require(first == loss(0), f"two methods of one seed have different losses; {remedy}", plugin.method)
    remedy = "let the constructor leave the seed alone, and loss use the encoder"
    require(first != loss(1), f"two methods of different seeds have the same loss; {remedy}", plugin.method)


def the_loss_draws_nothing(plugin: Plugin) -> None:
    method = plugin.build()
    batch = plugin.draw(method)
    before = torch.get_rng_state()
    method.loss(batch)
    remedy = "draw in views, through images.sampler(rng), and return the numbers with the views"
    same = torch.equal(torch.get_rng_state(), before)
    require(same, f"the loss draws from torch's global generator; {remedy}", plugin.method.loss)


def bf16_autocast_leaves_a_finite_fp32_loss(plugin: Plugin) -> None:
    method = plugin.build()
    batch = plugin.draw(method, 8)  # of fewer images, batch normalisation blows the rounding up
    with torch.autocast("cpu", torch.bfloat16):
        outcome = method.loss(batch)
    loss = check_loss(plugin, outcome)
    loss.backward()  # type: ignore[no-untyped-call]
    expected = method.loss(batch)[0]
    words = f"the loss is {loss.item():.4g} with bf16 and {expected.item():.4g} without"
    remedy = "compute losses and similarities in fp32, under models.precision.full_precision"
    close = torch.isclose(loss, expected, rtol=0.05, atol=0.01)
    require(bool(close), f"{words}; {remedy}", plugin.method.loss)


def a_visualization_is_images(plugin: Plugin) -> None:
    method = plugin.build().eval()
    at, shown = plugin.method.visualize, method.visualize(plugin.draw(method))
    shape = tuple(shown.shape)
    require(len(shape) == 4 and shape[1] == 3, f"visualize returns shape {shape}; return images (N, 3, H, W)", at)
    low, high = float(shown.min()), float(shown.max())
    require(0 <= low <= high <= 1, f"visualize returns values from {low:.3g} to {high:.3g}; clamp them to [0, 1]", at)
    require(not shown.requires_grad, "visualize returns a gradient; put it under torch.no_grad()", at)


def _equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def _short(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
