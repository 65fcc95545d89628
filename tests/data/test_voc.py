"""Pascal-VOC folders: boxes, what is wrong with them, and which image is in which split."""

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_sweep.data.images import DataError
from ssl_sweep.data.splits import Data, Origin
from ssl_sweep.data.voc import Annotation, read_annotation
from ssl_sweep.data.voc_sets import BoxedPack, BoxedSplits, load_voc

GOOD = ("cat", (11, 6, 30, 25))  # VOC's corners: from 1, the last pixel included


def write_image(voc: Path, name: str, objects: Sequence[tuple[str, tuple[float, ...]]], text: str = "") -> Path:
    """A black image of 60x40 whose objects are white, and its annotation; returns the annotation."""
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    for _, (xmin, ymin, xmax, ymax) in objects:
        pixels[max(int(ymin) - 1, 0) : int(ymax), max(int(xmin) - 1, 0) : int(xmax)] = 255
    for folder in ("Annotations", "JPEGImages"):
        (voc / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(voc / "JPEGImages" / f"{name}.jpg", quality=100)
    tags = "".join(f"<object><name>{label}</name>{box_text(box)}{text}</object>" for label, box in objects)
    path = voc / "Annotations" / f"{name}.xml"
    path.write_text(f"<annotation><size><width>60</width><height>40</height></size>{tags}</annotation>")
    return path


def box_text(box: tuple[float, ...]) -> str:
    corners = zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True)
    return f"<bndbox>{''.join(f'<{name}>{value}</{name}>' for name, value in corners)}</bndbox>"


def write_sets(voc: Path, **sets: str) -> None:
    folder = voc / "ImageSets" / "Main"
    folder.mkdir(parents=True, exist_ok=True)
    for name, images in sets.items():
        (folder / f"{name}.txt").write_text("\n".join(images.split()) + "\n")
        for image in images.split():
            write_image(voc, image, [GOOD])


def load(
    root: Path, source: str = "voc:.", train_set: str = "train", seed: int = 0, short_side: int = 40
) -> BoxedSplits:
    data = Data(source="digits", image_size=8, val_fraction=0.25, split_seed=seed)
    origin = Origin(data, root, root / "cache")
    return load_voc(source, origin, short_side=short_side, train_set=train_set, on_error="raise")


def names(split: BoxedPack) -> str:
    return " ".join(sorted(split.annotations[row].image.stem for row in split.pack.labels.tolist()))


