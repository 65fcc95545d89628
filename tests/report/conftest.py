"""Sweeps as trials write them, delivered by the project's own recorder into an MLflow store."""

import io
import json
import math
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image

from ssl_sweep.tracking.recorder import Recorder
from ssl_sweep.trialdir.events import ArtifactAdded, AttemptStarted, Ended, StageFinished, TagsSet
from ssl_sweep.trialdir.journal import Journal

NASTY = '<script>alert("1")</script> & <b>bold</b> {{ 7 * 7 }} $x$ "quoted" é 漢'


class Written:
    """A sweep on disk: trials are added, then all of it is delivered."""

    def __init__(self, root: Path, uri: str, **spec: Any) -> None:
        self.uri = uri
        self.spec: dict[str, Any] = {
            "name": "demo",
            "description": "how much overlay helps",
            "data": {"source": "digits"},
            "encoder": {"name": "resnet18", "width": 16},
            "method": {"name": "autoencoder"},
            "pretrain": {"epochs": 4},
            "health": {"collapse_below": 0.02},
            "evaluate": {"finetune": {"epochs": 3}, "knn": {"k": 5}},
            "search": {"space": {"views.overlay_alpha": [0.0, 0.1, 0.3]}, "seeds": [0, 1], "sampler": "grid",
                       "objective": "maximize finetune/top1_val"},
            "table": {"rows": ["views.overlay_alpha"], "columns": ["finetune/top1_test", "knn/top1_test"],
                      "published": {"finetune/top1_test": {"0.0": 37.1, "0.3": 38.1}}},
        } | spec  # fmt: skip
        self.name = self.spec["name"]
        self.folder = root / self.name
        self.folder.mkdir()

    def trial(
        self,
        choice: int,
        seed: int,
        knobs: Mapping[str, Any],
        *,
        state: str | None = "COMPLETE",
        top1: float = 50.0,
        epochs: int = 4,
        collapsed: bool = False,
        files: Mapping[str, bytes] | None = None,
        **end: Any,
    ) -> Path:
        """A trial that has pretrained for some epochs, and been evaluated if it is COMPLETE; state None: it runs."""
        trial_id = f"trial-{choice}-{seed}"
        folder = self.folder / "trials" / trial_id
        folder.mkdir(parents=True)
        known = {"trial_id": trial_id, "sweep": self.name, "choice": choice, "seed": seed, "knobs": dict(knobs)}
        config = {"data": {"source": "digits"}, "method": {"name": "autoencoder"}, "seed": seed}
        (folder / "config.yaml").write_text(yaml.safe_dump({**known, "config": config}))
        journal = Journal(folder)
        journal.append(AttemptStarted(attempt=1, host="node7", git_commit="c0ffee1234567890"))
        for epoch in range(1, epochs + 1):
            journal.report(_epoch(epoch, top1, collapsed), epoch)
        if collapsed:
            journal.append(TagsSet(tags={"collapsed": "true"}))
        for name, content in (files or {}).items():
            (folder / "artifacts").mkdir(exist_ok=True)
            (folder / "artifacts" / name).write_bytes(content)
            journal.append(ArtifactAdded(path=f"artifacts/{name}"))
        if state == "COMPLETE":
            journal.append(StageFinished(stage="pretrain", key="k", seconds=40.0, results={"loss": 0.1}))
            for epoch in range(1, 4):
                journal.report({"finetune/top1_val": top1 - 10 / epoch, "finetune/top1_test": top1 - 9 / epoch}, epoch)
            journal.append(StageFinished(stage="finetune", key="k", seconds=20.0, results={"top1_val": top1 - 10 / 3}))
            journal.append(StageFinished(stage="knn", key="k", seconds=2.0, results={"top1_test": top1 - 12}))
        if state is not None:
            journal.append(Ended(state=state, **end))
        return folder

    def deliver(self) -> None:
        recorder = Recorder(self.name, self.folder, self.uri, self.spec)
        recorder.start()
        assert recorder.close(120) == 0


