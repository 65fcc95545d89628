"""The overlay autoencoder: its loss to the formula, that it learns, and what it shows."""

import pytest
import torch
from torch import Generator, Tensor
from torchvision.utils import make_grid

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.autoencoder import Method
from ssl_sweep.models.encoders import ENCODERS


def build(name: str = "resnet18") -> Method:
    torch.manual_seed(0)
    return Method(ENCODERS[name](8, **({"width": 8} if name.startswith("resnet") else {"patch_size": 4})))


def drawings(count: int) -> Images:
    """Every pixel random: nothing but the image itself tells what it is."""
    pixels = torch.randint(256, (count, 3, 8, 8), dtype=torch.uint8, generator=Generator().manual_seed(1))
    return Images(pixels, torch.full((count, 2), 8))


def batch_of(method: Method, count: int, **knobs: float) -> dict[str, Tensor]:
    return method.views(drawings(count), Augment(8, **knobs), Generator().manual_seed(2))


@pytest.mark.parametrize("name", ["resnet18", "resnet50", "vit_tiny"])
def test_the_loss_is_the_papers(name: str) -> None:
    """Li, Ding & Wang 2023, section 3.1: the mean over all pixels of (f_d(f_e(x̂)) − x)²."""
    method = build(name).double().eval()
    batch = {key: view.double() for key, view in batch_of(method, 4, overlay_alpha=0.3).items()}
    output = method.decoder(method.encoder.feature_map(batch["input"]))
    expected = sum(((mine - clean) ** 2).sum() for mine, clean in zip(output, batch["target"], strict=True))
    expected = expected / (4 * 3 * 8 * 8)
    loss, scalars = method.loss(batch)
    assert abs(loss - expected) < 1e-10
    assert abs(scalars["psnr_db"] - 10 * torch.log10(1 / expected)) < 1e-10


def test_the_input_is_the_overlay_and_the_target_the_clean_image() -> None:
    """Two images, no crop: x̂_i = α·x_j + (1 − α)·x_i, where j can only be the other one."""
    whole = {"crop_scale_min": 1.0, "flip": 0.0}
    batch = batch_of(build(), 2, overlay_alpha=0.3, **whole)
    clean = drawings(2).pixels / 255
    torch.testing.assert_close(batch["target"], clean)
    torch.testing.assert_close(batch["input"], 0.3 * clean.flip(0) + 0.7 * clean)


def test_without_corruption_input_and_target_are_equal() -> None:
    batch = batch_of(build(), 4)
    assert torch.equal(batch["input"], batch["target"])


@pytest.mark.parametrize(
    "corruption",
    [{"overlay_alpha": 0.3}, {"mask_ratio": 0.3}, {"mask_ratio": 0.5, "mask_patch": 4}, {"auto_augment": True}],
)
def test_every_corruption_leaves_the_target_clean(corruption: dict[str, float]) -> None:
    method = build()
    plain, batch = batch_of(method, 8), batch_of(method, 8, **corruption)
    torch.testing.assert_close(batch["target"], plain["target"])
    assert not torch.equal(batch["input"], batch["target"])


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny"])
def test_thirty_steps_improve_the_reconstruction(name: str) -> None:
    method = build(name)
    batch = batch_of(method, 8, overlay_alpha=0.2)
    optimizer = torch.optim.Adam(method.parameters(), lr=3e-3 if name == "resnet18" else 3e-4)
    first = method.loss(batch)[0].item()
    for _ in range(30):
        loss, _ = method.loss(batch)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert method.loss(batch)[0].item() < 0.7 * first


def test_the_grid_has_targets_inputs_and_outputs_in_rows() -> None:
    method = build().eval()
    batch = batch_of(method, 10, overlay_alpha=0.3)
    shown = method.visualize(batch)
    assert shown.shape == (24, 3, 8, 8)
    assert torch.equal(shown[:8], batch["target"][:8])
    assert torch.equal(shown[8:16], batch["input"][:8])
    assert torch.equal(shown[16:], method.reconstruct(batch["input"][:8]))
    grid = make_grid(shown, nrow=8, padding=0)
    assert torch.equal(grid[:, :8, 8:16], batch["target"][1])
    assert torch.equal(grid[:, 8:16, 8:16], batch["input"][1])


def test_a_few_images_make_a_narrow_grid() -> None:
    method = build().eval()
    assert method.visualize(batch_of(method, 3)).shape == (9, 3, 8, 8)
