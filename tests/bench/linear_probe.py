"""The default linear probe against scikit-learn's logistic regression, on the features of a random narrow ResNet-18.

    python tests/bench/linear_probe.py SOURCE SIZE [SHORT_SIDE]

SOURCE is written as `data.source`. Logistic regression has C = 1, on the features as they are and standardised.
"""

import sys
import tempfile
from pathlib import Path

import torch
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from ssl_sweep.data.splits import Data, load_splits
from ssl_sweep.evaluations.linear import evaluate
from ssl_sweep.models.encoders import build_encoder
from ssl_sweep.training.features import extract
from ssl_sweep.training.loop import Stage


def main(source: str, size: int, short_side: int | None) -> None:
    """Print the top-1 of the test images by each."""
    with tempfile.TemporaryDirectory() as folder:
        data = Data(source=source, image_size=size, short_side=short_side)
        splits = load_splits(data, root=Path.cwd(), cache=Path(folder) / "cache")
        torch.manual_seed(0)
        encoder = build_encoder({"name": "resnet18", "width": 16}, size)
        stage = Stage(Path(folder) / "linear", lambda metrics, epoch: None, 1, torch.device("cpu"))
        train, test = (extract(encoder, pack, size, stage) for pack in (splits.train, splits.test))
        for name, classifier in (
            ("logistic regression", LogisticRegression(max_iter=2000)),
            ("the same, standardised", make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))),
        ):
            classifier.fit(*(x.numpy() for x in train))
            print(f"{name:24} {100 * classifier.score(*(x.numpy() for x in test)):.1f}", flush=True)
        (Path(folder) / "linear").mkdir()
        results = evaluate(encoder, splits, stage)
        chosen = ", ".join(f"{name} {results[name]:g}" for name in ("lr_best", "weight_decay_best"))
        print(f"{'linear':24} {results['top1_test']:.1f} ({chosen})", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
