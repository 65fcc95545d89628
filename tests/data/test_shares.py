"""A worker's share of a batch: its views are those that a worker with the whole batch makes of the same images."""

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from ssl_sweep.data.images import Images, Shard
from ssl_sweep.data.views import Augment

COUNT = 12
EVERYTHING = Augment(
    16, overlay_alpha=0.3, mask_ratio=0.25, mask_patch=4, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1,
    gray=0.2, blur=0.5, blur_second=0.2, solarize=0.2, auto_augment=True,
)  # fmt: skip


def photographs() -> Images:
    pixels = torch.randint(256, (COUNT, 3, 20, 26), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    pixels[::2, :, :, 22:] = 0
    sizes = torch.tensor([[20, 22], [20, 26]]).repeat(COUNT // 2, 1)
    return Images(pixels, sizes, torch.arange(COUNT), torch.arange(COUNT) % 3)


def share(rows: slice, loaded: list[Tensor] | None = None) -> Images:
    whole = photographs()

    def load(some: Tensor) -> Images:
        if loaded is not None:
            loaded.append(some)
        return Images(*(field[some] for field in whole[:4]))

    own = Images(*(field[rows] for field in whole[:4]))
    return own._replace(shard=Shard(whole.sizes, rows, load))


def rng() -> torch.Generator:
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("fill", ["mean", "other"])
@pytest.mark.parametrize("number", [0, 1, 2])
def test_the_views_of_a_share_are_rows_of_the_whole_batchs(fill: str, number: int) -> None:
    augment, rows = replace(EVERYTHING, mask_fill=fill), slice(4 * number, 4 * number + 4)
    for second in (False, True):
        whole = augment.view(photographs(), rng(), second=second)
        torch.testing.assert_close(augment.view(share(rows), rng(), second=second), whole[rows])
    for ours, theirs in zip(augment.pair(share(rows), rng()), augment.pair(photographs(), rng()), strict=True):
        torch.testing.assert_close(ours, theirs[rows])
    torch.testing.assert_close(augment.whole(share(rows), rng()), augment.whole(photographs(), rng())[rows])


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_sampler_returns_the_rows_of_what_it_draws_for_the_whole_batch(number: int) -> None:
    def draw_several(count: int, rng: torch.Generator, low: float) -> tuple[Tensor, Tensor]:
        return low + torch.rand(count, generator=rng), torch.randperm(count, generator=rng)

    rows = slice(4 * number, 4 * number + 4)
    whole, local = photographs().sampler(rng()), share(rows).sampler(rng())
    for sample in (whole, local):
        assert sample.images.global_size == COUNT
    pairs = [(whole.rand(2, 3), local.rand(2, 3)), (whole.randn(5), local.randn(5))]
    pairs += zip(whole(draw_several, 1.0), local(draw_several, low=1.0), strict=True)
    for theirs, ours in pairs:
        assert len(theirs) == COUNT
        assert torch.equal(ours, theirs[rows])


def test_the_generator_is_left_as_the_whole_batch_leaves_it() -> None:
    ours, theirs = rng(), rng()
    EVERYTHING.view(share(slice(0, 4)), ours)
    EVERYTHING.view(photographs(), theirs)
    assert torch.equal(ours.get_state(), theirs.get_state())


def test_of_the_other_images_only_what_is_laid_over_is_read() -> None:
    loaded: list[Tensor] = []
    replace(EVERYTHING, overlay_alpha=0.0).view(share(slice(4, 8), loaded), rng())
    assert loaded == []
    EVERYTHING.view(share(slice(4, 8), loaded), rng())
    assert [len(rows) for rows in loaded] == [4]
