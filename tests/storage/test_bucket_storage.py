"""Two machines' copies of one sweep that lies in a bucket of a real S3 server."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ssl_sweep.storage.bucket import Bucket
from ssl_sweep.storage.bucket_storage import BucketStorage
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.layout import Storage
from ssl_sweep.storage.open import find_storage
from ssl_sweep.tracking.spool import Spool
from ssl_sweep.trialdir import journal
from ssl_sweep.trialdir.atomic import write_text
from ssl_sweep.trialdir.events import AttemptStarted, Ended, TagsSet
from ssl_sweep.trialdir.journal import Journal

Machine = Callable[[str], Storage]
TRIAL = "demo/trials/one"


@pytest.fixture
def machine(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """The storage as a machine sees it: `machine("a")`."""

    def at(name: str) -> Storage:
        monkeypatch.setenv("SSL_SWEEP_CACHE", str(tmp_path / name))
        return find_storage(f"s3://{lab.name}/runs")

    return at


@pytest.fixture
def bucket(lab: Path) -> Bucket:
    return Bucket(f"s3://{lab.name}/runs")


def lines(number: int) -> bytes:
    events = [
        {"time": step, "event": "report", "metrics": {"knn/top1_val": 1.0}, "step": step} for step in range(number)
    ]
    return "".join(json.dumps(event) + "\n" for event in events).encode()


def test_what_trials_write_comes_here_and_only_what_changed(machine: Machine, bucket: Bucket) -> None:
    a = machine("a")
    for name in ("config.yaml", "artifacts/deep/picture.png", "log.txt", "encoder.pt", "linear/checkpoint.pt"):
        bucket.put(f"{TRIAL}/{name}", name.encode())
    bucket.put(f"{TRIAL}/journal.jsonl", lines(2))
    bucket.put(f"{TRIAL}/stages/abc/journal.jsonl", lines(9))
    bucket.put("demo2/trials/one/journal.jsonl", lines(9))
    a.pull("demo")
    here = {path.relative_to(a.root / TRIAL).as_posix() for path in (a.root / TRIAL).rglob("*") if path.is_file()}
    assert here == {"config.yaml", "artifacts/deep/picture.png", "journal.jsonl"}
    assert not (a.root / "demo2").exists()
    known = (a.root / TRIAL / "config.yaml").stat().st_ino
    bucket.put(f"{TRIAL}/journal.jsonl", lines(3))
    machine("a").pull("demo")
    assert len(journal.read(a.root / TRIAL)[0]) == 3
    assert (a.root / TRIAL / "config.yaml").stat().st_ino == known  # was not brought again
    (a.root / TRIAL / "config.yaml").write_text("cut off by a full disk")
    bucket.delete([f"{TRIAL}/artifacts/deep/picture.png"])
    a.pull("demo", encoders=True)
    assert (a.root / TRIAL / "config.yaml").read_text() == "config.yaml"
    assert (a.root / TRIAL / "encoder.pt").read_text() == "encoder.pt"
    assert not (a.root / TRIAL / "artifacts/deep/picture.png").exists()


def test_a_journal_never_says_more_than_was_listed(
    machine: Machine, bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = machine("a")
    assert isinstance(a, BucketStorage)
    bucket.put(f"{TRIAL}/journal.jsonl", lines(2))
    get = a.bucket.get

    def late(key: str) -> bytes | None:
        bucket.put(f"{TRIAL}/journal.jsonl", lines(4))  # grows between the listing and the reading
        return get(key)

    monkeypatch.setattr(a.bucket, "get", late)
    a.pull("demo")
    assert len(journal.read(a.root / TRIAL)[0]) == 2  # what the others name may not be here yet
    monkeypatch.setattr(a.bucket, "get", get)
    a.pull("demo")
    assert len(journal.read(a.root / TRIAL)[0]) == 4


def test_another_machines_driver_takes_over(machine: Machine, lab: Path) -> None:
    a = machine("a")
    for name in ("spec.yaml", "sweep_id", "recorded.json", "artifacts/table.md"):
        write_text(a.sweep("demo") / name, name)
    for name in (".ray/state", "driver.lock", "artifacts/x.md.partial"):
        write_text(a.sweep("demo") / name, name)
    Journal(a.sweep("demo")).append(AttemptStarted())
    a.push("demo")
    there = {path.relative_to(lab / "runs/demo").as_posix() for path in (lab / "runs").rglob("*") if path.is_file()}
    assert there == {"spec.yaml", "sweep_id", "recorded.json", "artifacts/table.md", "journal.jsonl"}
    b = machine("b")
    b.take_over("demo")
    assert all((b.sweep("demo") / name).read_bytes() == (a.sweep("demo") / name).read_bytes() for name in there)
    Journal(b.sweep("demo")).append(Ended(state="COMPLETE"))
    b.push("demo")
    a.take_over("demo")
    assert [event.name for event in journal.read(a.sweep("demo"))[0]] == ["attempt", "end"]


def test_another_machine_knows_what_mlflow_has(machine: Machine, bucket: Bucket) -> None:
    a = machine("a")
    bucket.put(f"{TRIAL}/journal.jsonl", lines(2))
    Journal(a.sweep("demo")).append(AttemptStarted())
    write_text(a.sweep("demo") / "spec.yaml", "tracking: {models: best}\n")
    a.exchange("demo")
    spool = Spool(a.sweep("demo"))
    for name in spool.undelivered_journals():
        spool.mark_delivered(name, spool.read(name)[1])
    spool.save()
    a.push("demo")
    with machine("b").snapshot("demo") as there:
        assert Spool(there.sweep("demo")).pending() == 0
    bucket.put(f"{TRIAL}/journal.jsonl", lines(3))
    with machine("b").snapshot("demo") as there:
        assert Spool(there.sweep("demo")).pending() == 1
    assert not machine("b").root.exists()


def test_who_ends_a_dead_attempt_goes_on_from_the_buckets_journal(machine: Machine, bucket: Bucket) -> None:
    a = machine("a")
    folder = a.trial("demo", "one")
    Journal(folder).append(TagsSet(tags={"stale": "of long ago"}))
    bucket.put(f"{TRIAL}/journal.jsonl", lines(2))
    with a.synced_journal(folder):
        Journal(folder).append(Ended(state="FAILED"))
    machine("b").pull("demo")
    events = journal.read(machine("b").trial("demo", "one"))[0]
    assert [event.name for event in events] == ["report", "report", "end"]
    etag = bucket.etag(f"{TRIAL}/journal.jsonl")
    with a.synced_journal(folder):
        pass
    assert bucket.etag(f"{TRIAL}/journal.jsonl") == etag


def test_what_is_removed_of_the_shape_is_removed_of_the_bucket(machine: Machine, bucket: Bucket) -> None:
    a = machine("a")
    for name in ("encoder.pt", "linear/checkpoint.pt"):
        bucket.put(f"{TRIAL}/{name}", b"x" * 1000)
    bucket.put(f"{TRIAL}/stages.json", b'{"pretrain": {"key": "abc", "results": {}}}')
    with a.sparse_copy("demo") as shape:
        assert (shape.root / TRIAL / "encoder.pt").stat().st_size == 1000
        assert "abc" in (shape.root / TRIAL / "stages.json").read_text()
        (shape.root / TRIAL / "linear" / "checkpoint.pt").unlink()
    assert bucket.list_objects("").keys() == {f"{TRIAL}/encoder.pt", f"{TRIAL}/stages.json"}
    is_there = a.presence(a.sweep("demo"))
    assert is_there(a.trial("demo", "one") / "encoder.pt")
    assert not is_there(a.trial("demo", "one") / "linear" / "checkpoint.pt")


def test_a_folder_is_left_alone(tmp_path: Path) -> None:
    storage = FolderStorage(tmp_path)
    write_text(storage.trial("demo", "one") / "encoder.pt", "x")
    storage.exchange("demo")
    storage.fetch(storage.trial("demo", "one") / "encoder.pt")
    with storage.sparse_copy("demo") as shape, storage.synced_journal(storage.trial("demo", "one")):
        assert shape is storage
    assert storage.presence(tmp_path)(storage.trial("demo", "one") / "encoder.pt")
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["encoder.pt"]
