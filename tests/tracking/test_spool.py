import json
from pathlib import Path

import pytest

from ssl_sweep.tracking import spool as module
from ssl_sweep.tracking.spool import SWEEP, Spool
from ssl_sweep.trialdir.events import AttemptStarted, DescriptionSet
from ssl_sweep.trialdir.journal import Journal


def write(folder: Path, name: str, count: int) -> None:
    journal = Journal(folder / "trials" / name if name else folder)
    for _ in range(count):
        journal.append(AttemptStarted())


def deliver(spool: Spool) -> int:
    delivered = 0
    for name in spool.undelivered_journals():
        events, offset = spool.read(name)
        spool.mark_delivered(name, offset)
        delivered += len(events)
    spool.save()
    return delivered


def test_only_what_is_new_is_delivered(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    assert (spool.undelivered_journals(), spool.pending()) == ([], 0)
    write(tmp_path, SWEEP, 1)
    write(tmp_path, "b", 2)
    write(tmp_path, "a", 3)
    assert spool.undelivered_journals() == [SWEEP, "a", "b"]
    assert (spool.pending(), deliver(spool), spool.pending(), spool.undelivered_journals()) == (6, 6, 0, [])
    write(tmp_path, "b", 1)
    assert (spool.undelivered_journals(), spool.pending()) == (["b"], 1)
    assert len(spool.delivered("b")) == 2


def test_offsets_outlive_the_process_for_the_same_destination(tmp_path: Path) -> None:
    first = Spool(tmp_path)
    first.set_destination("run1")
    write(tmp_path, "a", 3)
    deliver(first)
    again = Spool(tmp_path)
    again.set_destination("run1")
    assert again.pending() == 0
    again.set_destination("run2")
    assert again.pending() == 3


@pytest.mark.parametrize("text", ["", '{"destination": "ru', "\0\0\0"])
def test_a_spoilt_note_of_offsets_costs_a_repeated_delivery(tmp_path: Path, text: str) -> None:
    write(tmp_path, "a", 3)
    (tmp_path / "recorded.json").write_text(text)
    assert deliver(Spool(tmp_path)) == 3
    assert Spool(tmp_path).pending() == 0


def test_a_journal_begun_anew_is_delivered_from_its_first_event(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    write(tmp_path, "a", 3)
    deliver(spool)
    (tmp_path / "trials" / "a" / "journal.jsonl").unlink()
    assert spool.undelivered_journals() == []
    write(tmp_path, "a", 1)
    assert deliver(spool) == 1


def test_a_journal_of_another_state_is_delivered_from_its_first_event(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    path = tmp_path / "trials" / "a" / "journal.jsonl"
    write(tmp_path, "a", 3)
    deliver(spool)
    assert not spool.is_replaced("a")
    path.unlink()
    write(tmp_path, "a", 5)  # longer than what was delivered
    again = Spool(tmp_path)
    assert deliver(again) == 5
    assert (again.is_replaced("a"), again.is_replaced("a")) == (True, False)
    write(tmp_path, "a", 1)
    assert (deliver(again), again.is_replaced("a")) == (1, False)


def test_a_journal_that_is_replaced_while_it_is_delivered_is_delivered_whole(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    path = tmp_path / "trials" / "a" / "journal.jsonl"
    write(tmp_path, "a", 3)
    deliver(spool)
    write(tmp_path, "a", 1)
    assert spool.undelivered_journals() == ["a"]
    path.unlink()
    Journal(path.parent).append(DescriptionSet(text="x" * 1000))  # the old offset is within its line
    write(tmp_path, "a", 4)
    events, offset = spool.read("a")  # as the recorder does, which has just seen that it has grown
    assert (len(events), spool.is_replaced("a")) == (5, True)
    path.unlink()
    write(tmp_path, "a", 20)  # before these are delivered
    spool.mark_delivered("a", offset)
    assert (deliver(spool), spool.is_replaced("a")) == (20, True)


def test_offsets_of_an_earlier_version_count(tmp_path: Path) -> None:
    write(tmp_path, "a", 3)
    deliver(Spool(tmp_path))
    recorded = tmp_path / "recorded.json"
    recorded.write_text(json.dumps({**json.loads(recorded.read_text()), "sums": {}}))
    write(tmp_path, "a", 1)
    assert deliver(Spool(tmp_path)) == 1


def test_rewind_and_forget(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    write(tmp_path, "a", 3)
    assert not spool.rewind("a")
    deliver(spool)
    assert spool.rewind("a")
    assert deliver(spool) == 3
    spool.reset()
    assert deliver(spool) == 3
    spool.set_destination("another run")
    write(tmp_path, "a", 1)
    assert (deliver(spool), spool.is_replaced("a")) == (4, False)


def test_an_unfinished_line_is_not_pending(tmp_path: Path) -> None:
    spool = Spool(tmp_path)
    write(tmp_path, "a", 1)
    with (tmp_path / "trials" / "a" / "journal.jsonl").open("a") as file:
        file.write('{"time": 1')
    (tmp_path / "trials" / "stray").write_text("not a folder")
    assert (deliver(spool), spool.pending()) == (1, 0)


def test_a_read_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHUNK_BYTES", 200)
    spool = Spool(tmp_path)
    write(tmp_path, "a", 20)
    rounds = 0
    while deliver(spool):
        rounds += 1
    assert rounds > 3
    assert spool.pending() == 0
