"""Stratified splits, and what `data:` of a spec becomes."""

from collections import Counter
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from ssl_sweep.data.images import DataError
from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import Data, load_splits
from ssl_sweep.data.stratify import stratified_split


@settings(max_examples=60, deadline=None)
@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=12).filter(any),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**32),
)
def test_every_class_keeps_its_share_and_at_least_one(counts: list[int], fraction: float, seed: int) -> None:
    labels = torch.repeat_interleave(torch.arange(len(counts)), torch.tensor(counts))
    labels = labels[torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))]
    kept, held = stratified_split(labels, fraction, seed)
    assert torch.equal(torch.cat([kept, held]).sort().values, torch.arange(len(labels)))
    assert torch.equal(kept, kept.sort().values)
    taken = Counter(labels[held].tolist())
    for label, count in enumerate(counts):
        assert taken[label] <= max(0, count - 1)
        assert abs(taken[label] - count * fraction) < 1 or taken[label] == count - 1
    spare = sum(max(0, count - 1) for count in counts)
    assert len(held) <= min(round(len(labels) * fraction), spare)


def test_the_split_of_caltech256_has_the_published_sizes() -> None:
    extra = torch.randint(0, 256, (29_780 - 256 * 80,), generator=torch.Generator().manual_seed(0)) ** 2 // 256
    counts = 80 + torch.bincount(extra, minlength=256)  # unequal, 80 at the least, as Caltech-256's are
    labels = torch.repeat_interleave(torch.arange(256), counts)
    kept, held = stratified_split(labels, 0.2, 0)
    assert (len(kept), len(held)) == (23_824, 5_956)


def test_equal_remainders_are_drawn_by_seed() -> None:
    labels = torch.arange(100).repeat_interleave(4)  # a tenth of four images: 40 classes of 100 give one
    classes = [set(labels[stratified_split(labels, 0.1, seed)[1]].tolist()) for seed in (0, 0, 1)]
    assert [len(each) for each in classes] == [40, 40, 40]
    assert classes[0] == classes[1] != classes[2]


def test_images_without_a_label_are_split_as_a_class_of_their_own() -> None:
    labels = torch.tensor([-1] * 100 + [0] * 40 + [1] * 20)
    kept, held = stratified_split(labels, 0.1, 0)
    assert Counter(labels[held].tolist()) == {-1: 10, 0: 4, 1: 2}
    assert Counter(labels[kept].tolist()) == {-1: 90, 0: 36, 1: 18}
    assert len(stratified_split(torch.full((50,), -1), 0.2, 0)[1]) == 10


def png(shade: int) -> bytes:
    buffer = BytesIO()
    Image.new("L", (8, 8), shade).save(buffer, "png")
    return buffer.getvalue()


def test_splits_of_digits(tmp_path: Path) -> None:
    data = Data(source="digits", image_size=8, val_fraction=0.25)
    splits = load_splits(data, root=tmp_path, cache=tmp_path)
    assert (len(splits.train), len(splits.val), len(splits.test)) == (1078, 360, 359)
    assert (splits.num_classes, splits.image_size) == (10, 8)
    pixels = torch.cat([pack.batch(torch.arange(len(pack))).pixels for pack in (splits.train, splits.val)])
    ordered = load_splits(data, root=tmp_path, cache=tmp_path)
    again = torch.cat([pack.batch(torch.arange(len(pack))).pixels for pack in (ordered.train, ordered.val)])
    assert torch.equal(pixels, again)
    share = torch.bincount(splits.val.labels) / torch.bincount(torch.cat([splits.train.labels, splits.val.labels]))
    assert (share - 0.25).abs().max() < 0.01


def test_validation_moves_with_the_seed_and_test_of_a_fixed_set_does_not(tmp_path: Path) -> None:
    for split in ("train", "test"):
        for number in range(10):
            path = tmp_path / split / "a" / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (8, 8), number).save(path)
    first, second = (
        load_splits(
            Data(source="imagefolder:.", image_size=8, val_fraction=0.3, split_seed=seed), root=tmp_path, cache=tmp_path
        )
        for seed in (0, 1)
    )
    everything = torch.arange(10)
    assert not torch.equal(first.val.batch(everything[:3]).pixels, second.val.batch(everything[:3]).pixels)
    assert torch.equal(first.test.batch(everything).pixels, second.test.batch(everything).pixels)
    assert len(list(tmp_path.glob("imagefolder-*/meta.json"))) == 1  # one pack serves all validation splits


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"val_fraction": 0.0001}, "val_fraction: 0.0001 of 1438 training images leaves no validation image"),
        ({"image_size": 64, "short_side": 32}, "short_side: 32 is below data.image_size, 64"),
        ({"source": "digit"}, "did you mean 'digits'"),
    ],
)
def test_what_cannot_be_split_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        load_splits(replace(Data(source="digits", image_size=8), **fields), root=tmp_path, cache=tmp_path)


