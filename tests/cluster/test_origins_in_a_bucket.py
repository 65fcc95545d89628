"""`encoder.from` where the storage is a bucket of a real S3 server, and a trial works in a folder of its node."""

import hashlib
import uuid
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from ssl_sweep.cluster import trial_sync
from ssl_sweep.cluster.trial_sync import synced_trial
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.spec.file import check_spec
from ssl_sweep.spec.sweep import SweepSpec, resolve
from ssl_sweep.storage.bucket import Bucket
from ssl_sweep.storage.layout import Storage
from ssl_sweep.storage.open import find_storage
from ssl_sweep.sweep.origins import origin_pins
from ssl_sweep.trial.attempt import Outcome, attempt
from ssl_sweep.trial.run import origin_file
from ssl_sweep.trialdir import locks
from ssl_sweep.trialdir.record import TrialRecord

ENCODER = {"name": "resnet18", "width": 4}


def spec_of(name: str, **changes: Any) -> SweepSpec:
    data = {"source": "digits", "image_size": 8, "train_images": 128}
    base = {"name": name, "data": data, "encoder": ENCODER, "evaluate": {"knn": {"k": 5}}, "precision": "fp32"}
    return check_spec({**base, "method": "autoencoder", "health": {"every": 0}, **changes})


def run(storage: Any, node: Path, cache: Path, record: TrialRecord) -> Outcome:
    with synced_trial(storage.bucket, node, record) as (folder, _):
        return attempt(record, 1, lambda metrics, step: None, folder, cache)


@pytest.fixture
def machine(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The storage as a machine sees it: `machine("a")`."""
    monkeypatch.setenv("SSL_SWEEP_LEDGER", f"sqlite:///{tmp_path / 'ledger.db'}")

    def at(name: str) -> Storage:
        monkeypatch.setenv("SSL_SWEEP_CACHE", str(tmp_path / name))
        return find_storage(f"s3://{lab.name}/runs")

    return at


def earlier(storage: Storage, node: Path, cache: Path) -> dict[str, float]:
    """Run a sweep of one trial; its results."""
    spec = spec_of("earlier", pretrain={"epochs": 1, "batch_size": 64})
    ledger = open_ledger(storage.ledger_url, spec)
    choice = ledger.ask()
    assert choice is not None
    one = choice.trials[0]
    record = TrialRecord(one.trial_id, "earlier", choice=0, seed=0, config=resolve(spec, {}, 0))
    results = run(storage, node, cache, record).results
    ledger.update(Trial(**{**vars(one), "state": "COMPLETE", "results": results}))
    return results


def test_a_trial_gets_the_earlier_encoder_from_the_bucket(lab: Path, machine: Any, tmp_path: Path, cache: Path) -> None:
    a, b = machine("a"), machine("b")
    expected = earlier(a, tmp_path / "node", cache)
    spec = spec_of("later", method="supervised", encoder={**ENCODER, "from": "earlier"})
    pins = origin_pins(spec, b, {})  # of a driver on another machine
    (identity,) = pins.values()
    config = {**resolve(spec, {}, 0), "pins": pins}

    def attempted(node: str) -> Outcome:
        record = TrialRecord(uuid.uuid4().hex, "later", choice=0, seed=0, config=config)
        return run(a, tmp_path / node, cache, record)

    outcome = attempted("node")
    assert (outcome.state, outcome.message) == ("COMPLETE", None)
    assert outcome.results["knn/top1_val"] == expected["knn/top1_val"]  # the same encoder
    here = origin_file(tmp_path / "node" / "rank0" / "later", identity)
    there = origin_file(lab / "runs" / "later", identity)
    assert here.read_bytes() == there.read_bytes()

    whole, written = there.read_bytes(), (lab / "runs" / "later").rglob("*.safetensors")
    assert list(written) == [there]  # the trial sends none back
    here.write_bytes(whole[:-1] + b"?")  # by a bad disk
    assert attempted("node").state == "COMPLETE"
    assert here.read_bytes() == whole

    there.write_bytes(whole[:-1] + b"?")
    outcome = attempted("other")
    assert (outcome.state, outcome.reason) == ("FAILED", "data")
    assert "encoder.from: 'earlier': the copy " in str(outcome.message)
    assert "is gone or damaged; resume the sweep, which takes it anew" in str(outcome.message)
    assert origin_pins(spec, b, pins) == pins  # as a driver that resumes
    assert there.read_bytes() == whole
    assert attempted("other").state == "COMPLETE"


def test_a_download_whose_process_gives_no_sign_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locks, "POLL_S", 0.05)
    monkeypatch.setattr(locks, "LEASE_S", 0.2)
    monkeypatch.setattr(Bucket, "download", lambda bucket, key, path, **_: path.write_bytes(b"weights"))
    identity = f"sha256:{hashlib.sha256(b'weights').hexdigest()}"
    record = TrialRecord("t", "later", config={"pins": {"encoder.from earlier": identity}})
    path = origin_file(tmp_path / "later", identity)
    path.parent.mkdir(parents=True)
    with FileLock(path.with_suffix(".lock")):  # of a stopped process
        trial_sync._fetch_origins(Bucket("s3://none/at/all"), tmp_path / "later" / "trials" / "t", record)
    assert path.read_bytes() == b"weights"
