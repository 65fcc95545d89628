"""A trial's folder carried between nodes through a real S3 server: killed on one, ended on another to the bit."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_sweep.cluster import trial_sync
from ssl_sweep.cluster.trial_sync import TrialSync
from ssl_sweep.spec.sweep import from_dump, resolve
from ssl_sweep.storage.bucket import Bucket, BucketError
from ssl_sweep.trial import attempt
from ssl_sweep.trial import run as trial
from ssl_sweep.trial.stages import FinishedStages, link
from ssl_sweep.trialdir import journal, requests
from ssl_sweep.trialdir.atomic import write_bytes, write_text
from ssl_sweep.trialdir.events import ArtifactAdded, AttemptStarted, Ended, PretrainingFinished, StageFinished
from ssl_sweep.trialdir.journal import Journal
from ssl_sweep.trialdir.record import TrialRecord
from ssl_sweep.trialdir.requests import read_stop_request

KEY = "demo/trials/one"


def record(trial_id: str = "one", **evaluate: Any) -> TrialRecord:
    spec = {
        "name": "demo",
        "data": {"source": "digits", "image_size": 8, "classes": ["4", "9"]},
        "encoder": {"name": "resnet18", "width": 8},
        "method": "autoencoder",
        "pretrain": {"epochs": 3, "batch_size": 128},
        "evaluate": {"knn": {}, **evaluate},
        "precision": "fp32",
    }
    return TrialRecord(trial_id, "demo", choice=0, seed=0, config=resolve(from_dump(spec), {}, 0))


def ignore(metrics: dict[str, float], step: int) -> None:
    pass


def objects(lab: Path) -> set[str]:
    return {path.relative_to(lab / "runs").as_posix() for path in (lab / "runs").rglob("*") if path.is_file()}


@pytest.fixture
def bucket(lab: Path) -> Bucket:
    return Bucket(f"s3://{lab.name}/runs")


@pytest.fixture
def node(bucket: Bucket, tmp_path: Path) -> Callable[[str], TrialSync]:
    """A node's copy of the trial: `node("a")`."""

    def make(name: str) -> TrialSync:
        copy = TrialSync(bucket, KEY, tmp_path / name)
        copy.fetch()
        return copy

    return make


def run(bucket: Bucket, folder: Path, cache: Path, what: TrialRecord, report: Any = ignore) -> attempt.Outcome:
    with trial_sync.synced_trial(bucket, folder, what) as (here, _):
        return attempt.attempt(what, 1, report, here, cache)


NODE_A = """
import os, signal, sys, time
from pathlib import Path
from ssl_sweep.cluster import trial_sync
from test_trial_sync import Bucket, record, run

def report(metrics, step):
    if "pretrain/loss" in metrics and step == 2:
        time.sleep(1.0)  # until the checkpoint after the first epoch is sent
        os.kill(os.getpid(), signal.SIGKILL)

trial_sync.EVERY_S = 0.1
run(Bucket(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3]), record(), report)
"""


def test_killed_on_one_node_a_trial_ends_on_another_to_the_bit(
    lab: Path, bucket: Bucket, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    command = [sys.executable, "-c", NODE_A, bucket.url, str(tmp_path / "a"), str(cache)]
    assert subprocess.run(command, env=environment, check=False).returncode == -signal.SIGKILL
    left = next((lab / "runs" / KEY).glob("stages/*/checkpoint.pt"))
    assert torch.load(left, weights_only=True)["progress"]["epoch"] == 1
    outcome = run(bucket, tmp_path / "b", cache, record())
    expected = trial.run(record().config, ignore, tmp_path / "undisturbed", cache=cache)
    assert (outcome.state, outcome.results) == ("COMPLETE", expected)
    ours, theirs = (weights(folder) for folder in (lab / "runs" / KEY, tmp_path / "undisturbed"))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    events = journal.read(lab / "runs" / KEY)[0]
    assert [event.name for event in events].count("attempt") == 2
    losses = [event.step for event in events if "pretrain/loss" in getattr(event, "metrics", ())]
    assert losses == [1, 2, 3]  # each epoch once, none lost between the nodes
    assert not list((lab / "runs").rglob("checkpoint.pt"))
    assert not list(tmp_path.glob("[bc]/**/*.pt"))  # the nodes keep nothing

    def refuse(*_: Any) -> None:
        pytest.fail("pretrained again")

    monkeypatch.setattr(trial, "pretrain", refuse)  # another trial takes it from the bucket
    other = record("two", linear={"epochs": 1})
    assert run(bucket, tmp_path / "c", cache, other).state == "COMPLETE"
    events = journal.read(lab / "runs/demo/trials/two")[0]
    assert any(getattr(event, "tags", None) == {"pretrained_by": "one"} for event in events)
    assert (lab / "runs/demo/trials/two/artifacts/pictures.png").exists()


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "encoder.pt", weights_only=True)["encoder"]
    return state


