"""Differences between two image sets in words."""

import pytest

from ssl_sweep.data.differences import differences

CLASSES = ("class\t0\tcat", "class\t1\tdog")
FILES = ("file\t10\tcat/1.png", "file\t10\tcat/2.png", "file\t20\tdog/3.png")
IMAGES = ("train\t0\tcat/1.png", "test\t0\tcat/2.png", "train\t1\tdog/3.png")


@pytest.mark.parametrize(
    ("new", "words"),
    [
        (
            (*CLASSES, FILES[0], "file\t11\tcat/2.png", "file\t9\tdog/4.png", *IMAGES[:2], "train\t1\tdog/4.png"),
            ["files: 1 added (dog/4.png), 1 gone (dog/3.png), 1 of another size (cat/2.png)"],
        ),
        ((*CLASSES[:1], "class\t1\tlynx", *FILES, *IMAGES), [
            "classes: 1 added (lynx), 1 gone (dog)", "labels of 1 of 3 images (dog/3.png: dog became lynx)"]),
        (("class\t0\tdog", "class\t1\tcat", *FILES, *IMAGES), [
            "its classes in another order",
            "labels of 3 of 3 images (cat/1.png: cat became dog, cat/2.png: cat became dog, "
            "dog/3.png: dog became cat)"]),
        ((*CLASSES, *FILES, "test\t0\tcat/1.png", "train\t-1\tcat/2.png", IMAGES[2]), [
            "labels of 1 of 3 images (cat/2.png: cat became no label)",
            "the split of 2 of 3 images (cat/1.png: train became test, cat/2.png: test became train)"]),
        ((*CLASSES, *FILES, "bytes\tb\tcat/1.png", *IMAGES), [
            "files: 1 of 1 compared with another content (cat/1.png)"]),
        ((*CLASSES, *FILES, *reversed(IMAGES)), ["the order of its images"]),
        ((*CLASSES, *FILES, *IMAGES[:2]), ["images: 1 gone (dog/3.png)"]),
    ],
)  # fmt: skip
def test_each_kind_of_difference_is_named(new: tuple[str, ...], words: list[str]) -> None:
    assert differences("\n".join((*CLASSES, *FILES, "bytes\ta\tcat/1.png", *IMAGES)), "\n".join(new)) == words


def test_many_are_counted() -> None:
    new = [f"file\t1\t{number}.png" for number in range(1234)]
    (words,) = differences("class\t0\tx", "\n".join(["class\t0\tx", *new]))
    assert words == "files: 1,234 added (0.png, 1.png, 2.png, ...)"


def test_a_listing_of_an_earlier_version_has_no_contents_to_compare() -> None:
    lines = (*CLASSES, *FILES, *IMAGES)
    (words,) = differences("\n".join((*lines, "content\ta\tcat/1.png")), "\n".join((*lines, "bytes\tb\tcat/1.png")))
    assert "no difference is known" in words


def test_a_hash_of_parts_is_not_compared_with_one_of_all_bytes() -> None:
    lines = (*CLASSES, *FILES, *IMAGES, "bytes\tc\tdog/3.png")
    old, new = ("\n".join((*lines, f"bytes\t{content}\tcat/1.png")) for content in ("a", "parts-b"))
    assert differences(old, new) == ["the order of its images"]
    assert differences(new, new.replace("\tc\t", "\td\t")) == [
        "files: 1 of 2 compared with another content (dog/3.png)"
    ]
