"""`data.classes: FILE`: a spec holds the names, and a service reads no file outside its folders."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from services import SPEC

from ssl_sweep.knobs.problems import SpecError
from ssl_sweep.service.spec_check import parse_submitted
from ssl_sweep.spec.file import load_spec
from ssl_sweep.spec.schema import json_schema
from ssl_sweep.spec.sweep import from_dump

LIST = b"\xef\xbb\xbf# ImageNet-100\r\n\r\nn02869837\r\n  n01749939  \r\nn02488291\r\n"


def spec(home: Path, classes: Any) -> Path:
    path = home / "spec.yaml"
    path.write_text(yaml.safe_dump({**SPEC, "data": {**SPEC["data"], "classes": classes}}))
    return path


def refused(path: Path, overrides: tuple[str, ...] = ()) -> str:
    with pytest.raises(SpecError) as caught:
        load_spec(path, overrides)
    return str(caught.value)


@pytest.mark.parametrize("form", ["list.txt", "below/../list.txt", "{home}/list.txt"])
def test_a_spec_holds_the_names_of_the_file(tmp_path: Path, form: str) -> None:
    (tmp_path / "list.txt").write_bytes(LIST)
    (tmp_path / "below").mkdir()
    read = load_spec(spec(tmp_path, form.format(home=tmp_path)))
    assert read.data["classes"] == ["n02869837", "n01749939", "n02488291"]
    (tmp_path / "list.txt").unlink()
    assert from_dump(read.model_dump(mode="json")) == read


def test_it_is_below_the_folder_of_the_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/list.txt").write_bytes(LIST)
    monkeypatch.setenv("SSL_SWEEP_DATA", str(tmp_path / "data"))
    assert len(load_spec(spec(tmp_path, None), ["data.classes=list.txt"]).data["classes"]) == 3


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "list.txt is no file; name a text file of class names, one a line, or write one class as [list.txt]"),
        (b"", "names no class"),
        (b"# only a comment\n", "names no class"),
        (b"a\nb\n\na\n", "has 'a' on line 1 and again on line 4; remove one"),
        (b"\xff\xfea\n", "cannot be read"),
        (b"x" * 1_000_001, "has over 1,000,000 bytes"),
        (b"\n".join(str(n).encode() for n in range(25_001)), "names 25,001 classes"),
    ],
)
def test_a_list_that_is_none_is_answered_at_its_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    if content is not None:
        (tmp_path / "list.txt").write_bytes(content)
    path = spec(tmp_path, "list.txt")
    said = refused(path)
    line = path.read_text().splitlines().index("  classes: list.txt") + 1
    assert said.startswith(f"{path}:{line}: data.classes: 'list.txt': ")
    assert message in said
    assert "\n" not in said
    assert "--set data.classes=list.txt: data.classes: 'list.txt':" in refused(path, ("data.classes=list.txt",))


def test_other_mistakes_are_reported_with_it(tmp_path: Path) -> None:
    said = refused(spec(tmp_path, "gone.txt"), ("data.image_size=2",))
    assert "data.classes" in said
    assert "data.image_size" in said


def submitted(classes: str, roots: list[Path]) -> str:
    with pytest.raises(SpecError) as caught:
        parse_submitted(yaml.safe_dump({**SPEC, "data": {**SPEC["data"], "classes": classes}}), [], roots)
    return str(caught.value)


def test_a_service_reads_lists_below_its_folders_only(tmp_path: Path) -> None:
    roots = [tmp_path / "data", tmp_path / "more"]
    for root in roots:
        root.mkdir()
        (root / "list.txt").write_bytes(LIST)
    secret = tmp_path / "secret.txt"
    secret.write_text("password\npassword\n")  # reading it would show in the message
    (roots[0] / "link.txt").symlink_to(secret)
    for outside in ("../secret.txt", str(secret), "link.txt", "~/x", "/etc/passwd", "../gone.txt", "/dev/zero"):
        said = submitted(outside, roots)
        assert "is outside the folders that the service reads; name a file below" in said
        assert "password" not in said.replace(outside, "")
    assert "is no file's name" in submitted("a\0b", roots) or "no text" in submitted("a\0b", roots)
    for inside in ("list.txt", str(roots[1] / "list.txt")):
        read = parse_submitted(yaml.safe_dump({**SPEC, "data": {**SPEC["data"], "classes": inside}}), [], roots)
        assert len(read.data["classes"]) == 3


def test_editors_accept_a_file(tmp_path: Path) -> None:
    assert {"type": "string"} in json_schema()["properties"]["data"]["properties"]["classes"]["anyOf"]
