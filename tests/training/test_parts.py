"""A stage in parts: what is finished stands, what is not goes on, and a part's numbers are its own."""

from pathlib import Path

import pytest
import torch

from ssl_sweep.training.loop import Stage
from ssl_sweep.training.parts import run_parts


def stage(folder: Path) -> Stage:
    return Stage(folder, lambda metrics, step: None, 5, torch.device("cpu"))


class Work:
    """Draws a number from torch's and from the part's generator; raises at the part named `breaks`."""

    def __init__(self, breaks: str | None = None) -> None:
        self.breaks, self.ran = breaks, list[str]()

    def __call__(self, name: str, part: Stage) -> dict[str, float]:
        self.ran.append(name)
        part.folder.mkdir(parents=True, exist_ok=True)
        (part.folder / "checkpoint.pt").touch()
        if name == self.breaks:
            raise KeyboardInterrupt
        return {"torch": float(torch.rand(())), "own": float(torch.rand((), generator=part.generator("x")))}


def test_finished_parts_stand_and_the_others_are_as_if_nothing_had_happened(tmp_path: Path) -> None:
    expected = run_parts("abc", Work(), stage(tmp_path / "unbroken"))
    folder = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        run_parts("abc", Work(breaks="b"), stage(folder))
    assert (folder / "parts" / "1" / "checkpoint.pt").exists()  # what a part goes on from
    torch.manual_seed(77)
    again = Work()
    assert run_parts("abc", again, stage(folder)) == expected
    assert again.ran == ["b", "c"]
    assert not list(folder.rglob("*/*/checkpoint.pt"))
    assert len({value for part in expected.values() for value in part.values()}) == 6


def test_which_parts_there_are_does_not_change_a_part(tmp_path: Path) -> None:
    assert run_parts("abc", Work(), stage(tmp_path / "a"))["c"] == run_parts("c", Work(), stage(tmp_path / "b"))["c"]


def test_a_stage_that_is_made_to_start_again_drops_its_parts(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_parts("ab", Work(breaks="b"), stage(tmp_path))
    (tmp_path / "checkpoint.pt").unlink()  # as a trial does when the stage's settings are others than before

    def work(name: str, part: Stage) -> dict[str, float]:
        assert not part.folder.exists()
        return {}

    assert run_parts("ab", work, stage(tmp_path)) == {"a": {}, "b": {}}
