"""A bucket on a real S3 server: what it answers, refuses, and how long it is waited for."""

import threading
import time
from pathlib import Path

import pytest
from servers import S3
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.storage import bucket as buckets
from ssl_sweep.storage.bucket import Bucket, BucketError


def test_objects_are_written_read_listed_and_removed(
    lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buckets, "MULTIPART_THRESHOLD", 5 << 20)
    bucket = Bucket(f"s3://{lab.name}/some/where/")
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * (12 << 12))  # 12 MiB: three parts
    with large.open("rb") as file:
        etags = [bucket.put("a/one", b"1"), bucket.put("a/large", file), bucket.put("b", b"3")]
        assert not file.closed
    listed = bucket.list_objects("a/")
    assert {key: (each.etag, each.size) for key, each in listed.items()} == {
        "a/one": (etags[0], 1),
        "a/large": (etags[1], 12 << 20),
    }
    assert [bucket.etag("b"), bucket.etag("c")] == [etags[2], None]
    assert [bucket.get("b"), bucket.get("c")] == [b"3", None]
    assert bucket.download("a/large", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == large.read_bytes()
    assert not bucket.download("c", tmp_path / "c")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["back", "large"]  # nothing half written
    bucket.delete(["a/one", "nobody"])
    assert bucket.list_objects("").keys() == {"a/large", "b"}
    assert (lab / "some" / "where" / "b").read_bytes() == b"3"


@pytest.mark.parametrize(
    ("place", "environment", "said"),
    [
        ("s3://nobodys/runs", {}, "NoSuchBucket.*make the bucket, or name another"),
        ("s3://lab/runs", {"AWS_SECRET_ACCESS_KEY": "wrong-words"}, "SignatureDoesNotMatch.*AWS_SECRET_ACCESS_KEY"),
        ("s3://lab/runs", {"AWS_ACCESS_KEY_ID": "nobody"}, "InvalidAccessKeyId.*AWS_ACCESS_KEY_ID"),
        ("s3://lab/runs", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, "cannot be reached.*AWS_ENDPOINT_URL"),
    ],
)
def test_a_place_that_takes_nothing_is_refused_with_what_to_do(
    lab: Path, monkeypatch: pytest.MonkeyPatch, place: str, environment: dict[str, str], said: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    place = place.replace("//lab/", f"//{lab.name}/")
    with pytest.raises(BucketError, match=said) as refused:
        Bucket(place).check()
    assert place in str(refused.value)
    assert S3.secret not in str(refused.value)
    assert "wrong-words" not in str(refused.value)


def test_no_bucket_is_named() -> None:
    with pytest.raises(BucketError, match=r"--storage, SSL_SWEEP_STORAGE: s3:// names no bucket"):
        Bucket("s3://")
    with pytest.raises(BucketError, match=r"keys into AWS_ACCESS_KEY_ID") as refused:
        Bucket("s3://key:hidden-words@lab/runs")
    assert "hidden" not in str(refused.value)


def test_a_server_that_comes_back_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab").mkdir()
    with S3(tmp_path) as server:
        for name, value in server.env.items():
            monkeypatch.setenv(name, value)
        bucket = Bucket("s3://lab")
        bucket.check()
        server.kill()
        back = threading.Timer(1.0, server.start)
        back.start()
        bucket.put("late", b"but there")
        back.join()
        assert bucket.get("late") == b"but there"
        server.kill()
        bucket.patience_s = 1.0
        began = time.monotonic()
        with pytest.raises(BucketError, match=r"s3://lab could not be reached for 1 s .*ssl-sweep resume"):
            bucket.get("late")
        assert time.monotonic() - began < 10
        with pytest.raises(BucketError, match="cannot be reached"):
            Bucket("s3://lab").get("late")


def test_commands_say_what_is_wrong_once(lab: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = ["--storage", f"s3://{lab.name}/runs"]
    ran = CliRunner().invoke(app, ["list", *place])
    assert (ran.exit_code, "set SSL_SWEEP_LEDGER to a server" in ran.output) == (2, True)
    monkeypatch.setenv("SSL_SWEEP_LEDGER", f"sqlite:///{tmp_path / 'ledger.db'}")
    spec = tmp_path / "spec.yaml"
    spec.write_text(
        "name: demo\ndata: {source: digits, image_size: 8}\nencoder: pixels\nmethod: supervised\nevaluate: {knn: {}}\n"
    )
    ran = CliRunner().invoke(app, ["run", str(spec), *place])
    assert (ran.exit_code, "set MLFLOW_TRACKING_URI to a server" in ran.output) == (2, True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path / 'mlflow.db'}")
    ran = CliRunner().invoke(app, ["run", str(spec), *place])
    assert (ran.exit_code, "MLflow must be a server" in ran.output) == (2, True)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong-words")
    ran = CliRunner().invoke(app, ["run", str(spec), *place])
    assert (ran.exit_code, "check AWS_SECRET_ACCESS_KEY" in ran.output) == (2, True)
    assert "Traceback" not in ran.output
    assert "wrong-words" not in ran.output
