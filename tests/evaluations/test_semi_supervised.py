"""A few of the labels: which they are, that each fraction starts anew, and that a killed one goes on to the bit."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from ssl_sweep.data.identity import identity
from ssl_sweep.data.images import DataError
from ssl_sweep.data.label_lists import listed_rows, open_lists
from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import Data, Splits, load_splits
from ssl_sweep.evaluations.semi_supervised import EPOCHS, check_data, evaluate, metrics
from ssl_sweep.training import loop
from ssl_sweep.training.loop import Stage, Stop

SHORT: dict[str, Any] = {"fractions": (5, 20), "epochs_per_fraction": 3, "batch_size": 32}


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Splits:
    folder = tmp_path_factory.mktemp("digits")
    splits = load_splits(Data(source="digits", image_size=8), root=folder, cache=folder)
    few = torch.arange(100)
    return replace(splits, val=splits.val.subset(few), test=splits.test.subset(few))


class Perceptron(nn.Module):
    """With batch statistics, whose course a resumed run must go on with."""

    feature_dim = 32

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 32), nn.BatchNorm1d(32), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def encoder() -> Perceptron:
    torch.manual_seed(0)
    return Perceptron()


def stage(folder: Path, report: Any = lambda metrics, step: None) -> Stage:
    return Stage(folder, report, 1, torch.device("cpu"))


class Watched(Pack):
    """Remembers the subsets that were taken of it."""

    def __init__(self, pack: Pack) -> None:
        vars(self).update(vars(pack))
        self.taken: list[Tensor] = []

    def subset(self, indices: Tensor) -> Pack:
        self.taken.append(indices)
        return super().subset(indices)


def test_it_trains_on_nested_balanced_subsets_that_the_seed_decides(digits: Splits, tmp_path: Path) -> None:
    taken = []
    for number, seed in enumerate((0, 0, 1)):
        train = Watched(digits.train)
        settings = {**SHORT, "fractions": (1, 20, 100), "epochs_per_fraction": 1, "subset_seed": seed}
        evaluate(encoder(), replace(digits, train=train), stage(tmp_path / str(number)), **settings)
        taken.append(train.taken)
    tiny, some, everything = taken[0]
    assert len(everything) == len(digits.train)
    labels = len(digits.train) + len(digits.val)  # a published figure used a share of these
    assert len(some) == round(labels / 5)
    share = torch.bincount(digits.train.labels[some]) / torch.bincount(digits.train.labels)
    assert (share - labels / len(digits.train) / 5).abs().max() < 0.01
    assert set(tiny.tolist()) < set(some.tolist())
    assert set(digits.train.labels[tiny].tolist()) == set(range(10))
    assert all(torch.equal(ours, again) for ours, again in zip(taken[0], taken[1], strict=True))
    assert not torch.equal(taken[0][1], taken[2][1])


def test_by_default_each_trials_seed_selects_the_images(digits: Splits, tmp_path: Path) -> None:
    taken = []
    for number, seed in enumerate((1, 1, 2)):
        train = Watched(digits.train)
        settings = {**SHORT, "fractions": (5,), "epochs_per_fraction": 1}
        own = Stage(tmp_path / str(number), lambda metrics, step: None, seed, torch.device("cpu"))
        evaluate(encoder(), replace(digits, train=train), own, **settings)
        taken.append(train.taken[0])
    assert torch.equal(taken[0], taken[1])
    assert not torch.equal(taken[0], taken[2])


def test_a_list_names_the_images_of_a_fraction(tmp_path: Path) -> None:
    for split, number in (("train", 20), ("test", 4)):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            for row in range(number):
                Image.new("RGB", (8, 8), (row, 0, 0)).save(tmp_path / split / name / f"{name}_{row}.png")
    data = Data(source="imagefolder:.", image_size=8, val_fraction=0.2)
    splits = load_splits(data, root=tmp_path, cache=tmp_path / "cache")
    wanted = ["cat_3.png", "dog_7.png", "dog/dog_11.png", "cat_0.png"]
    (tmp_path / "ten.txt").write_text("# official\n" + "\n".join(wanted) + "\n")
    written = ("10:ten.txt",)
    rows = listed_rows(splits, "10:ten.txt", written)
    images = splits.train.batch(rows)
    found = {(int(label), int(pixels[0, 0, 0])) for label, pixels in zip(images.labels, images.pixels, strict=True)}
    val = splits.val.batch(torch.arange(len(splits.val)))
    held = {(int(label), int(pixels[0, 0, 0])) for label, pixels in zip(val.labels, val.pixels, strict=True)}
    assert found == {(0, 3), (1, 7), (1, 11), (0, 0)} - held
    train = Watched(splits.train)
    evaluate(
        encoder(),
        replace(splits, train=train),
        stage(tmp_path / "stage"),
        **{**SHORT, "fractions": (10, 20), "label_lists": written, "epochs_per_fraction": 1},
    )
    assert torch.equal(train.taken[0], rows)
    known = {"label_lists": identity(open_lists(written, tmp_path))}
    assert torch.equal(listed_rows(splits.expecting(known), written[0], written), rows)
    (tmp_path / "ten.txt").write_text("cat_3.png\n")
    with pytest.raises(DataError, match=r"label_lists is .* and the sweep's data is"):
        listed_rows(splits.expecting(known), written[0], written)
    (tmp_path / "ten.txt").write_text("cat_3.png\nbird_1.png\n")
    with pytest.raises(DataError, match=r"1 are no training images \('bird_1.png'\); name them by file, as '.*png'"):
        listed_rows(splits, written[0], written)
    with pytest.raises(DataError, match=r"none\.txt cannot be read"):
        check_data({"fractions": (10,), "label_lists": ("10:none.txt",)}, tmp_path)
    with pytest.raises(DataError, match="label_lists: 1 % is not one of `fractions`"):
        check_data({"fractions": (10,), "label_lists": ("1:ten.txt",)}, tmp_path)
    assert check_data({"fractions": (10,), "label_lists": ()}, tmp_path) is None


def test_each_fraction_starts_from_the_pretrained_weights(digits: Splits, tmp_path: Path) -> None:
    pretrained = encoder()
    before = {name: value.clone() for name, value in pretrained.state_dict().items()}
    both = evaluate(pretrained, digits, stage(tmp_path / "both"), **SHORT)
    assert all(torch.equal(value, before[name]) for name, value in pretrained.state_dict().items())
    alone = evaluate(pretrained, digits, stage(tmp_path / "alone"), **{**SHORT, "fractions": (20,)})
    assert alone["top1_20pct_test"] == both["top1_20pct_test"]
    assert both["top1_test"] == (both["top1_5pct_test"] + both["top1_20pct_test"]) / 2


def test_each_fraction_has_the_papers_epochs_unless_told_otherwise(digits: Splits, tmp_path: Path) -> None:
    assert (EPOCHS[1], EPOCHS[10]) == (60, 30)
    reports: list[tuple[dict[str, float], int]] = []
    where = stage(tmp_path, lambda *report: reports.append(report))
    train = digits.train.subset(torch.arange(100))
    evaluate(encoder(), replace(digits, train=train, sampled=True), where, fractions=(1, 10), batch_size=32)
    losses = [[step for metrics, step in reports if f"loss_{percent}pct" in metrics] for percent in (1, 10)]
    assert losses == [list(range(1, 61)), list(range(61, 91))]


def test_more_labels_are_better(digits: Splits, tmp_path: Path) -> None:
    settings = {"epochs_per_fraction": 10, "batch_size": 64, "lr": 0.1, "augment": "none"}
    curve = evaluate(encoder(), digits, stage(tmp_path), fractions=(1, 10, 100), **settings)
    assert curve["top1_1pct_val"] + 10 < curve["top1_10pct_val"] < curve["top1_100pct_val"]
    assert curve["top1_100pct_test"] > 90


def test_killed_inside_the_second_fraction_it_goes_on_to_the_bit(
    digits: Splits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected: list[tuple[dict[str, float], int]] = []
    evaluate(encoder(), digits, stage(tmp_path / "a", lambda *report: expected.append(report)), **SHORT)
    saved, saves = loop._Run.save, 0

    def save(run: Any) -> None:
        nonlocal saves
        saved(run)
        saves += run.stage.folder.name == "1"
        if saves == 2:
            raise KeyboardInterrupt

    # saved after every step: killed at the second step of the 20 %
    monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", -1.0)
    monkeypatch.setattr(loop._Run, "save", save)
    with pytest.raises(KeyboardInterrupt):
        evaluate(encoder(), digits, stage(tmp_path / "b"), **SHORT)
    torch.manual_seed(99)
    resumed: list[tuple[dict[str, float], int]] = []
    evaluate(encoder(), digits, stage(tmp_path / "b", lambda *report: resumed.append(report)), **SHORT)
    assert [step for _, step in resumed] == [4, 5, 6, 7]  # the 5 % are not run again
    for (ours, _), (theirs, _) in zip(resumed, expected[3:], strict=True):
        assert {**ours, "images_per_second": 0} == {**theirs, "images_per_second": 0}
    assert not list((tmp_path / "b").glob("parts/*"))


def test_stopped_as_a_fraction_ends_it_does_not_train_it_again(digits: Splits, tmp_path: Path) -> None:
    steps: list[int] = []

    def stop(metrics: dict[str, float], step: int) -> None:
        if step == 3:
            raise Stop("asked to")

    with pytest.raises(Stop):
        evaluate(encoder(), digits, stage(tmp_path, stop), **SHORT)
    evaluate(encoder(), digits, stage(tmp_path, lambda metrics, step: steps.append(step)), **SHORT)
    assert steps == [4, 5, 6, 7]


def test_its_metrics_are_named_by_percent() -> None:
    names = metrics({"fractions": [1, 10]})
    top1 = ("top1_val", "top1_test", "top1_1pct_val", "top1_1pct_test", "top1_10pct_val", "top1_10pct_test")
    assert names[:6] == top1
    assert names[6:12] == tuple(name.replace("top1", "top5") for name in top1)
    assert names[12:] == tuple(name.replace("top1", "mean_per_class") for name in top1)
