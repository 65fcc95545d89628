"""MAE: the loss to the formula, that hidden patches stay hidden, and what it shows."""

import pytest
import torch
from torch import Generator, Tensor

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.mae import Method, patchify, unpatchify
from ssl_sweep.models.encoders import ENCODERS

SMALL = {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2}


def build(**knobs: float) -> Method:
    """Sixteen patches of 4x4, of which twelve are masked."""
    torch.manual_seed(0)
    return Method(ENCODERS["vit_tiny"](16, patch_size=4), **SMALL | knobs)


def draw(method: Method, images: Images, count: int = 2, **knobs: float) -> dict[str, Tensor]:
    some = Images(images.pixels[:count], images.sizes[:count])
    return method.views(some, Augment(16, **knobs), Generator().manual_seed(2))


def patch_of(images: Tensor, row: int, number: int) -> Tensor:
    """The values of one patch, channel by channel, of a 4x4 grid numbered row by row."""
    y, x = divmod(number, 4)
    return images[row, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4].reshape(-1)


@pytest.mark.parametrize("normalize_target", [True, False])
@torch.no_grad()
def test_the_loss_is_the_papers(images: Images, normalize_target: bool) -> None:
    """He et al. 2022, section 3: the squared error over the masked patches alone, of pixels or normalised pixels."""
    method = build(normalize_target=normalize_target).double()
    batch = draw(method, images)
    batch |= {name: batch[name].double() for name in ("input", "target")}
    output = method.reconstruct(method.encode(batch), batch["order"])
    total, masked = 0.0, 0
    for row, order in enumerate(batch["order"].tolist()):
        for number in order[4:]:
            target = patch_of(batch["target"], row, number).tolist()
            if normalize_target:
                mean = sum(target) / 48
                variance = sum((value - mean) ** 2 for value in target) / 47
                target = [(value - mean) / (variance + 1e-6) ** 0.5 for value in target]
            total += sum((a - b) ** 2 for a, b in zip(output[row, number].tolist(), target, strict=True)) / 48
            masked += 1
    loss, scalars = method.loss(batch)
    assert masked == 24
    assert abs(loss - total / masked) < 1e-10
    assert set(scalars) == {"feature_std"}


def test_the_encoder_sees_the_visible_patches_only(images: Images) -> None:
    method = build().eval()
    batch = draw(method, images)
    image = batch["input"].clone().requires_grad_()
    method.loss({**batch, "input": image})[0].backward()
    for row, order in enumerate(batch["order"].tolist()):
        touched = [bool(patch_of(image.grad, row, number).any()) for number in order]
        assert touched == [True] * 4 + [False] * 12


def test_three_quarters_are_masked_anew_for_each_image(images: Images) -> None:
    order = draw(build(), images, count=8)["order"]
    assert torch.equal(order.sort(dim=1).values, torch.arange(16).expand(8, -1))
    assert len({tuple(sorted(row[:4])) for row in order.tolist()}) > 4


@torch.no_grad()
def test_visible_tokens_and_mask_tokens_come_to_their_places(images: Images) -> None:
    """Without blocks, a place's output depends on its own token and position alone."""
    method = build()
    method.decoder.blocks = torch.nn.Sequential()
    batch = draw(method, images)
    tokens, order = method.encode(batch), batch["order"]
    decoder = method.decoder
    output = decoder(tokens, order)
    for row in range(2):
        for position, number in enumerate(order[row].tolist()):
            token = decoder.embed(tokens[row, 1 + position]) if position < 4 else decoder.mask_token[0, 0]
            expected = decoder.pixels(decoder.norm(token + decoder.positions[0, 1 + number]))
            torch.testing.assert_close(output[row, number], expected)


def test_patches_are_numbered_row_by_row_and_go_back(images: Images) -> None:
    x = images.pixels[:2].float()
    patches = patchify(x, 4)
    assert all(torch.equal(patches[row, number], patch_of(x, row, number)) for row in range(2) for number in range(16))
    assert torch.equal(unpatchify(patches, 4), x)


@pytest.mark.parametrize("normalize_target", [True, False])
def test_ten_steps_improve_the_reconstruction(images: Images, normalize_target: bool) -> None:
    method = build(normalize_target=normalize_target)
    batch = draw(method, images)
    optimizer = torch.optim.Adam(method.parameters(), lr=1e-3)
    first = method.loss(batch)[0].item()
    for _ in range(10):
        loss, _ = method.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert method.loss(batch)[0].item() < 0.9 * first


@pytest.mark.parametrize("normalize_target", [True, False])
@torch.no_grad()
def test_the_grid_shows_targets_what_is_visible_and_the_filling(images: Images, normalize_target: bool) -> None:
    method = build(normalize_target=normalize_target).eval()
    batch = draw(method, images)
    target, seen, filled = method.visualize(batch).chunk(3)
    assert torch.equal(target, batch["target"])
    output = method.reconstruct(method.encode(batch), batch["order"])
    for row, order in enumerate(batch["order"].tolist()):
        for position, number in enumerate(order):
            own = patch_of(target, row, number)
            if position < 4:
                assert torch.equal(patch_of(seen, row, number), own)
                assert torch.equal(patch_of(filled, row, number), own)
            else:
                assert (patch_of(seen, row, number) == 0.5).all()
                mean, std = (own.mean(), (own.var() + 1e-6).sqrt()) if normalize_target else (0.0, 1.0)
                expected = (output[row, number] * std + mean).clamp(0, 1)
                torch.testing.assert_close(patch_of(filled, row, number), expected)


def test_an_overlay_is_in_the_input_and_not_in_the_target(images: Images) -> None:
    batch = draw(build(), images, overlay_alpha=0.3, crop_scale_min=1.0, flip=0.0)
    clean = images.pixels[:2] / 255
    torch.testing.assert_close(batch["target"], clean)
    torch.testing.assert_close(batch["input"], 0.3 * clean.flip(0) + 0.7 * clean)


def test_an_encoder_without_patches_is_refused() -> None:
    with pytest.raises(ValueError, match="mae: encoder is a ResNet18; use vit_tiny, vit_small or vit_base"):
        Method(ENCODERS["resnet18"](16, width=8))


@pytest.mark.parametrize(("mask_ratio", "visible"), [(0.01, 16), (0.99, 0)])
def test_a_mask_of_nothing_or_everything_is_refused(mask_ratio: float, visible: int) -> None:
    with pytest.raises(ValueError, match=f"mask_ratio {mask_ratio} leaves {visible} of 16 patches visible"):
        build(mask_ratio=mask_ratio)


def test_heads_that_do_not_divide_the_decoder_are_refused() -> None:
    with pytest.raises(ValueError, match="decoder_dim 16 is not a multiple of decoder_heads 3"):
        build(decoder_heads=3)
