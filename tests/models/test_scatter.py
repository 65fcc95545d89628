"""Maps drawn as images, and the separation number."""

import pytest
import torch
from torch import Tensor

from ssl_sweep.models.scatter import colors_of, principal_plane, scatter_plot, separation


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_separation_is_the_mean_distance_between_over_within() -> None:
    points, labels = noise(9, 3), torch.tensor([0, 0, 1, 1, 1, 2, 2, 2, 2])
    same, different = [], []
    for i in range(9):
        for j in range(i):
            (same if labels[i] == labels[j] else different).append(float((points[i] - points[j]).norm()))
    expected = (sum(different) / len(different)) / (sum(same) / len(same))
    assert abs(separation(points, labels) - expected) < 1e-10


def test_separation_tells_two_clusters_from_ten() -> None:
    """Five shifts of two classes: clusters by shift have classes mixed, clusters by class have shifts mixed."""
    labels, shifts = torch.arange(2).repeat(50), torch.arange(5).repeat_interleave(20)
    jitter = 0.1 * noise(100, 2)
    ten = torch.stack([shifts, 0.2 * labels], dim=1) + jitter
    two = torch.stack([4.0 * labels, 0.0 * shifts], dim=1) + jitter
    assert separation(ten, labels) < 1.2
    assert separation(two, labels) > 10


def test_one_label_alone_separates_nothing() -> None:
    assert separation(noise(5, 2), torch.zeros(5)) == 0
    assert separation(torch.zeros(5, 2), torch.zeros(5)) == 0


def test_points_without_a_label_separate_nothing() -> None:
    points, labels = noise(9, 3), torch.tensor([0, 0, -1, 1, 1, -1, -1, 1, 0])
    known = labels >= 0
    assert torch.isclose(separation(points, labels), separation(points[known], labels[known]))
    assert separation(points, torch.full((9,), -1)) == 0


def test_a_point_without_a_label_is_grey() -> None:
    colors = colors_of(torch.tensor([0, -1]), torch.zeros(2, dtype=torch.int64), 1, 1)
    assert colors[1].tolist() == pytest.approx([0.6] * 3)
    assert colors[0].tolist() != colors[1].tolist()
    assert colors_of(torch.tensor([-1]), torch.zeros(1, dtype=torch.int64), 0, 1).isfinite().all()


def test_the_principal_plane_keeps_the_two_widest_directions() -> None:
    plane = noise(50, 2) * torch.tensor([5.0, 2.0])
    turned = torch.linalg.qr(noise(6, 6))[0][:2]
    found = principal_plane(plane @ turned + 0.001 * noise(50, 6) + 3)
    centered = plane - plane.mean(dim=0)
    torch.testing.assert_close(torch.cdist(found, found), torch.cdist(centered, centered), atol=0.02, rtol=0)


@pytest.mark.parametrize("shape", [(4, 2), (4, 1), (1, 5), (2, 5)])
def test_few_points_or_dimensions_make_a_plane_too(shape: tuple[int, int]) -> None:
    assert principal_plane(noise(*shape)).shape == (shape[0], 2)


def test_two_dimensions_are_drawn_as_they_are() -> None:
    """The largest extent fills the drawing, x to the right, y upwards."""
    points = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0]])
    image = scatter_plot(points, torch.eye(3))
    assert image.shape == (3, 320, 320)
    for (x, y), color in zip(((8, 311), (311, 311), (8, 8)), torch.eye(3), strict=True):
        assert torch.equal(image[:, y, x], color)
        assert torch.equal(image[:, y - 1, x + 1], color)
        assert torch.equal(image[:, y, x + 2], torch.ones(3))
    assert (image.min(dim=0).values < 1).sum() == 3 * 9


def test_points_in_one_place_are_drawn_in_the_middle() -> None:
    image = scatter_plot(torch.full((3, 2), 7.0), torch.zeros(3, 3))
    assert torch.equal(image[:, 159, 160], torch.zeros(3))


def test_colors_tell_classes_by_hue_and_shades_by_brightness() -> None:
    classes, shades = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 4, 0, 4])
    colors = colors_of(classes, shades, 2, 5)
    torch.testing.assert_close(colors[1], 0.4 * colors[0])
    torch.testing.assert_close(colors[3], 0.4 * colors[2])
    assert (colors[0] - colors[2]).abs().max() > 0.5
    assert 0 <= colors.min() <= colors.max() <= 1
    assert colors_of(classes, torch.zeros(4), 2, 1).shape == (4, 3)
