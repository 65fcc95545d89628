"""Masking and in-batch mixing: every option's loss against a formula, and what is drawn."""

import math

import pytest
import torch
from scipy.stats import beta, kstest
from torch import Generator, Tensor

from ssl_sweep.data.images import Images
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.featmix import Method, draw_symmetric_beta
from ssl_sweep.models.encoders import Encoder

SMALL = {"hidden_dim": 16, "dim": 8, "predictor_dim": 4}
VIEWS = ("first", "second")


def draw(method: Method, images: Images, augment: Augment | None = None) -> dict[str, Tensor]:
    return method.views(images, augment or Augment(16, brightness=0.4), Generator().manual_seed(2))


def in_double(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def cosines(first: Tensor, second: Tensor) -> list[Tensor]:
    return [p @ z / (p @ p).sqrt() / (z @ z).sqrt() for p, z in zip(first, second, strict=True)]


def mixed(rows: Tensor, batch: dict[str, Tensor]) -> Tensor:
    """λ_i·h_i + (1 − λ_i)·h_π(i)."""
    shares, partners = batch["share"].tolist(), batch["partner"].tolist()
    return torch.stack(
        [share * rows[i] + (1 - share) * rows[j] for i, (share, j) in enumerate(zip(shares, partners, strict=True))]
    )


def distance(method: Method, pairs: list[list[Tensor]]) -> Tensor:
    """The base's loss, from the cosines of both directions: BYOL's equation 2, SimSiam's equations 1 and 4."""
    values = [2 - 2 * cos if method.base == "byol" else -cos / 2 for direction in pairs for cos in direction]
    return torch.stack(values).sum() / len(pairs[0])


def written_out(method: Method, batch: dict[str, Tensor]) -> Tensor:
    """Base and mixture as the docstring says."""
    target = method.average or torch.nn.Sequential(method.encoder, method.projector)
    online = [batch[f"{view}_masked"] for view in VIEWS]
    h = [method.encoder(view) for view in online]
    z = [method.projector(features) for features in h]
    h_target = [target[0](batch[view]).detach() for view in VIEWS]
    z_target = [target[1](features).detach() for features in h_target]

    def both_ways(projections: list[Tensor], targets: list[Tensor]) -> list[list[Tensor]]:
        predictions = [method.predictor(rows) for rows in projections]
        if method.target == "maximum":
            larger = torch.where(targets[0] > targets[1], targets[0], targets[1])
            return [cosines(rows, larger) for rows in predictions]
        return [cosines(predictions[0], targets[1]), cosines(predictions[1], targets[0])]

    if method.mix_site == "feature":
        mixture = both_ways(
            [method.projector(mixed(rows, batch)) for rows in h],
            [target[1](mixed(rows, batch)).detach() for rows in h_target],
        )
    elif method.mix_site == "projection":
        mixture = both_ways([mixed(rows, batch) for rows in z], [mixed(rows, batch) for rows in z_target])
    else:
        q = [method.projector(method.encoder(mixed(view, batch))) for view in online]
        own, theirs = both_ways(q, z_target), both_ways(q, [rows.flip(0) for rows in z_target])
        shares = batch["share"].tolist()
        mixture = [
            [share * a + (1 - share) * b for share, a, b in zip(shares, *direction, strict=True)]
            for direction in zip(own, theirs, strict=True)
        ]
    return distance(method, both_ways(z, z_target)) + method.mix_weight * distance(method, mixture)


@pytest.mark.parametrize("base", ["byol", "simsiam"])
@pytest.mark.parametrize(
    ("site", "target"),
    [("feature", "view"), ("projection", "view"), ("image", "view"), ("feature", "maximum"), ("image", "maximum")],
)
def test_loss_and_gradient_are_the_formulas(
    encoder: Encoder, images: Images, base: str, site: str, target: str
) -> None:
    method = Method(encoder, base=base, mix_site=site, target=target, mix_weight=0.7, **SMALL).double()
    batch = in_double(draw(method, images))
    loss, scalars = method.loss(batch)
    expected = written_out(method, batch)
    assert abs(loss - expected) < 1e-10
    assert set(scalars) == {"positive_similarity", "mixed_similarity", "feature_std"}
    weights = [weight for weight in method.parameters() if weight.requires_grad]
    for found, wanted in zip(torch.autograd.grad(loss, weights), torch.autograd.grad(expected, weights), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-10, rtol=1e-8)


@pytest.mark.parametrize("base", ["byol", "simsiam"])
def test_without_masks_and_mixtures_it_is_its_base(encoder: Encoder, images: Images, base: str) -> None:
    method = Method(encoder, base=base, mask_ratio=0, mix_weight=0, **SMALL).double()
    batch = in_double(draw(method, images))
    assert set(batch) == {"first", "second"}
    loss, scalars = method.loss(batch)
    first, second = (method.projector(method.encoder(batch[view])) for view in VIEWS)  # the target still equals them
    pairs = [cosines(method.predictor(first), second), cosines(method.predictor(second), first)]
    assert abs(loss - distance(method, pairs)) < 1e-10
    assert "mixed_similarity" not in scalars


@pytest.mark.parametrize("image_size", [16, 20])
@pytest.mark.parametrize(("fill", "value"), [("zero", 0.0), ("mean", 0.5)])
def test_only_the_online_views_are_masked(
    encoder: Encoder, images: Images, image_size: int, fill: str, value: float
) -> None:
    """A chequered image of mean 0.5: what shows it no more is masked. The grid need not divide the side."""
    method = Method(encoder, mask_ratio=0.25, mask_grid=8, mask_fill=fill, **SMALL)
    chequered = torch.tensor([[51, 204], [204, 51]], dtype=torch.uint8).repeat(image_size // 2, image_size // 2)
    batch = draw(
        method,
        Images(chequered.expand(8, 3, -1, -1), torch.full((8, 2), image_size)),
        Augment(image_size, crop_scale_min=1.0, flip=0.0),
    )
    for view in VIEWS:
        clean, masked = batch[view], batch[f"{view}_masked"]
        torch.testing.assert_close(clean, (chequered / 255).expand(8, 3, -1, -1))
        hidden = masked != clean
        assert hidden.float().mean() == pytest.approx(0.25, abs=0.03)
        torch.testing.assert_close(masked[hidden], torch.full((int(hidden.sum()),), value))


def test_a_mask_may_show_another_image(encoder: Encoder, images: Images) -> None:
    method = Method(encoder, mask_ratio=0.5, mask_grid=4, mask_fill="other", **SMALL)
    batch = draw(method, images)
    clean, masked = batch["first"], batch["first_masked"]
    shown = (masked.unsqueeze(1) == clean.unsqueeze(0)).all(dim=2)  # (B, B, S, S), by which image a pixel shows
    assert shown.any(dim=1).all()
    assert ((masked != clean).any(dim=1).float().mean(dim=(1, 2)) == 0.5).all()


@pytest.mark.parametrize("alpha", [0.3, 1.0, 3.0])
def test_the_share_follows_the_beta_distribution(alpha: float) -> None:
    shares = draw_symmetric_beta(4000, Generator().manual_seed(5), alpha)
    assert shares.dtype == torch.float32
    assert kstest(shares.double().numpy(), beta(alpha, alpha).cdf).pvalue > 0.01


def test_the_own_share_dominates_and_partners_are_a_permutation(encoder: Encoder, images: Images) -> None:
    batch = draw(Method(encoder, **SMALL), images)
    assert (batch["share"] >= 0.5).all()
    assert len(set(batch["share"].tolist())) == 8
    assert sorted(batch["partner"].tolist()) == list(range(8))
    assert draw(Method(encoder, mix_site="image", **SMALL), images)["partner"].tolist() == list(range(8))[::-1]


def test_byols_target_moves_and_simsiam_has_none(encoder: Encoder, images: Images) -> None:
    method = Method(encoder, momentum=0.6, **SMALL)
    before = method.average[0].net.conv1.weight.clone()
    method.loss(draw(method, images))[0].backward()
    assert all(weight.grad is None for weight in method.average.parameters())
    with torch.no_grad():
        method.encoder.net.conv1.weight.add_(1)
    method.after_step(0.25)
    m = 1 - 0.4 * (math.cos(math.pi / 4) + 1) / 2
    torch.testing.assert_close(method.average[0].net.conv1.weight, m * before + (1 - m) * encoder.net.conv1.weight)
    simsiam = Method(encoder, base="simsiam", **SMALL)
    simsiam.after_step(0.25)
    assert simsiam.average is None
    assert (method.constant_lr, simsiam.constant_lr) == ((), ("predictor",))
