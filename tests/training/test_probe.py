"""Heads that are trained at once: none of them notices the others."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from ssl_sweep.training.loop import Diverged, Stage, fit
from ssl_sweep.training.optimizers import Recipe
from ssl_sweep.training.probe import Heads

RECIPE = Recipe(epochs=6, batch_size=32, schedule="step")
FEATURES = torch.randn(200, 12, generator=torch.Generator().manual_seed(1))
LABELS = torch.randint(5, (200,), generator=torch.Generator().manual_seed(2))


def trained(recipes: list[Recipe], folder: Path) -> Heads:
    torch.manual_seed(0)
    heads = Heads(12, 5, recipes)
    stage = Stage(folder, lambda metrics, step: None, 3, torch.device("cpu"))
    fit(heads, lambda i, rng: heads.loss(FEATURES[i], LABELS[i]), len(FEATURES), recipes[0], stage, lambda epoch: None)
    return heads


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
def test_together_as_each_by_itself(optimizer: Any, tmp_path: Path) -> None:
    base = replace(RECIPE, optimizer=optimizer)
    recipes = [replace(base, lr=lr, weight_decay=decay) for lr in (0.01, 1.0) for decay in (0.0, 0.1)]
    together = trained(recipes, tmp_path / "together")
    heads = [trained([recipe], tmp_path / str(number)).heads[0] for number, recipe in enumerate(recipes)]
    for ours, alone in zip(together.heads, heads, strict=True):
        torch.testing.assert_close(ours.state_dict(), alone.state_dict(), rtol=1e-4, atol=1e-6)
    for other in heads[1:]:  # rate and decay have been at work
        assert not torch.allclose(heads[0].weight, other.weight, rtol=1e-4, atol=1e-6)


def test_logits_are_those_of_each_head() -> None:
    heads = Heads(12, 5, [RECIPE, replace(RECIPE, lr=1.0)])
    torch.nn.init.normal_(heads.heads[1].weight)
    expected = torch.stack([head(FEATURES) for head in heads.heads], dim=1)
    torch.testing.assert_close(heads(FEATURES), expected)


def test_validation_chooses_the_head_and_the_epoch() -> None:
    heads = Heads(2, 2, [replace(RECIPE, lr=lr) for lr in (0.1, 0.2, 0.3)])
    sure, wrong = torch.eye(2), torch.eye(2).flip(0)

    def score(weights: list[torch.Tensor], val: torch.Tensor) -> dict[str, float]:
        for head, weight in zip(heads.heads, weights, strict=True):
            head.load_state_dict({"weight": weight, "bias": torch.zeros(2)})
        test = [(torch.eye(2), torch.tensor([0, 1]))]
        return heads.score([(torch.eye(2), val)], test)

    # 100 % on validation, none on test: it is chosen all the same
    first = score([sure, wrong, sure], torch.tensor([1, 0]))
    scores = {"top1_val": 100, "top1_test": 0, "top1_best_val": 100, "top1_best_test": 0, "lr_best": 0.2}
    both = {"top5_val": 100, "top5_test": 100}  # of two classes
    assert first == {**scores, **both, "mean_per_class_val": 100, "mean_per_class_test": 0}
    second = score([wrong, wrong, sure], torch.tensor([0, 0]))  # all at half: the first head; the best epoch stays
    assert second == {**first, "top1_val": 50, "mean_per_class_val": 50, "lr_best": 0.1}


def test_a_head_that_diverges_does_not_end_the_others(tmp_path: Path) -> None:
    sound, wild = replace(RECIPE, lr=0.1, epochs=30), replace(RECIPE, lr=1e4, weight_decay=1.0, epochs=30)
    together = trained([sound, wild], tmp_path / "together")
    alone = trained([sound], tmp_path / "alone")
    assert not together.heads[1].weight.isfinite().all()
    torch.testing.assert_close(together.heads[0].weight, alone.heads[0].weight, rtol=1e-4, atol=1e-6)
    always_first = torch.zeros_like(LABELS)  # what the argmax of nothing but NaN would answer
    together.score([(FEATURES, always_first)], [(FEATURES, always_first)])
    assert int(together.chosen) == 0
    with pytest.raises(Diverged):
        trained([wild, wild], tmp_path / "wild")