@pytest.mark.parametrize(
    "fields",
    [{"val_fraction": -1}, {"val_fraction": 1}, {"image_size": 7}, {"on_error": "ignore"}, {"split_seed": -1}],
)
def test_bounds_are_in_the_annotations(fields: dict[str, object]) -> None:
    validate = TypeAdapter(Data).validate_python
    assert validate({"source": "digits", "image_size": 8}) == Data(source="digits", image_size=8)
    with pytest.raises(ValidationError, match=next(iter(fields))):
        validate({"source": "digits", "image_size": 8} | fields)


def test_a_sample_of_the_training_images_keeps_every_class_and_leaves_the_other_splits_alone(tmp_path: Path) -> None:
    whole = load_splits(Data(source="digits", image_size=8), root=tmp_path, cache=tmp_path)
    part = load_splits(Data(source="digits", image_size=8, train_images=200), root=tmp_path, cache=tmp_path)
    assert len(part.train) == 200
    assert all(18 <= count <= 22 for count in Counter(part.train.labels.tolist()).values())
    assert torch.equal(part.val.labels, whole.val.labels)
    assert torch.equal(part.test.labels, whole.test.labels)
    more = load_splits(Data(source="digits", image_size=8, train_images=10**6), root=tmp_path, cache=tmp_path)
    assert len(more.train) == len(whole.train)


def test_only_the_named_classes_are_kept_and_numbered_anew(tmp_path: Path) -> None:
    whole = load_splits(Data(source="digits", image_size=8), root=tmp_path, cache=tmp_path)
    two = load_splits(Data(source="digits", image_size=8, classes=("9", "4")), root=tmp_path, cache=tmp_path)
    assert two.train.classes == ("9", "4")
    assert two.num_classes == 2
    nines = (whole.test.labels == 9).nonzero().flatten()
    assert torch.equal(
        two.test.batch((two.test.labels == 0).nonzero().flatten()).pixels, whole.test.batch(nines).pixels
    )
    assert len(two.test) == int(torch.isin(whole.test.labels, torch.tensor([4, 9])).sum())
    with pytest.raises(DataError, match="'ten' is not a class of these images; there are '0', '1'"):
        load_splits(Data(source="digits", image_size=8, classes=("ten",)), root=tmp_path, cache=tmp_path)


def lay_out(folder: Path, count: int, classes: str = "ab") -> None:
    """`count` images below `folder`, each a shade of its own, by class folders or flat."""
    for number in range(count):
        path = folder / (classes[number % len(classes)] if classes else "") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), number).save(path)


def shades(pack: Pack) -> list[int]:
    return sorted(pack.batch(torch.arange(len(pack))).pixels[:, 0, 0, 0].tolist())


def test_with_labelled_images_of_their_own_the_method_sees_all_others(tmp_path: Path) -> None:
    lay_out(tmp_path / "photos", 30, classes="")
    lay_out(tmp_path / "named", 20)
    data = Data(source="imagefolder:photos", labelled="imagefolder:named", image_size=8, val_fraction=0.25)
    splits = load_splits(data, root=tmp_path, cache=tmp_path / "cache")
    alone = load_splits(replace(data, source="imagefolder:named", labelled=None), root=tmp_path, cache=tmp_path / "own")
    assert shades(splits.seen) == list(range(30))
    assert splits.seen.labels.tolist() == [-1] * 30
    for name in ("train", "val", "test"):
        assert shades(getattr(splits, name)) == shades(getattr(alone, name))
    assert (len(splits.train), len(splits.val), len(splits.test)) == (12, 4, 4)
    assert splits.num_classes == 2
    few = load_splits(replace(data, train_images=7, classes=("b",)), root=tmp_path, cache=tmp_path / "cache")
    assert (len(few.seen), len(few.train), few.train.classes) == (7, 6, ("b",))


