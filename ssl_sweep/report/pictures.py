"""Pictures that trials logged to MLflow: reconstructions, nearest neighbours, a map of the features."""

import base64
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from PIL import Image

from ssl_sweep.data.class_numbers import UNLABELLED
from ssl_sweep.report.figures import Plot, Trace, escaped, numbers, shortened, style, thinned
from ssl_sweep.report.sweep import Sweep, label_of, trial_label
from ssl_sweep.tables.labels import Key
from ssl_sweep.tables.pivot import values_of
from ssl_sweep.tracking.reader import artifact

MAX_BYTES = 300_000  # of a picture file; larger ones are shrunk
MAX_SIDE = 1200  # of a shrunk picture, in pixels
SHOWN = 560  # pixels of width up to which small pictures are enlarged in whole multiples
MAX_ROWS = 8  # of the table with a picture
MAX_TRIED = 3  # trials whose pictures are looked for
MAX_CLASSES = 20  # in the map's legend
LABEL = 24  # characters of a class in the legend


@dataclass(frozen=True)
class Picture:
    """An image as a data URI, shown `width` CSS pixels wide."""

    title: str
    alt: str
    src: str
    width: int
    enlarged: bool


@dataclass(frozen=True)
class Gallery:
    """Pictures and feature map of one trial, named by `label`, and a picture for each row of the table."""

    label: str
    reconstructions: tuple[Picture, ...]  # before and after pretraining
    neighbours: tuple[Picture, ...]
    map: Plot | None
    rows: tuple[Picture, ...]


def read_gallery(sweep: Sweep, tracking_uri: str) -> Gallery | None:
    """The pictures of the best trial that has any; None if none has."""
    for _, run in _candidates(sweep).iterrows():
        trial_id, label = str(run["trial_id"]), trial_label(sweep, run)

        def read(name: str, trial_id: str = trial_id) -> bytes | None:
            return artifact(sweep.name, trial_id, name, tracking_uri)

        before = picture(read("pictures_before.png"), "Before pretraining", label)
        after = picture(read("pictures.png"), "After pretraining", label)
        near = picture(read("neighbours.png"), "Nearest test images", label)
        drawn = feature_map(read("map.json"))
        if before or after or near or drawn:
            both = tuple(each for each in (before, after) if each)
            return Gallery(label, both, (near,) if near else (), drawn, tuple(_by_row(sweep, tracking_uri)))
    return None


def picture(content: bytes | None, title: str, label: str) -> Picture | None:
    """A trial's picture for the page, shrunk if it is large; None if it is missing or broken."""
    if content is None:
        return None
    try:
        with Image.open(io.BytesIO(content)) as image:
            image.load()  # open() does not notice a truncated file
            kind, width = str(image.format).lower(), image.width
            if len(content) > MAX_BYTES:
                image.thumbnail((MAX_SIDE, MAX_SIDE))
                small = io.BytesIO()
                image.convert("RGB").save(small, "WEBP", quality=85)
                content, kind, width = small.getvalue(), "webp", image.width
    except (OSError, ValueError, Image.DecompressionBombError):
        return None
    factor = max(SHOWN // width, 1)
    src = f"data:image/{kind};base64,{base64.b64encode(content).decode()}"
    return Picture(title, f"{title}: {label}", src, width * factor, factor > 1)


def feature_map(content: bytes | None) -> Plot | None:
    """The plot of a feature map from `map.json`; None if it is missing or broken."""
    try:
        drawn = json.loads(content or b"null")
        classes, points = drawn["classes"], list(zip(drawn["labels"], drawn["points"], strict=True))
    except (ValueError, TypeError, KeyError):
        return None
    data: list[Trace] = []
    for label, name in [*enumerate(classes), (UNLABELLED, "without a label")]:
        own = [point for each, point in points if each == label]
        if own:
            look = style(len(classes) if label == UNLABELLED else label)
            data.append(
                {
                    "type": "scatter",
                    "mode": "markers",
                    "name": escaped(shortened(str(name), LABEL)),
                    "x": numbers(x for x, _ in own),
                    "y": numbers(y for _, y in own),
                    "hovertemplate": "%{fullData.name}<extra></extra>",
                    "marker": {"color": look.color, "symbol": look.symbol, "size": 6},
                }
            )
    hidden = {"showticklabels": False, "zeroline": False}
    layout: dict[str, Any] = {
        "xaxis": {**hidden, "title": {"text": "first principal component"}},
        "yaxis": {**hidden, "title": {"text": "second principal component"}, "scaleanchor": "x"},
        "showlegend": 1 < len(data) <= MAX_CLASSES,
        "height": 440 + 5 * min(len(data), MAX_CLASSES),
    }
    of_classes = f" of {len(data)} classes" if classes else ""
    alt = f"{len(points)} test images{of_classes}, by the first two principal components of their features"
    return Plot("Map of the features", alt, data, layout)


def _candidates(sweep: Sweep) -> pd.DataFrame:
    """The trials of the best choice, then other COMPLETE ones; before any is COMPLETE, any trials."""
    complete = sweep.best_first(sweep.runs)
    if complete.empty:
        return sweep.runs.head(MAX_TRIED)
    of_best = complete["choice"] == sweep.choices[0].number
    return pd.concat([complete[of_best], complete[~of_best]]).head(MAX_TRIED)


def _by_row(sweep: Sweep, tracking_uri: str) -> Sequence[Picture]:
    """A picture of the best trial of each row; rows with the same one, as from a shared pretraining, share it."""
    runs = sweep.best_first(sweep.runs)
    keys = map(Key, zip(*(values_of(runs, row) for row in sweep.rows), strict=True))
    best: dict[Key, str] = {}
    for key, trial_id in zip(keys, runs["trial_id"] if sweep.rows else (), strict=True):
        best.setdefault(key, trial_id)
    in_order = [row.key for row in sweep.table.body if row.key in best] or list(best)  # a grouped table has other keys
    labels_of: dict[bytes, list[str]] = defaultdict(list)
    for key in (in_order[i] for i in thinned(len(in_order), MAX_ROWS)):
        content = artifact(sweep.name, best[key], "pictures.png", tracking_uri)
        if content is not None:
            labels_of[content].append(label_of(dict(zip(sweep.rows, key, strict=True))))
    pictures = [picture(content, "; ".join(labels), "after pretraining") for content, labels in labels_of.items()]
    return [each for each in pictures if each is not None] if len(labels_of) > 1 else []
