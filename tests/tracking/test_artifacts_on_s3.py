"""Artifacts in a bucket: MLflow's server keeps them on a real S3 server, and everything of ours reads them back."""

from pathlib import Path

import pytest
import yaml
from servers import S3, Mlflow

from ssl_sweep.tracking import reader
from ssl_sweep.tracking.recorder import sync
from ssl_sweep.trialdir.events import ArtifactAdded, AttemptStarted, Ended
from ssl_sweep.trialdir.journal import Journal


def finished_trial(folder: Path) -> None:
    trial = folder / "trials" / "uuid-0-0"
    (trial / "artifacts").mkdir(parents=True)
    known = {"trial_id": "uuid-0-0", "sweep": "demo", "choice": 0, "seed": 0, "config": {}}
    (trial / "config.yaml").write_text(yaml.safe_dump(known))
    (trial / "artifacts" / "reconstruction.png").write_bytes(b"picture")
    journal = Journal(trial)
    journal.append(AttemptStarted(attempt=1, host="node7", pid=1))
    journal.append(ArtifactAdded(path="artifacts/reconstruction.png"))
    journal.report({"knn/top1_val": 50.0}, 1)
    journal.append(Ended(state="COMPLETE"))


@pytest.mark.slow
def test_a_sweeps_artifacts_lie_in_a_bucket(tmp_path: Path) -> None:
    """Slow: MLflow's server starts."""
    buckets, folder = tmp_path / "buckets", tmp_path / "demo"
    (buckets / "lab").mkdir(parents=True)
    finished_trial(folder)
    with S3(buckets) as s3, Mlflow(tmp_path / "mlflow.db", "s3://lab/mlflow", env=s3.env) as server:
        assert sync("demo", folder, server.url) == 4
        assert [path.read_bytes() for path in buckets.rglob("reconstruction.png")] == [b"picture"]
        assert reader.artifact("demo", "uuid-0-0", "reconstruction.png", server.url) == b"picture"
        assert reader.runs(["demo"], server.url)["knn/top1_val"].tolist() == [50.0]