def test_a_test_split_of_its_own_is_not_pretrained_on(tmp_path: Path) -> None:
    lay_out(tmp_path / "set/train", 10, classes="")
    lay_out(tmp_path / "set/test", 3, classes="")
    data = Data(source="imagefolder:set", labelled="digits", image_size=8)
    splits = load_splits(data, root=tmp_path, cache=tmp_path)
    assert (len(splits.seen), len(splits.train)) == (10, 1294)
    plain = load_splits(replace(data, labelled=None), root=tmp_path, cache=tmp_path)
    assert len(plain.seen) == len(plain.train) == 9
    assert len(list(tmp_path.glob("imagefolder-*/meta.json"))) == 1  # one pack serves both


def test_a_labelled_set_that_is_missing_is_named_by_its_key(tmp_path: Path) -> None:
    data = Data(source="digits", labelled="imagefolder:nowhere", image_size=8)
    with pytest.raises(DataError, match=r"^data.labelled: 'imagefolder:nowhere': .* is not a folder"):
        load_splits(data, root=tmp_path, cache=tmp_path)


def test_of_images_that_lack_labels_in_part_the_labelled_ones_are_told_apart(tmp_path: Path) -> None:
    labels = ([0, 1] * 10 + [-1] * 20, [0, 1, -1])
    for name, values in zip(("train", "test"), labels, strict=True):
        images = [png(shade) for shade in range(len(values))]
        pq.write_table(pa.table({"image": images, "label": values}), tmp_path / f"{name}.parquet")
    splits = load_splits(Data(source="parquet:.", image_size=8), root=tmp_path, cache=tmp_path / "cache")
    assert Counter(splits.seen.labels.tolist()) == {0: 9, 1: 9, -1: 18}
    known = splits.labelled()
    assert Counter(known.train.labels.tolist()) == {0: 9, 1: 9}
    assert (Counter(known.val.labels.tolist()), known.test.labels.tolist()) == ({0: 1, 1: 1}, [0, 1])
    assert len(known.seen) == 18
    assert shades(known.val) == [shade for shade in shades(splits.val) if shade < 20]
    both = load_splits(Data(source="digits", image_size=8), root=tmp_path, cache=tmp_path / "cache")
    assert all(getattr(both.labelled(), name) is getattr(both, name) for name in ("train", "val", "test"))


@pytest.mark.parametrize(("flat", "split"), [("train", "training"), ("test", "test")])
def test_a_split_without_any_label_is_named(tmp_path: Path, flat: str, split: str) -> None:
    for name in ("train", "test"):
        lay_out(tmp_path / name, 10, classes="" if name == flat else "ab")
    splits = load_splits(Data(source="imagefolder:.", image_size=8), root=tmp_path, cache=tmp_path / "cache")
    with pytest.raises(DataError, match=f"no {split} image has a label"):
        splits.labelled()


def test_images_without_classes_have_no_labels_in_a_batch(tmp_path: Path) -> None:
    lay_out(tmp_path / "photos", 10, classes="")
    splits = load_splits(Data(source="imagefolder:photos", image_size=8), root=tmp_path, cache=tmp_path)
    assert (splits.num_classes, splits.train.batch(torch.arange(3)).labels) == (0, None)
    with pytest.raises(DataError, match=r"data.classes: these images have no labels; leave it out"):
        load_splits(Data(source="imagefolder:photos", image_size=8, classes=("a",)), root=tmp_path, cache=tmp_path)


def test_another_source_is_split_alike_and_keeps_its_own_classes(tmp_path: Path) -> None:
    data = Data(source="digits", image_size=8, val_fraction=0.2, classes=("0", "1"), train_images=50)
    splits = load_splits(data, root=Path(), cache=tmp_path)
    other = splits.other("digits")
    assert (splits.num_classes, other.num_classes, other.image_size) == (2, 10, 8)
    assert len(other.train) > 50
    assert len(other.val) == pytest.approx(0.2 * (len(other.train) + len(other.val)), abs=5)
    with pytest.raises(DataError, match="not opened from a source"):
        replace(splits, origin=None).other("digits")


def test_a_split_by_seed_differs_between_seeds_and_leaves_the_test_images_alone(tmp_path: Path) -> None:
    def opened(seed: int, **fields: Any) -> list[list[int]]:
        data = Data(source="digits", image_size=8, **{"split_seed": "per_seed", **fields})
        splits = load_splits(data, root=tmp_path, cache=tmp_path, seed=seed)
        return [split.rows.tolist() for split in (splits.train, splits.val, splits.test)]

    first, again, other = opened(1), opened(1), opened(2)
    assert first == again
    assert first[1] != other[1]
    assert first[2] == other[2] == opened(5, split_seed=0)[2]
    assert opened(1, split_seed=3) == opened(2, split_seed=3)
    assert opened(1, train_images=50)[0] != opened(2, train_images=50)[0]