def test_a_box_covers_the_pixels_of_its_object(tmp_path: Path) -> None:
    write_sets(tmp_path, train="a", val="b", test="c")
    for short_side, scale in ((40, 1.0), (20, 0.5)):
        images, targets = load(tmp_path, short_side=short_side).train.batch(torch.tensor([0]))
        assert images[0].shape == (3, 40 * scale, 60 * scale)
        ((left, top, right, bottom),) = targets[0]["boxes"].tolist()
        assert [left, top, right, bottom] == [10 * scale, 5 * scale, 30 * scale, 25 * scale]
        white = images[0].float().mean(dim=0) > 127
        rows, columns = white.any(dim=1).nonzero(), white.any(dim=0).nonzero()
        # every corner within half a pixel: a shrunk image has grey borders
        found = torch.tensor([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        assert (found - targets[0]["boxes"][0]).abs().max() <= 0.5
        assert targets[0]["labels"].tolist() == [1]


def test_images_of_different_shapes_keep_their_own(tmp_path: Path) -> None:
    write_sets(tmp_path, train="a b", val="v", test="t")
    Image.new("RGB", (60, 90)).save(tmp_path / "JPEGImages" / "b.jpg")
    text = (tmp_path / "Annotations" / "b.xml").read_text()
    (tmp_path / "Annotations" / "b.xml").write_text(text.replace("<height>40", "<height>90"))
    images, targets = load(tmp_path, short_side=30).train.batch(torch.tensor([1, 0]))
    assert [image.shape for image in images] == [(3, 45, 30), (3, 30, 45)]
    torch.testing.assert_close(targets[0]["boxes"], torch.tensor([[5.0, 2.5, 15.0, 12.5]]))
    torch.testing.assert_close(targets[1]["boxes"], torch.tensor([[7.5, 3.75, 22.5, 18.75]]))


@pytest.mark.parametrize(
    ("box", "reason"),
    [
        ((6, 5, 5, 20), r"has a box of no area \(xmin 6, ymin 5, xmax 5, ymax 20\)"),
        ((0, 0, 0, 0), "has a box outside of its image"),
        ((20, 5, 10, 20), "has a box of no area"),
        ((61, 5, 80, 20), "has a box outside of its image of 60x40 pixels"),
        ((-9, 5, -2, 20), "has a box outside of its image"),
    ],
)
def test_a_degenerate_box_is_named_or_left_out(
    tmp_path: Path, box: tuple[float, ...], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = write_image(tmp_path, "a", [GOOD, ("dog", box)])
    expected = rf"{path}: object 2 \('dog'\) {reason}"
    with pytest.raises(
        DataError, match=expected + ".*; correct or remove it, or set evaluate.detection.on_error: skip"
    ):
        read_annotation(tmp_path, "a", on_error="raise")
    with caplog.at_level(logging.WARNING):
        kept = read_annotation(tmp_path, "a", on_error="skip")
    assert (kept.names, kept.skipped) == (("cat",), 1)
    assert f"{path}: object 2 ('dog')" in caplog.text


def test_a_photo_on_its_side_is_measured_upright(tmp_path: Path) -> None:
    write_image(tmp_path, "a", [GOOD])
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter
    Image.new("RGB", (40, 60)).save(tmp_path / "JPEGImages" / "a.jpg", exif=exif)
    assert read_annotation(tmp_path, "a", on_error="raise").size == (40, 60)


def test_a_tiff_on_its_side_is_measured_as_it_is_decoded(tmp_path: Path) -> None:
    write_image(tmp_path, "a", [GOOD])
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (40, 60)).save(tmp_path / "JPEGImages" / "a.tif", exif=exif)
    assert read_annotation(tmp_path, "a", on_error="raise").size == (40, 60)


def test_an_orientation_that_means_nothing_turns_nothing(tmp_path: Path) -> None:
    write_image(tmp_path, "a", [GOOD])
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.new("RGB", (60, 40)).save(tmp_path / "JPEGImages" / "a.jpg", exif=exif)
    assert read_annotation(tmp_path, "a", on_error="raise").size == (40, 60)


def test_a_list_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    write_sets(tmp_path, train="a b c d", val="v", test="e")
    path = tmp_path / "ImageSets" / "Main" / "train.txt"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert names(load(tmp_path).train) == "a b c d"


def test_a_box_that_crosses_the_edge_ends_there(tmp_path: Path) -> None:
    write_image(tmp_path, "a", [("cat", (0, 30, 61, 44))])
    assert read_annotation(tmp_path, "a", on_error="raise").boxes.tolist() == [[0, 29, 60, 40]]


@pytest.mark.parametrize(
    ("box", "expected"),
    [((5, 5, 5, 20), [4, 4, 5, 20]), ((1, 1, 1, 1), [0, 0, 1, 1]), ((60, 40, 60, 40), [59, 39, 60, 40])],
)
def test_both_corners_belong_to_a_box_so_that_one_pixel_is_a_box(
    tmp_path: Path, box: tuple[float, ...], expected: list[float]
) -> None:
    write_image(tmp_path, "a", [("cat", box)])
    assert read_annotation(tmp_path, "a", on_error="raise").boxes.tolist() == [expected]


def test_a_size_may_be_unknown(tmp_path: Path) -> None:
    path = write_image(tmp_path, "a", [("cat", (5, 5, 20, 20))])
    exif = Image.Exif()
    exif[0x0112] = 9
    Image.new("RGB", (60, 40)).save(tmp_path / "JPEGImages" / "a.jpg", exif=exif)
    known = path.read_text()
    for width, height in (("0", "0"), ("60.0", "40.0"), ("", "")):
        sized = known.replace(">60<", f">{width}<").replace(">40<", f">{height}<")
        path.write_text(sized)
        assert read_annotation(tmp_path, "a", on_error="raise").boxes.tolist() == [[4, 4, 20, 20]]


def test_lists_name_images_with_spaces_suffixes_and_flags(tmp_path: Path) -> None:
    write_sets(tmp_path, train="x", val="v", test="t")
    for name in ("a b 1", "c d", "e", "f.2"):
        write_image(tmp_path, name, [GOOD])
    path = tmp_path / "ImageSets" / "Main" / "train.txt"
    path.write_bytes(b"\xef\xbb\xbfa b 1\r\nc d  -1\r\ne.JPG 1\r\nf.2.jpg\r\n\r\n")
    train = load(tmp_path).train
    assert sorted(train.annotations[row].image.stem for row in train.pack.labels) == ["a b 1", "c d", "e", "f.2"]
    path.write_text("x y\n")
    with pytest.raises(DataError, match=r"Annotations/x y\.xml: is missing, though its image set lists it"):
        load(tmp_path)


def test_upper_case_suffixes(tmp_path: Path) -> None:
    path = write_image(tmp_path, "a", [GOOD])
    path.rename(path.with_suffix(".XML"))
    (tmp_path / "JPEGImages" / "a.jpg").rename(tmp_path / "JPEGImages" / "a.JPG")
    assert read_annotation(tmp_path, "a", on_error="raise").image.name == "a.JPG"
    Image.new("RGB", (60, 40)).save(tmp_path / "JPEGImages" / "a.PNG")
    (tmp_path / "JPEGImages" / "a.JPG").unlink()
    assert read_annotation(tmp_path, "a", on_error="raise").image.name == "a.PNG"


def test_files_that_git_lfs_has_not_fetched(tmp_path: Path) -> None:
    write_sets(tmp_path, train="a", val="v", test="t")
    for place in ("JPEGImages/a.jpg", "Annotations/a.xml", "ImageSets/Main/train.txt"):
        (tmp_path / place).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
        with pytest.raises(DataError, match=rf"{place}: not a readable .*git lfs pull"):
            load(tmp_path)


@pytest.mark.parametrize(("text", "expected"), [("1", True), ("true", True), ("True", True), ("0", False), ("", False)])
def test_difficult_in_its_usual_forms(tmp_path: Path, text: str, expected: bool) -> None:
    write_image(tmp_path, "a", [GOOD], f"<difficult>{text}</difficult>")
    assert read_annotation(tmp_path, "a", on_error="raise").difficult.tolist() == [expected]


def test_difficult_objects_are_marked_and_an_image_may_be_empty(tmp_path: Path) -> None:
    write_image(tmp_path, "a", [GOOD, GOOD], "<difficult>1</difficult>")
    write_image(tmp_path, "b", [])
    assert read_annotation(tmp_path, "a", on_error="raise").difficult.tolist() == [True, True]
    empty = read_annotation(tmp_path, "b", on_error="raise")
    assert empty.boxes.shape == (0, 4)


def test_spaces_around_a_size_mean_nothing(tmp_path: Path) -> None:
    path = write_image(tmp_path, "a", [GOOD])
    path.write_text(path.read_text().replace("<width>60<", "<width>\n60 <"))
    assert read_annotation(tmp_path, "a", on_error="raise").size == (40, 60)


def annotation_of(tmp_path: Path, text: bytes) -> Annotation:
    path = write_image(tmp_path, "a", [GOOD])
    path.write_bytes(text.replace(b"GOOD", path.read_bytes()))
    return read_annotation(tmp_path, "a", on_error="skip")


BOMB = '<!DOCTYPE annotation [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;">]><annotation>&b;</annotation>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_a_document_that_declares_entities_is_refused(tmp_path: Path, encoding: str) -> None:
    with pytest.raises(DataError, match=r"a\.xml: not a readable annotation \(it has a DOCTYPE.*remove it"):
        annotation_of(tmp_path, BOMB.encode(encoding))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"<annotation>", r"a\.xml: not a readable annotation \(no element found"),
        (b"", r"a\.xml: not a readable annotation"),
        (b"<html>GOOD</html>", r"a\.xml: begins with <html>, not <annotation>"),
        (b"<annotation><object><name>x</name></object></annotation>", r"object 1 \('x'\): has no <bndbox><xmin>"),
        (
            b"<annotation><object><name>x</name><bndbox><xmin>left</xmin></bndbox></object></annotation>",
            r"object 1 \('x'\): <xmin> is 'left'; write a number of pixels",
        ),
        (
            b"<annotation><object><bndbox><xmin>1</xmin><ymin>1</ymin><xmax>9</xmax><ymax>9</ymax></bndbox></object>"
            b"</annotation>",
            r"object 1 \(None\): has no <name>",
        ),
        (
            b"<annotation><size><width>40</width><height>60</height></size></annotation>",
            r"a\.xml: is made for 40x60 pixels, but .*a\.jpg has 60x40 upright",
        ),
    ],
)
def test_a_malformed_annotation_is_named(tmp_path: Path, text: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        annotation_of(tmp_path, text)


def test_missing_and_unreadable_files_are_named(tmp_path: Path) -> None:
    write_sets(tmp_path, train="a", val="b", test="c")
    image = tmp_path / "JPEGImages" / "a.jpg"
    image.write_text("no image")
    with pytest.raises(DataError, match=r"a\.jpg: not a readable image"):
        load(tmp_path)
    image.unlink()
    with pytest.raises(DataError, match=r"a\.jpg: is missing, though .*a\.xml describes it"):
        load(tmp_path)
    (tmp_path / "Annotations" / "a.xml").unlink()
    with pytest.raises(DataError, match=r"a\.xml: is missing, though its image set lists it"):
        load(tmp_path)


def test_an_image_of_another_kind_is_found_by_the_name_in_its_annotation(tmp_path: Path) -> None:
    path = write_image(tmp_path, "a", [GOOD])
    Image.open(tmp_path / "JPEGImages" / "a.jpg").save(tmp_path / "JPEGImages" / "a.png")
    (tmp_path / "JPEGImages" / "a.jpg").unlink()
    path.write_text(path.read_text().replace("<size>", "<filename>old/a.png</filename><size>"))
    assert read_annotation(tmp_path, "a", on_error="raise").image.name == "a.png"


def test_a_set_of_its_own_lists(tmp_path: Path) -> None:
    write_sets(tmp_path / "VOCdevkit" / "VOC2007", train="a b", val="c", trainval="a b c", test="d e")
    for source in ("voc:.", "voc:VOCdevkit", "voc:VOCdevkit/VOC2007"):
        splits = load(tmp_path, source)
        assert [names(split) for split in (splits.train, splits.val, splits.test)] == ["a b", "c", "d e"]
    assert splits.classes == ("cat",)


def test_validation_is_split_off_by_seed_where_the_set_has_none(tmp_path: Path) -> None:
    write_sets(tmp_path, trainval="a b c d e f g h", test="x")
    found = [load(tmp_path, seed=seed) for seed in (0, 0, 1)]
    assert [len(each.val) for each in found] == [2, 2, 2]
    assert names(found[0].val) == names(found[1].val) != names(found[2].val)
    assert sorted(names(found[0].val).split() + names(found[0].train).split()) == list("abcdefgh")
    assert [names(each.test) for each in found] == ["x"] * 3


def test_a_set_without_test_list_is_tested_on_its_validation_list(tmp_path: Path) -> None:
    write_sets(tmp_path, train="a b c d", val="x y", trainval="a b c d x y")
    splits = load(tmp_path)
    assert names(splits.test) == "x y"
    assert sorted(names(splits.val).split() + names(splits.train).split()) == list("abcd")


def test_years_are_taken_together_and_trainval_is_split_by_fraction(tmp_path: Path) -> None:
    write_sets(tmp_path / "VOC2007", train="a", val="b", trainval="a b", test="t")
    write_sets(tmp_path / "VOC2012", train="a c d", val="e", trainval="a c d e")
    splits = load(tmp_path)
    assert [names(split) for split in (splits.train, splits.val, splits.test)] == ["a a c d", "b e", "t"]
    whole = load(tmp_path, train_set="trainval")
    assert len(whole.val) == 2  # a quarter of six
    assert sorted(f"{names(whole.train)} {names(whole.val)}".split()) == list("aabcde")
    assert len(list((tmp_path / "cache").glob("*/meta.json"))) == 1  # decoded once


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ({"train": "a"}, r"test\.txt: is missing or empty; write the names of the test images"),
        ({"test": "a"}, r"train\.txt: is missing or empty"),
        ({"train": "a b", "val": "c", "test": "b d"}, "'b' is listed for train and for test"),
        ({"train": "a b", "val": "c", "test": "c"}, "'c' is listed for val and for test"),
    ],
)
def test_lists_that_make_no_splits_are_refused(tmp_path: Path, sets: dict[str, str], message: str) -> None:
    write_sets(tmp_path, **sets)
    with pytest.raises(DataError, match=message):
        load(tmp_path)


