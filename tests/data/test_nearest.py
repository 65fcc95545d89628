"""Nearest images of a set: to those of a plain sort of all distances."""

import numpy as np
import pytest
import torch
from torch import Generator, Tensor

from ssl_sweep.contracts.made_images import pack
from ssl_sweep.data import nearest
from ssl_sweep.data.nearest import are_nearest, nearest_images
from ssl_sweep.data.pack import Pack

CPU = torch.device("cpu")


def set_of(images: list[Tensor]) -> Pack:
    return pack(images, torch.zeros(len(images), dtype=torch.int64), ("a",))


def flat(*levels: int) -> Pack:
    """Images of 4 pixels, each of one grey: a set on a line."""
    return set_of([torch.full((3, 4, 4), level, dtype=torch.uint8) for level in levels])


def test_neighbours_are_those_of_a_plain_sort(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest, "CHUNK", 7)
    pixels = torch.randint(256, (30, 3, 8, 8), dtype=torch.uint8, generator=Generator().manual_seed(0))
    flattened = pixels.flatten(1).numpy().astype(np.float64)
    distances = ((flattened[:, None] - flattened[None]) ** 2).sum(axis=2)
    np.fill_diagonal(distances, np.inf)
    found = nearest_images(set_of(list(pixels)), 8, 5, CPU)
    assert found.tolist() == distances.argsort(axis=1)[:, :5].tolist()


def test_an_image_is_not_its_own_neighbour_even_beside_a_duplicate() -> None:
    found = nearest_images(flat(50, 50, 90), 4, 1, CPU).flatten().tolist()
    assert found[:2] == [1, 0]
    assert found[2] in (0, 1)


def test_a_small_set_has_fewer() -> None:
    assert nearest_images(flat(0, 10, 40), 4, 5, CPU).tolist() == [[1, 2], [0, 2], [1, 0]]
    assert nearest_images(flat(0), 4, 5, CPU).shape == (1, 0)


def test_images_of_unequal_size_are_compared_at_one() -> None:
    images = [torch.full((3, height, 9), level, dtype=torch.uint8) for height, level in ((4, 0), (9, 20), (5, 30))]
    assert nearest_images(set_of(images), 4, 1, CPU).tolist() == [[1], [2], [1]]


def test_similar_either_way() -> None:
    """On a line at 0, 10, 30, 70: the nearest of 70 is 30, whose own nearest is 10."""
    table = nearest_images(flat(0, 10, 30, 70), 4, 1, CPU)
    expected = [[1, 1, 0, 0, 1], [1, 1, 1, 0, 1], [0, 1, 1, 1, 0], [0, 0, 1, 1, 0], [1, 1, 0, 0, 1]]
    assert are_nearest(torch.tensor([0, 1, 2, 3, 0]), table).int().tolist() == expected
