import json
import math
from pathlib import Path

import torch
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import Data, Splits, load_splits
from ssl_sweep.training.gallery import FRAME, IMAGES, NEIGHBOURS, OTHER, QUERIES, QUERY, SAME, gallery, nearest
from ssl_sweep.training.loop import Stage

PADDING, TILE = 4, 64 + 2 * FRAME


class Pixels(nn.Module):
    """An encoder whose features are the pixels, of 8 by 8."""

    def forward(self, x: Tensor) -> Tensor:
        return F.adaptive_avg_pool2d(x, 8).flatten(1)


class Broken(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(1) / 0 * 0


def digits(cache: Path) -> Splits:
    return load_splits(Data(source="digits", image_size=8), root=Path(), cache=cache)


def stage(folder: Path, seed: int = 0) -> Stage:
    return Stage(folder, lambda metrics, step: None, seed, torch.device("cpu"))


def shown(folder: Path, name: str) -> Tensor:
    with Image.open(folder / name) as image:
        return pil_to_tensor(image).float() / 255


def frame_of(grid: Tensor, row: int, column: int) -> tuple[float, ...]:
    """The colour in the corner of a tile."""
    top, left = (PADDING + place * (TILE + PADDING) for place in (row, column))
    return tuple(grid[:, top, left].tolist())


def close(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(math.isclose(a, b, abs_tol=0.01) for a, b in zip(one, other, strict=True))


def test_pictures_are_written_and_named(tmp_path: Path, cache: Path) -> None:
    written = gallery(Pixels(), digits(cache), stage(tmp_path), tmp_path / "artifacts")
    assert [path.name for path in written] == ["map.png", "map.json", "neighbours.png"]
    assert all(path.parent == tmp_path / "artifacts" and path.stat().st_size > 0 for path in written)
    assert not list((tmp_path / "artifacts").glob("*.partial"))


def test_nearest_is_scikit_learns_by_cosine() -> None:
    features = torch.randn(60, 12, generator=torch.Generator().manual_seed(0))
    reference = NearestNeighbors(n_neighbors=NEIGHBOURS + 1, metric="cosine").fit(features.numpy())
    expected = reference.kneighbors(features[:QUERIES].numpy(), return_distance=False)  # itself first
    assert torch.equal(nearest(features), torch.from_numpy(expected))


def test_nearest_of_very_few_images() -> None:
    assert nearest(torch.eye(2)).tolist() == [[0, 1], [1, 0]]


def test_the_map_is_the_principal_plane_of_the_test_images(tmp_path: Path, cache: Path) -> None:
    splits = digits(cache)
    gallery(Pixels(), splits, stage(tmp_path), tmp_path)
    drawn = json.loads((tmp_path / "map.json").read_text())
    count = min(IMAGES, len(splits.test))
    assert len(drawn["points"]) == len(drawn["labels"]) == count
    assert drawn["classes"] == list(splits.test.classes)
    order = torch.randperm(len(splits.test), generator=torch.Generator().manual_seed(0))[:count]
    assert drawn["labels"] == splits.test.labels[order].tolist()
    images = splits.test.batch(order).pixels.float() / 255
    plane = torch.from_numpy(PCA(2).fit_transform(images.flatten(1).double().numpy()))
    points = torch.tensor(drawn["points"], dtype=torch.float64)
    signs = (plane * points).sum(dim=0).sign()  # of each axis, which are arbitrary
    assert torch.allclose(points, plane * signs, atol=1e-3 * float(plane.abs().max()))


def test_frames_say_whether_a_neighbour_has_the_querys_class(tmp_path: Path, cache: Path) -> None:
    splits = digits(cache)
    gallery(Pixels(), splits, stage(tmp_path), tmp_path)
    grid = shown(tmp_path, "neighbours.png")
    assert grid.shape[1:] == (QUERIES * (TILE + PADDING) + PADDING, (1 + NEIGHBOURS) * (TILE + PADDING) + PADDING)
    order = torch.randperm(len(splits.test), generator=torch.Generator().manual_seed(0))[:IMAGES]
    pack = splits.test.subset(order)
    rows = nearest((pack.batch(torch.arange(len(pack))).pixels / 255).flatten(1))
    for row, (query, *others) in enumerate(rows.tolist()):
        for column, other in enumerate(others, start=1):
            same = pack.labels[query] == pack.labels[other]
            assert close(frame_of(grid, row, column), SAME if same else OTHER), (row, column)


def test_images_without_a_label_are_framed_as_the_query_and_numbered_minus_one(tmp_path: Path, cache: Path) -> None:
    splits = digits(cache)
    splits.test.labels, splits.test.classes = torch.full((len(splits.test),), -1), ()
    gallery(Pixels(), splits, stage(tmp_path), tmp_path)
    assert set(json.loads((tmp_path / "map.json").read_text())["labels"]) == {-1}
    grid = shown(tmp_path, "neighbours.png")
    assert all(close(frame_of(grid, 0, column), QUERY) for column in range(1 + NEIGHBOURS))


def test_all_trials_show_the_same_images(tmp_path: Path, cache: Path) -> None:
    splits = digits(cache)
    for seed in (0, 1):
        gallery(Pixels(), splits, stage(tmp_path, seed), tmp_path / str(seed))
    for name in ("map.json", "map.png", "neighbours.png"):
        assert (tmp_path / "0" / name).read_bytes() == (tmp_path / "1" / name).read_bytes()


def test_large_images_become_small_tiles(tmp_path: Path, cache: Path) -> None:
    gallery(
        Pixels(),
        load_splits(Data(source="digits", image_size=100), root=Path(), cache=cache),
        stage(tmp_path),
        tmp_path,
    )
    assert shown(tmp_path, "neighbours.png").shape[2] == (1 + NEIGHBOURS) * (TILE + PADDING) + PADDING


def test_a_single_test_image_has_a_map_and_no_neighbours(tmp_path: Path, cache: Path) -> None:
    splits = digits(cache)
    one: Pack = splits.test.subset(torch.tensor([0]))
    written = gallery(Pixels(), Splits(splits.train, splits.val, one, 8), stage(tmp_path), tmp_path)
    assert [path.name for path in written] == ["map.png", "map.json"]


def test_of_features_that_are_no_numbers_there_is_nothing_to_see(tmp_path: Path, cache: Path) -> None:
    assert gallery(Broken(), digits(cache), stage(tmp_path), tmp_path / "artifacts") == []
    assert not (tmp_path / "artifacts").exists()
