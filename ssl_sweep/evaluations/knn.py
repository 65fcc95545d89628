"""Weighted k-nearest-neighbour classification of frozen features."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from ssl_sweep.data.splits import Splits
from ssl_sweep.training import classifier
from ssl_sweep.training.loop import Stage
from ssl_sweep.training.neighbours import knn_top1

Neighbours = Annotated[int, Field(ge=1)]


def metrics(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """The four of a single k; with a list of them, each one's top-1 and the k that was chosen."""
    k = settings["k"]
    if isinstance(k, int):
        return classifier.METRICS
    return (
        *classifier.METRICS,
        *(f"top1_k{each}_{split}" for each in dict.fromkeys(k) for split in ("val", "test")),
        "k_best",
    )


def evaluate(
    encoder: nn.Module,
    splits: Splits,
    stage: Stage,
    *,
    k: Annotated[
        Neighbours | Annotated[tuple[Neighbours, ...], Field(min_length=1)],
        Field(description="neighbours that vote (at most the training set); of a list, validation chooses"),
    ] = 20,
    temperature: Annotated[float, Field(gt=0, description="a neighbour at cosine s votes with exp(s / t)")] = 0.1,
) -> dict[str, float]:
    """Top-1 in percent by the vote of the k nearest training images (Wu et al. 2018, arXiv:1805.01978, section 3.4).

    With several k, `top1_k20_test` and so on are those of each, `top1_test` that of the k with the best validation
    top-1 (the first of equals), which is `k_best`. Nothing is trained, so that there are no epochs: the best is the
    only value.
    """
    ks = list(dict.fromkeys([k] if isinstance(k, int) else k))
    found = knn_top1(encoder, splits, stage, ks=ks, temperature=temperature)
    best = found["val"].index(max(found["val"]))
    results = {f"top1_{split}": shares[best] for split, shares in found.items()}
    results |= {f"top1_best_{split}": shares[best] for split, shares in found.items()}
    if not isinstance(k, int):
        results |= {f"top1_k{each}_{split}": found[split][index] for index, each in enumerate(ks) for split in found}
        results["k_best"] = float(ks[best])
    stage.report(results, 1)
    return results
