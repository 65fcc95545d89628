"""A trial's folder belongs to one choice, setting and seed: files of another are set aside."""

from dataclasses import replace
from pathlib import Path

from ssl_sweep.trial.claim import claim
from ssl_sweep.trialdir.journal import Journal, read
from ssl_sweep.trialdir.record import RECORD, TrialRecord

RECORD_A = TrialRecord("one", "sweep", 3, 0, knobs={"views.gray": 0.3, "case": "1.1"}, config={"seed": 0})


def used(folder: Path, record: TrialRecord = RECORD_A) -> None:
    """A folder in which an attempt has written."""
    claim(folder, record)
    (folder / "stages.json").write_text("{}")
    (folder / "knn").mkdir()
    (folder / "knn" / "checkpoint.pt").write_text("weights")
    Journal(folder).report({"knn/top1_val": 1.0}, 1)


def test_the_next_attempt_goes_on_with_its_files(tmp_path: Path) -> None:
    used(tmp_path)
    # an earlier version's digits, and settings that do not make another trial
    again = replace(RECORD_A, knobs={"case": "1.1", "views.gray": 0.30000000000000004}, config={"seed": 0, "new": 1})
    claim(tmp_path, again)
    assert TrialRecord.read(tmp_path) == again
    assert (tmp_path / "stages.json").exists()
    assert len(read(tmp_path)[0]) == 1


def test_the_files_of_another_setting_are_set_aside(tmp_path: Path) -> None:
    others = [
        replace(RECORD_A, knobs={"views.gray": 0.3, "case": "1.10"}),
        replace(RECORD_A, knobs={"views.gray": 0.4, "case": "1.10"}),
        replace(RECORD_A, seed=1),
        replace(RECORD_A, choice=4),
    ]
    used(tmp_path)
    for number, other in enumerate(others, 1):
        before = TrialRecord.read(tmp_path)
        claim(tmp_path, other)
        aside = tmp_path / f"set-aside-{number}"
        assert TrialRecord.read(tmp_path) == other
        assert TrialRecord.read(aside) == before
        (said,) = read(tmp_path)[0]
        assert said.tags["replaced"].endswith(f"in set-aside-{number}")
        assert f"choice {before.choice}, seed {before.seed}, {{'views.gray'" in said.tags["replaced"]
        assert not (tmp_path / "stages.json").exists()
    assert (tmp_path / "set-aside-1" / "knn" / "checkpoint.pt").read_text() == "weights"


def test_a_process_that_dies_while_it_sets_files_aside_is_repeated(tmp_path: Path) -> None:
    used(tmp_path)
    (tmp_path / "set-aside-1").mkdir()
    (tmp_path / "stages.json").rename(tmp_path / "set-aside-1" / "stages.json")
    claim(tmp_path, replace(RECORD_A, seed=1))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        RECORD, "journal.jsonl", "set-aside-1", "set-aside-2",
    ]  # fmt: skip


def test_a_lost_or_damaged_record_is_written_anew(tmp_path: Path) -> None:
    used(tmp_path)
    (tmp_path / RECORD).write_text("}")
    claim(tmp_path, RECORD_A)
    assert TrialRecord.read(tmp_path) == RECORD_A
    assert (tmp_path / "stages.json").exists()