def _epoch(epoch: int, top1: float, collapsed: bool) -> dict[str, float]:
    spread = 0.3 if not collapsed else 0.3 / 10**epoch
    return {
        "pretrain/loss": math.exp(-epoch / 3) + (60 - top1) / 100,
        "pretrain/knn_top1_val": top1 - 20 / epoch,
        "pretrain/effective_rank": 30 * spread + epoch,
        "pretrain/feature_std_val": spread,
        "pretrain/alignment": 0.5 + 0.1 / epoch,
        "pretrain/uniformity": -1.0 - 0.1 * epoch,
    }


def png(width: int = 82, height: int = 32, seed: int = 0) -> bytes:
    """Noise, which compresses badly."""
    noise = random.Random(seed).randbytes(3 * width * height)
    out = io.BytesIO()
    Image.frombytes("RGB", (width, height), noise).save(out, "PNG")
    return out.getvalue()


def map_json(classes: Sequence[str] = ("0", "1")) -> bytes:
    count = 10 * len(classes)
    points = [[index % 7, index % 5] for index in range(count)]
    labels = [index % len(classes) for index in range(count)]
    return json.dumps({"points": points, "labels": labels, "classes": list(classes)}).encode()


@pytest.fixture(scope="session")
def empty_mlflow(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store without runs: to create its tables takes MLflow seconds."""
    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}")
    return path


@pytest.fixture
def write(tmp_path: Path, empty_mlflow: Path) -> Callable[..., Written]:
    """A sweep with changes to its spec: `write(search={...})`."""
    return lambda **spec: Written(tmp_path, store_in(tmp_path, empty_mlflow), **spec)


def store_in(folder: Path, empty_mlflow: Path) -> str:
    path = folder / "mlflow.db"
    if not path.exists():
        shutil.copy(empty_mlflow, path)
    return f"sqlite:///{path}"


@pytest.fixture(scope="session")
def full(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Written:
    """A sweep that has everything: a knob of each kind, states of each kind, pictures, failures, nasty names."""
    root = tmp_path_factory.mktemp("full")
    space = {
        "views.overlay_alpha": [0.0, 0.1, 0.3],
        "pretrain.lr": {"low": 0.001, "high": 1.0, "log": True, "step": None},
        "encoder.pool": ["mean", NASTY],
    }
    search = {
        "space": space,
        "seeds": [0, 1],
        "sampler": "random",
        "trials": 14,
        "objective": "maximize finetune/top1_val",
    }
    written = Written(root, store_in(root, empty_mlflow), search=search, description=NASTY)
    draw = random.Random(0)
    for choice in range(14):
        alpha, pool = [0.0, 0.1, 0.3][choice % 3], ["mean", NASTY][choice % 2]
        knobs = {"views.overlay_alpha": alpha, "pretrain.lr": round(10 ** draw.uniform(-3, 0), 6), "encoder.pool": pool}
        for seed in (0, 1):
            top1 = 45 + 20 * alpha + 3 * (choice % 2) + draw.gauss(0, 1)
            files = {"pictures_before.png": png(), "pictures.png": png(seed=choice), "neighbours.png": png(200, 200)}
            if choice == 11:
                written.trial(
                    choice,
                    seed,
                    knobs,
                    state="FAILED",
                    epochs=2,
                    reason="oom",
                    message=NASTY,
                    traceback=f"Traceback:\n{NASTY}",
                )
            elif choice == 12:
                written.trial(choice, seed, knobs, state="PRUNED", epochs=2, collapsed=True)
            elif choice == 13:
                written.trial(choice, seed, knobs, state=None, epochs=1)
            else:
                written.trial(choice, seed, knobs, top1=top1, files={**files, "map.json": map_json(("cat", NASTY))})
    written.deliver()
    return written
