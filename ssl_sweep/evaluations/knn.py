"""Weighted k-nearest-neighbour classification of frozen features."""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field
from torch import nn

from ssl_sweep.data.splits import Splits
from ssl_sweep.training import classifier
from ssl_sweep.training.loop import Stage
from ssl_sweep.training.neighbours import knn_scores
from ssl_sweep.training.refit import Refit

Neighbours = Annotated[int, Field(ge=1)]


def metrics(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """Those of a classifier; with a list of k, the top-1 of each and the chosen k too."""
    k = settings["k"]
    if isinstance(k, int):
        return classifier.METRICS
    return (
        *classifier.METRICS,
        *(f"top1_k{number}_{split}" for number in dict.fromkeys(k) for split in ("val", "test")),
        "k_best",
    )


def chosen_on_validation(settings: Mapping[str, Any]) -> tuple[str, ...]:
    """k, if several are tried."""
    return () if isinstance(settings["k"], int) or len(set(settings["k"])) == 1 else ("k",)


def evaluate(
    encoder: nn.Module,
    splits: Splits,
    stage: Stage,
    *,
    k: Annotated[
        Neighbours | Annotated[tuple[Neighbours, ...], Field(min_length=1)],
        Field(description="neighbours that vote (at most the training set); validation chooses from a list"),
    ] = 20,
    temperature: Annotated[float, Field(gt=0, description="a neighbour at cosine s votes with exp(s / t)")] = 0.1,
    refit: Refit = False,
) -> dict[str, float]:
    """Top-1 in percent by the vote of the k nearest training images (Wu et al. 2018, arXiv:1805.01978, section 3.4).

    With several k, `top1_k20_test` and its like are the top-1 of each; `k_best` is the k with the best validation top-1
    (the first of equals), and `top1_test` is its top-1. Nothing is trained: without epochs, `top1_best_*` equal
    `top1_*`. With `refit` validation images vote too, on test images.
    """
    ks = list(dict.fromkeys([k] if isinstance(k, int) else k))
    scores = knn_scores(encoder, splits, stage, ks=ks, temperature=temperature)
    if refit:
        again = knn_scores(encoder, splits.joined(), stage, ks=ks, temperature=temperature)
        scores = [one | other for one, other in zip(scores, again, strict=True)]
    best = max(range(len(ks)), key=lambda index: scores[index].get("top1_val", 0.0))
    results = dict(scores[best])
    if "top1_val" in results:
        results |= {f"top1_best_{split}": results[f"top1_{split}"] for split in splits.measured}
    if not isinstance(k, int):
        for number, own in zip(ks, scores, strict=True):
            results |= {f"top1_k{number}_{split}": own[f"top1_{split}"] for split in splits.measured}
        results["k_best"] = float(ks[best])
    stage.report(results, 1)
    return results
