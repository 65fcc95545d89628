"""Plugins that keep their contracts, as text: the tests make one mistake in each."""

METHOD = '''
"""Two views of an image have alike projections, away from a moving centre."""

from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn import functional as F

from ssl_sweep.models.encoders import Encoder
from ssl_sweep.models.precision import full_precision

CHECK = {"encoder": "drlim", "image_size": 16}


class Method(nn.Module):
    def __init__(
        self, encoder: Encoder, *, noise: Annotated[float, Field(ge=0, description="standard deviation")] = 0.1
    ) -> None:
        super().__init__()
        self.encoder, self.noise = encoder, noise
        self.head = nn.Linear(encoder.feature_dim, 8)
        self.register_buffer("center", torch.zeros(8))

    def views(self, images, augment, rng):
        first, second = augment.view(images, rng), augment.view(images, rng)
        return {"first": first + self.noise * images.sampler(rng).randn(*first.shape[1:]), "second": second}

    def loss(self, batch):
        one, other = (self.head(self.encoder(batch[name])) for name in ("first", "second"))
        with full_precision(one):
            one, other = one.float(), other.float()
            self.mean = one.detach().mean(0)
            loss = (one - other).square().mean() + (one - self.center).square().mean()
        return loss, {"spread": one.detach().square().mean()}

    def after_step(self, progress):
        self.center.mul_(0.9).add_(0.1 * self.mean)

    def visualize(self, batch):
        return batch["first"].clamp(0, 1)
'''

EVALUATION = '''
"""The nearest class mean, trained for some epochs by nothing."""

from typing import Annotated

import torch
from pydantic import Field

from ssl_sweep.training.features import extract

METRICS = ("top1_val", "top1_test")


def evaluate(
    encoder, splits, stage, *, epochs: Annotated[int, Field(ge=1, description="reports")] = 2
) -> dict[str, float]:
    features, labels = extract(encoder, splits.train, splits.image_size, stage)
    means = torch.stack([features[labels == label].mean(0) for label in range(splits.num_classes)])
    done = int((stage.folder / "done").read_text()) if (stage.folder / "done").exists() else 0
    for epoch in range(done, epochs):
        results = {}
        for split, pack in (("val", splits.val), ("test", splits.test)):
            features, labels = extract(encoder, pack, splits.image_size, stage)
            results[f"top1_{split}"] = 100 * float((torch.cdist(features, means).argmin(1) == labels).double().mean())
        (stage.folder / "done").write_text(str(epoch + 1))
        stage.report(results, epoch + 1)
    return results
'''

ENCODER = '''
"""A plain convolutional net."""

from typing import Annotated

from pydantic import Field
from torch import nn

from ssl_sweep.models.encoder import Encoder


class Backbone(Encoder):
    def __init__(self, image_size: int, *, width: Annotated[int, Field(ge=1, description="channels")] = 8) -> None:
        if image_size < 32:
            raise ValueError(f"image_size: {image_size} is too small; use 32 or more")
        side = (image_size + 1) // 2
        super().__init__(nn.Conv2d(3, width, 3, stride=2, padding=1), image_size, (width, side, side))
'''

SOURCE = '''
"""Numbered images NAME-LABEL.png of a folder."""

import numpy as np
from PIL import Image

from ssl_sweep.data.images import DataError
from ssl_sweep.data.items import Contents, ImageList, Source, digest, hold_out_test, list_files


def open_source(argument, *, root, split_seed):
    folder = root / argument
    if not folder.is_dir():
        raise DataError(f"{folder} is not there; name a folder of images")
    files = list(list_files(folder))

    def read():
        labels = np.array([int(file.path[-5]) for file in files], dtype=np.int64)
        images = ImageList(labels, lambda row: files[row].path, lambda row: Image.open(files[row].path))
        return Contents(*hold_out_test(images, split_seed), ("a", "b"))

    return Source("numbered", {"files": digest(files, folder), "split_seed": split_seed}, read)
'''
