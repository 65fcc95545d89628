"""Which bytes of which files are compared."""

from pathlib import Path

import pytest

from ssl_sweep.data import contents
from ssl_sweep.data.contents import EVERY_BYTES, PART, PARTS, content_hashes
from ssl_sweep.data.items import stat_file


def hashes(*paths: Path) -> dict[str, str]:
    return dict(content_hashes([(path.name, stat_file(path)) for path in paths]))


def change(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"x")


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A file of zeros, of two full spaces between parts and a bit."""
    path = tmp_path / "large"
    with path.open("wb") as file:
        file.truncate(2 * EVERY_BYTES + 3 * PART)
    return path


def test_of_a_set_within_the_limit_each_byte_is_compared(large: Path) -> None:
    found = hashes(large)
    for place in (PART + 1, EVERY_BYTES - 1, 2 * EVERY_BYTES + PART):
        change(large, place)
        assert hashes(large) != found
        found = hashes(large)
    assert not found["large"].startswith(PARTS)


def test_beyond_the_limit_both_ends_and_parts_between_are_compared(
    large: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "WHOLE_BYTES", EVERY_BYTES)
    before = hashes(large)
    assert before["large"].startswith(PARTS)
    size = large.stat().st_size
    for place in (PART, EVERY_BYTES - 1, size - PART - 1):
        change(large, place)
    assert hashes(large) == before
    for place in (PART - 1, EVERY_BYTES, EVERY_BYTES + PART - 1, 2 * EVERY_BYTES, size - PART, size - 1):
        change(large, place)
        assert hashes(large) != before
        before = hashes(large)


def test_beyond_the_limit_some_small_files_are_compared_and_all_large_ones(
    large: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = [tmp_path / f"small{number}" for number in range(10)]
    for number, path in enumerate(small):
        path.write_bytes(bytes([number]) * 100)
    files = [*small[:5], large, *small[5:]]
    whole = hashes(*files)
    assert [*whole] == [path.name for path in files]
    monkeypatch.setattr(contents, "WHOLE_BYTES", EVERY_BYTES)
    monkeypatch.setattr(contents, "SAMPLED", 4)
    found = hashes(*files)
    assert [*found] == ["small0", "small3", "large", "small6", "small9"]
    assert {name: whole[name] for name in found if name != "large"} == {
        name: content for name, content in found.items() if name != "large"
    }  # small files are read whole


def test_a_long_reading_says_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "file").write_bytes(b"x")
    monkeypatch.setattr(contents, "PROGRESS_S", -1.0)
    with caplog.at_level("INFO"):
        hashes(tmp_path / "file")
    assert caplog.messages == ["comparing contents of files: 1/1"]
