"""The images that a trial pretrains on: chosen once, and listed in an artifact that a resumed trial reads again.

Features are extracted once a node and shared by all trials, whatever they choose with them, below the node's cache.
"""

import csv
import hashlib
import io
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from ssl_sweep.data.images import DataError
from ssl_sweep.data.pack import UNUSED_S, Pack
from ssl_sweep.data.splits import data_of
from ssl_sweep.data.subset import OWN_ENCODER, Subset, names_of
from ssl_sweep.models.distributed import broadcast
from ssl_sweep.models.encoders import Encoder, build_encoder
from ssl_sweep.models.weights import load_weights
from ssl_sweep.training.coreset import choose
from ssl_sweep.training.features import extract
from ssl_sweep.training.loop import Stage
from ssl_sweep.trial.stages import PretrainingOutput
from ssl_sweep.trialdir.atomic import durable, write_bytes
from ssl_sweep.trialdir.locks import locked

LIST = "subset.csv"
FORMAT = 1  # of features: raise it when the same encoder and images give others
FIELDS = ("index", "name", "label")
log = logging.getLogger("ssl_sweep.trial")


def listed_rows(
    subset: Subset,
    config: Mapping[str, Any],
    pack: Pack,
    encoder: Callable[[], Encoder],
    stage: Stage,
    cache: Path,
    output: PretrainingOutput,
) -> Tensor:
    """The rows that a pretraining's list names; where there is none, those chosen now, which are listed.

    The arguments are those of `chosen_rows`; output: of the pretraining. Raises as that.
    """
    rows = read_list(output.folder / "artifacts" / LIST, pack)
    if rows is None:
        rows = chosen_rows(subset, config, pack, encoder, stage, cache)
        with output.artifacts() as folder:
            write_bytes(folder / LIST, listed(pack, rows, config))
    output.tag("data.subset", words_of(pack, rows))
    return rows


def shared_rows(rows: Tensor | None, count: int) -> Tensor:
    """Rank 0's rows of `count`, ascending, on every rank; the others pass None."""
    kept = torch.zeros(count, dtype=torch.uint8)
    if rows is not None:
        kept[rows] = 1
    return broadcast(kept).nonzero().flatten()


def chosen_rows(
    subset: Subset, config: Mapping[str, Any], pack: Pack, encoder: Callable[[], Encoder], stage: Stage, cache: Path
) -> Tensor:
    """The rows, ascending, of the images of a pack that a trial's subset keeps.

    Args:
        subset: the config's.
        config: the trial's.
        pack: all training images.
        encoder: makes the encoder whose features decide, with its weights.
        stage: where features are extracted; its seed is that of a choice `per_seed`.
        cache: the node's.

    Raises:
        DataError: labels decide, and an image has none; or fewer than two images are kept.
    """
    if subset.method == "sas" and not subset.needs_clusters and (lacking := int((pack.labels < 0).sum())):
        remedy = "use `classes: clusters`, or images with labels"
        raise DataError(f"data.subset.classes: labels: {lacking} of {len(pack)} images have none; {remedy}")
    features = _features(subset, config, pack, encoder, stage, cache) if subset.needs_features else None
    seed = stage.seed if subset.seed == "per_seed" else subset.seed
    rows = choose(subset, len(pack), features, pack.labels, seed)
    if len(rows) < 2:
        knob, value = ("fraction", subset.fraction) if subset.threshold is None else ("threshold", subset.threshold)
        raise DataError(f"data.subset.{knob}: {value} keeps {len(rows)} of {len(pack)} images; raise it")
    return rows


def describe_settings(settings: Mapping[str, Any], image_size: int) -> dict[str, str]:
    """The metadata of a file of weights by which `read_origin` builds its encoder."""
    return {"format": "pt", "encoder_settings": json.dumps(settings, sort_keys=True), "image_size": str(image_size)}


def described_name(path: Path) -> str:
    """The name of the encoder that such a file is of."""
    name: str = _description(path)[0]["name"]
    return name