def test_a_split_without_objects_is_refused(tmp_path: Path) -> None:
    write_sets(tmp_path, train="a", val="b", test="c")
    write_image(tmp_path, "b", [GOOD], "<difficult>1</difficult>")
    with pytest.raises(DataError, match="no image of its val split has an object"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("imagefolder:x", "evaluate.detection.source: 'imagefolder:x' should be written voc:DIR"),
        ("voc:", "should be written voc:DIR"),
        ("voc:gone", r"'voc:gone': .*gone is not a folder; give an absolute folder"),
        ("voc:.", r"evaluate.detection.source: no VOC folder is in /.*; expected DIR/Annotations"),
    ],
)
def test_a_source_that_is_none_is_refused(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        load(tmp_path, source)
    with pytest.raises(DataError, match="not opened from a source"):
        load_voc(source, None, short_side=40, train_set="train", on_error="raise")


def test_a_truncated_image_follows_the_policy_of_the_data(tmp_path: Path) -> None:
    write_sets(tmp_path, train="a b", val="c", test="d")
    image = tmp_path / "JPEGImages" / "a.jpg"
    Image.effect_noise((60, 40), 80).convert("RGB").save(image)
    image.write_bytes(image.read_bytes()[:-600])
    with pytest.raises(DataError, match=r"a\.jpg: not a readable image .* data.on_error: skip"):
        load(tmp_path)
    data = Data(source="digits", image_size=8, on_error="skip")
    splits = load_voc(
        "voc:.", Origin(data, tmp_path, tmp_path / "cache"), short_side=40, train_set="train", on_error="raise"
    )
    assert [names(split) for split in (splits.train, splits.val, splits.test)] == ["b", "c", "d"]
