"""The linear probe against scikit-learn and a loop written out; its heads against each trained by itself."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn
from torch.nn import functional as F

from ssl_sweep.data.images import DataError
from ssl_sweep.data.splits import Data, Splits, load_splits
from ssl_sweep.evaluations.linear import evaluate, metrics
from ssl_sweep.knobs import knobs
from ssl_sweep.knobs.problems import findings_of
from ssl_sweep.training.classifier import METRICS
from ssl_sweep.training.features import extract
from ssl_sweep.training.loop import Stage, derive_seed
from ssl_sweep.training.optimizers import Recipe
from ssl_sweep.training.probe import Heads, statistics_of

CPU = torch.device("cpu")


class RandomFeatures(nn.Module):
    """A fixed random layer on the pixels of the digits, with batch statistics to leave alone; counts its images."""

    feature_dim = 100

    def __init__(self) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(64, self.feature_dim, generator=rng) / 8)
        self.norm = nn.BatchNorm1d(64)
        self.images = 0

    def forward(self, x: Tensor) -> Tensor:
        self.images += len(x)
        return (self.norm(x[:, 0].flatten(1)) @ self.weight).relu()


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    folder = tmp_path_factory.mktemp("digits")
    return load_splits(Data(source="digits", image_size=8, val_fraction=0.2), root=folder, cache=folder)


def stage(folder: Path, reports: list[dict[str, float]] | None = None) -> Stage:
    torch.manual_seed(0)
    return Stage(folder, lambda metrics, step: None if reports is None else reports.append(metrics), 1, CPU)


def test_within_half_a_point_of_scikit_learn_on_digits(digits: Splits, tmp_path: Path) -> None:
    encoder, where = RandomFeatures(), stage(tmp_path)
    features, labels = extract(encoder, digits.train, 8, where)
    theirs = LogisticRegression(C=1.0, max_iter=1000).fit(features.numpy(), labels.numpy())
    decay = 1 / len(features)  # theirs is C times the summed loss and half the squared weights
    settings: dict[str, Any] = {"epochs": 60, "batch_size": 128, "lr": (0.5, 2.0), "weight_decay": decay}
    ours = evaluate(encoder, digits, where, **settings, standardize=False)
    for split, pack in (("val", digits.val), ("test", digits.test)):
        queries, truth = extract(encoder, pack, 8, where)
        assert ours[f"top1_{split}"] == pytest.approx(100 * theirs.score(queries.numpy(), truth.numpy()), abs=0.5)


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e3])
def test_the_default_is_within_half_a_point_of_scikit_learn_whatever_the_scale(
    digits: Splits, tmp_path: Path, scale: float
) -> None:
    encoder, where = RandomFeatures(), stage(tmp_path)
    encoder.weight.data *= scale * torch.logspace(-1, 1, encoder.feature_dim)
    features, labels = extract(encoder, digits.train, 8, where)
    theirs = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(features.numpy(), labels.numpy())
    queries, truth = extract(encoder, digits.test, 8, where)
    ours = evaluate(encoder, digits, where)
    assert ours["top1_test"] >= 100 * theirs.score(queries.numpy(), truth.numpy()) - 0.5


def test_a_standardised_head_is_a_head_on_the_features_as_they_are() -> None:
    features = 3 + 2 * torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    features[:, 2] = 7.0  # a constant feature is left as it is
    mean, std = statistics_of(features)
    heads = Heads(4, 3, [Recipe()], (mean, std))
    weight, bias = heads.heads[0].weight / std, heads.heads[0].bias - heads.heads[0].weight @ (mean / std)
    torch.testing.assert_close(heads(features)[:, 0], F.linear(features, weight, bias), atol=1e-5, rtol=1e-5)
    standard = ((features - mean) / std)[:, [0, 1, 3]]
    torch.testing.assert_close(standard.std(dim=0, correction=0), torch.ones(3))


def test_a_refit_trains_the_chosen_head_on_train_and_val(digits: Splits, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"epochs": 3, "batch_size": 128, "lr": (0.001, 0.3), "weight_decay": 0.0}
    steps: list[tuple[int, set[str]]] = []
    torch.manual_seed(0)
    where = Stage(tmp_path, lambda metrics, step: steps.append((step, {*metrics})), 1, CPU)
    found = evaluate(RandomFeatures(), digits, where, **settings, refit=True)
    assert [step for step, _ in steps] == list(range(1, 8))
    assert all("top1_val" in names and "top1_test" not in names for _, names in steps[:3])
    assert all("top1_val" not in names and "top1_test" in names for _, names in steps[3:6])
    assert steps[-1][1] == set(found) == {*metrics({**settings, "refit": True})}
    # the second training by itself: one head, all images but the test set's
    joined = digits.joined()
    assert (len(joined.train), len(joined.val)) == (len(digits.train) + len(digits.val), 0)
    seed = derive_seed(1, "refit")
    torch.manual_seed(seed)
    part = Stage(tmp_path / "alone", lambda metrics, step: None, seed, CPU)
    alone = evaluate(RandomFeatures(), joined, part, **{**settings, "lr": found["lr_best"]})
    assert alone == {name: found[name] for name in ("top1_test", "top5_test", "mean_per_class_test")}


def test_without_validation_images_nothing_can_be_chosen(digits: Splits, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"validation chooses one of 12 heads, and there are no validation images"):
        evaluate(RandomFeatures(), digits.joined(), stage(tmp_path))


def test_steps_at_60_and_80_percent_as_in_a_loop_written_out(digits: Splits, tmp_path: Path) -> None:
    encoder, reports = RandomFeatures(), []
    features, labels = extract(encoder, digits.train, 8, stage(tmp_path))
    whole = len(features)  # one step an epoch, so that the order does not matter
    settings = {"epochs": 10, "batch_size": whole, "lr": 3.0, "weight_decay": 0.0, "schedule": "step"}
    settings["standardize"] = False
    evaluate(encoder, digits, stage(tmp_path, reports), **settings)

    torch.manual_seed(0)
    head, losses = nn.Linear(encoder.feature_dim, 10), []
    velocity = [torch.zeros_like(parameter) for parameter in head.parameters()]
    for rate in [3.0] * 6 + [0.3] * 2 + [0.03] * 2:
        loss = F.cross_entropy(head(features), labels)
        losses.append(loss.item())
        gradients = torch.autograd.grad(loss, list(head.parameters()))
        velocity = [0.9 * v + gradient for v, gradient in zip(velocity, gradients, strict=True)]
        with torch.no_grad():
            for parameter, v in zip(head.parameters(), velocity, strict=True):
                parameter -= rate * v
    assert [report["loss"] for report in reports] == pytest.approx(losses, rel=1e-4)


def test_of_several_the_best_on_validation_is_that_of_a_training_by_itself(digits: Splits, tmp_path: Path) -> None:
    grid = [(lr, decay) for lr in (0.001, 0.3) for decay in (0.0, 0.3)]
    settings = {"epochs": 4, "batch_size": 128}
    alone = {
        each: evaluate(
            RandomFeatures(), digits, stage(tmp_path / str(each)), **settings, lr=each[0], weight_decay=each[1]
        )
        for each in grid
    }
    together = evaluate(
        RandomFeatures(), digits, stage(tmp_path / "all"), **settings, lr=(0.001, 0.3), weight_decay=(0.0, 0.3)
    )
    best = max(grid, key=lambda each: alone[each]["top1_val"])
    assert (together["lr_best"], together["weight_decay_best"]) == best
    assert {split: together[split] for split in ("top1_val", "top1_test")} == {
        split: alone[best][split] for split in ("top1_val", "top1_test")
    }


def test_what_was_chosen_is_a_metric_only_where_there_was_a_choice() -> None:
    assert metrics({"lr": 0.1, "weight_decay": [0.0]}) == METRICS
    assert metrics({"lr": [0.1, 1.0], "weight_decay": 0.0}) == (*METRICS, "lr_best")
    assert metrics({"lr": [0.1, 1.0], "weight_decay": [0.0, 0.1]}) == (*METRICS, "lr_best", "weight_decay_best")


# with random crops, once more for the statistics
@pytest.mark.parametrize(("augment", "passes"), [("none", 1), ("crop_flip", 4)])
def test_the_encoder_is_frozen_and_sees_an_image_once_where_nothing_is_random(
    digits: Splits, tmp_path: Path, augment: Any, passes: int
) -> None:
    encoder = RandomFeatures()
    before = {name: value.clone() for name, value in encoder.state_dict().items()}
    evaluate(encoder, digits, stage(tmp_path), epochs=3, lr=(0.1, 1.0), weight_decay=0.0, augment=augment)
    assert all(torch.equal(value, before[name]) for name, value in encoder.state_dict().items())
    assert encoder.images == passes * len(digits.train) + len(digits.val) + len(digits.test)


@pytest.mark.parametrize(
    ("settings", "place", "message"),
    [
        ({"lr": -1.0}, ("lr",), "must be greater than 0"),
        ({"lr": [0.1, 0]}, ("lr", 1), "must be greater than 0"),
        ({"lr": []}, ("lr",), "at least 1 item"),
        ({"weight_decay": "none"}, ("weight_decay",), "must be a valid number"),
        ({"augment": "flip"}, ("augment",), "must be 'none' or 'crop_flip'"),
    ],
)
def test_a_knob_that_is_wrong_is_named(settings: dict[str, Any], place: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValidationError) as raised:
        knobs.check(evaluate, settings, "linear")
    found = {each.loc: each.message for each in findings_of(raised.value)}
    assert message.lower() in found[place].lower()


def test_one_number_and_a_list_are_both_read() -> None:
    read = knobs.check(evaluate, {"lr": 30, "weight_decay": [0, 1e-4]}, "linear")
    assert (read["lr"], read["weight_decay"]) == (30.0, [0.0, 1e-4])
