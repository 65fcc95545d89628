"""Atomic writes: the old file or the whole new one, and nothing beside it."""

from contextlib import suppress
from pathlib import Path

from ssl_sweep.trial.stages import link
from ssl_sweep.trialdir.atomic import durable, replacing, write_text


def test_a_write_that_fails_leaves_the_old_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file"
    write_text(path, "old")
    with suppress(KeyboardInterrupt), replacing(path) as partial:
        partial.write_text("half")
        raise KeyboardInterrupt
    with suppress(KeyboardInterrupt), durable(path) as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert [(each.name, each.read_text()) for each in path.parent.iterdir()] == [("file", "old")]


def test_what_a_killed_process_left_is_written_over(tmp_path: Path) -> None:
    source, path, left = tmp_path / "source", tmp_path / "file", tmp_path / ".file.partial"
    source.write_text("new")
    for write in (lambda: write_text(path, "new"), lambda: link(source, path), lambda: link(source, path)):
        left.write_text("a longer text, cut off")
        write()
        assert (path.read_text(), left.exists()) == ("new", False)
    assert path.samefile(source)