def read_origin(path: Path, pinned: str) -> Encoder:
    """The encoder of an earlier sweep from the file that this one keeps of it. Raises WeightsError."""
    settings, image_size = _description(path)
    encoder = build_encoder(settings, image_size)
    load_weights(encoder, path, settings["name"], pinned)
    return encoder


def _description(path: Path) -> tuple[dict[str, Any], int]:
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    return json.loads(metadata["encoder_settings"]), int(metadata["image_size"])


def listed(pack: Pack, rows: Tensor, config: Mapping[str, Any]) -> bytes:
    """The images of these rows as CSV: their places in the training split from 0, their names and classes."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(FIELDS)
    kept = pack.subset(rows)
    names = names_of(kept, data_of(config["data"]), Path(config["data"]["root"]))
    for position, name, label in zip(kept.positions.tolist(), names, kept.labels.tolist(), strict=True):
        writer.writerow((position, name, pack.classes[label] if 0 <= label < len(pack.classes) else ""))
    return text.getvalue().encode(errors="surrogateescape")


def read_list(path: Path, pack: Pack) -> Tensor | None:
    """The rows of a pack that a list names; None if there is no such file, or it is of other images."""
    try:
        with path.open(newline="", errors="surrogateescape") as file:
            indices = torch.tensor([int(row["index"]) for row in csv.DictReader(file)])
    except (FileNotFoundError, KeyError, ValueError, TypeError):
        return None
    rows = torch.isin(pack.positions, indices).nonzero().flatten()
    return rows if len(rows) == len(indices) > 0 else None


def words_of(pack: Pack, rows: Tensor) -> str:
    """How many images are kept, and a hash of which: `9000 of 45000 images, 3f2a9c1b04de`."""
    digest = hashlib.sha256(np.ascontiguousarray(pack.positions[rows].numpy(), dtype="<i8").tobytes()).hexdigest()
    return f"{len(rows)} of {len(pack)} images, {digest[:12]}"


def _features(
    subset: Subset, config: Mapping[str, Any], pack: Pack, make: Callable[[], Encoder], stage: Stage, cache: Path
) -> Tensor:
    """Pooled features (N, D) in fp32 of all images: those in the cache, or extracted into it by the first trial."""
    path = cache / "features" / f"{_key(subset, config, pack, stage)}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock"), "features of the images, which it extracts"):
        with suppress(OSError, ValueError, EOFError):  # not there, or damaged
            found = np.load(path)
            os.utime(path)
            return torch.from_numpy(found).to(stage.device)
        log.info("data.subset: features of %d images by %s", len(pack), subset.origin)
        encoder = make()
        features, _ = extract(encoder, pack, encoder.image_size, stage)
        if not bool(features.isfinite().all()):
            raise DataError(
                f"data.subset.from: {subset.origin}: a feature is not a finite number; name another encoder"
            )
        _remove_unused(path.parent)
        with durable(path) as file:
            np.save(file, features.cpu().numpy())
    return features


def _key(subset: Subset, config: Mapping[str, Any], pack: Pack, stage: Stage) -> str:
    """A hash of what decides the features: the images in their order, the encoder, the precision, and the version."""
    pins = config.get("pins", {})
    if subset.origin == OWN_ENCODER:
        own = {pin: pins[pin] for pin in sorted(pins) if pin.startswith("encoder")}
        encoder = [config["encoder"], config["data"]["image_size"], own]
    else:
        encoder = [pins[f"subset.from {subset.origin}"]]
    positions = hashlib.sha256(np.ascontiguousarray(pack.positions.numpy(), dtype="<i8").tobytes()).hexdigest()
    images = [pack.identity, positions, config["data"]["short_side"], config["data"]["on_error"], pack.skipped]
    text = json.dumps([FORMAT, encoder, images, stage.precision, stage.device.type], sort_keys=True)
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _remove_unused(folder: Path) -> None:
    """Remove features that no trial has read for a week."""
    for path in folder.glob("*.npy"):
        with suppress(OSError):  # another process removes it
            if path.stat().st_mtime < time.time() - UNUSED_S:
                path.unlink()