class Dying(Bucket):
    """Its process dies after so many writes."""

    def __init__(self, bucket: Bucket, writes: int) -> None:
        vars(self).update(vars(bucket))
        self.left = writes

    def put(self, key: str, content: Any) -> str:
        self._count()
        return super().put(key, content)

    def delete(self, keys: Iterable[str]) -> None:
        if doomed := list(keys):
            self._count()
            super().delete(doomed)

    def _count(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt


def at_a_stages_begin(folder: Path) -> None:
    """What a trial has on disk: pretrained, at the first epochs of an evaluation, of which an older try is gone."""
    made, told = folder / "stages" / "abc", Journal(folder)
    write_bytes(made / "encoder.pt", b"weights")
    Journal(made).append(PretrainingFinished(trial="one", results={}))
    write_bytes(folder / "artifacts" / "pictures.png", b"picture")
    told.append(ArtifactAdded(path="artifacts/pictures.png"))
    link(made / "encoder.pt", folder / "encoder.pt")
    told.append(StageFinished(stage="pretrain", key="abc", seconds=1.0, results={}))
    FinishedStages(folder / "stages.json").add("pretrain", "abc", {})
    write_text(folder / "linear" / "key", "new")
    told.report({"linear/loss": 1.0}, 1)
    write_bytes(folder / "linear" / "checkpoint.pt", b"1")


def test_whenever_its_process_dies_what_is_in_the_bucket_holds_together(
    lab: Path, bucket: Bucket, tmp_path: Path
) -> None:
    lengths = set[int]()
    for writes in range(12):
        key, folder = f"demo{writes}/trials/one", tmp_path / str(writes)
        there = lab / "runs" / key
        before = TrialSync(bucket, key, folder)
        before.fetch()
        write_text(folder / "linear" / "key", "old")
        write_bytes(folder / "linear" / "checkpoint.pt", b"of old settings")
        before.push()
        copy = TrialSync(Dying(bucket, writes), key, folder)
        copy.fetch()
        (folder / "linear" / "checkpoint.pt").unlink()
        at_a_stages_begin(folder)
        with suppress(KeyboardInterrupt):
            copy.push()
        events = journal.read(there)[0]
        lengths.add(len([path for path in there.rglob("*") if path.is_file()]))
        assert all((there / event.path).exists() for event in events if event.name == "artifact")
        if FinishedStages(there / "stages.json").key("pretrain"):
            assert (there / "encoder.pt").exists()
            assert (there.parents[1] / "stages" / "abc" / "encoder.pt").exists()
            assert any(event.name == "stage" for event in events)
        if (there / "linear" / "checkpoint.pt").read_bytes() == b"1":
            assert any(event.name == "report" for event in events)
        elif (there / "linear" / "checkpoint.pt").exists():
            assert (there / "linear" / "key").read_text() == "old"
    assert len(lengths) > 4  # it died at many places
    assert sorted(path.relative_to(there).as_posix() for path in there.rglob("*") if path.is_file()) == [
        "artifacts/pictures.png",
        "encoder.pt",
        "journal.jsonl",
        "linear/checkpoint.pt",
        "linear/key",
        "stages.json",
    ]  # and at last it lived


def test_what_goes_here_goes_there(lab: Path, node: Callable[[str], TrialSync]) -> None:
    a = node("a")
    for name in ("linear/checkpoint.pt", "linear/.x.partial", "alive", "ask.json", "stages/abc/lock"):
        write_text(a.folder / name, "x")
    a.push()
    assert objects(lab) == {f"{KEY}/linear/checkpoint.pt"}
    a.bucket.put(f"{KEY}/ask.json", b"{}")  # the driver's, which goes on to be there
    (a.folder / "linear/checkpoint.pt").unlink()
    a.push()
    assert objects(lab) == {f"{KEY}/ask.json"}


def test_an_attempt_that_was_taken_for_dead_ends(node: Callable[[str], TrialSync], lab: Path) -> None:
    a = node("a")
    Journal(a.folder).append(AttemptStarted(attempt=1))
    a.push()
    b = node("b")
    Journal(b.folder).append(AttemptStarted(attempt=2))
    b.push()
    Journal(a.folder).report({"knn/top1_val": 1.0}, 1)
    with pytest.raises(BucketError, match=r"demo/trials/one: another attempt at this trial writes there"):
        a.push()
    Journal(b.folder).append(Ended(state="COMPLETE"))
    b.push()
    assert [event.name for event in journal.read(lab / "runs" / KEY)[0]] == ["attempt", "attempt", "end"]


def test_a_write_whose_answer_was_lost_is_its_own(node: Callable[[str], TrialSync], lab: Path) -> None:
    a = node("a")
    Journal(a.folder).append(AttemptStarted(attempt=1))
    a.bucket.put(f"{KEY}/journal.jsonl", (a.folder / "journal.jsonl").read_bytes())
    Journal(a.folder).append(Ended(state="COMPLETE"))
    a.push()
    assert [event.name for event in journal.read(lab / "runs" / KEY)[0]] == ["attempt", "end"]


def test_it_hears_what_it_is_asked(node: Callable[[str], TrialSync]) -> None:
    a = node("a")
    a.fetch_stop_request()
    assert read_stop_request(a.folder) is None
    a.bucket.put(f"{KEY}/ask.json", b'{"ask": "prune", "why": "worse than others"}')
    a.fetch_stop_request()
    assert read_stop_request(a.folder) == requests.StopRequest("prune", "worse than others")


def test_a_bucket_that_stayed_away_is_told_as_such(tmp_path: Path) -> None:
    away = "the storage s3://lab could not be reached for 300 s"
    raised = f"ray.exceptions.RayTaskError(BucketError): {away}"
    said = f"Traceback ...\n{raised}\n{BucketError.__module__}.BucketError: {away}\n"
    outcome = attempt.dead_process_outcome(tmp_path, "its process died", said, record().config)
    assert (outcome.reason, outcome.message) == ("lost", away)
