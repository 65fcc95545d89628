"""The loop: it resumes to the bit, wherever it was broken off, and it says so when it diverges."""

from dataclasses import replace
from itertools import chain
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from ssl_sweep.training import loop
from ssl_sweep.training.loop import Diverged, Epoch, Stage, Stop, derive_seed, fit
from ssl_sweep.training.optimizers import Recipe
from ssl_sweep.trialdir.atomic import write_text
from ssl_sweep.trialdir.checkpoint import CheckpointError, load, save

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=4, batch_size=8, lr=0.1)


def small_net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Dropout(0.3), nn.Linear(8, 2))


def run(folder: Path, net: nn.Module, after=lambda epoch: None, recipe: Recipe = RECIPE, breaks_at: int | None = None):
    """Fit a small net on 20 points, with noise from the passed generator and dropout from torch's own."""
    data = torch.randn(20, 5, generator=torch.Generator().manual_seed(1))
    steps = 0

    def loss(indices: Tensor, rng: torch.Generator):
        nonlocal steps
        steps += 1
        if steps == breaks_at:
            raise KeyboardInterrupt
        noisy = data[indices] + torch.randn(len(indices), 5, generator=rng)
        value = net(noisy).pow(2).mean()
        return value, {"twice": 2 * value.detach()}

    torch.manual_seed(3)
    return fit(net, loss, 20, recipe, Stage(folder, lambda m, s: None, 7, CPU), after)


def weights(net: nn.Module) -> list[Tensor]:
    return [value.clone() for value in net.state_dict().values()]


def assert_same(ours: nn.Module, theirs: nn.Module) -> None:
    assert all(torch.equal(a, b) for a, b in zip(weights(ours), weights(theirs), strict=True))


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "lars"])
@pytest.mark.parametrize("stop_after", [1, 3])
def test_stopped_and_resumed_equals_unbroken(tmp_path: Path, optimizer: str, stop_after: int) -> None:
    recipe = replace(RECIPE, optimizer=optimizer, warmup_epochs=1.5)
    unbroken, resumed = small_net(), small_net()
    expected = run(tmp_path / "a", unbroken, recipe=recipe)

    def stop(epoch: Epoch) -> None:
        if epoch.number == stop_after:
            raise Stop("asked to")

    with pytest.raises(Stop):
        run(tmp_path / "b", resumed, stop, recipe=recipe)
    fresh, seen = small_net(), []
    actual = run(tmp_path / "b", fresh, seen.append, recipe=recipe)
    assert [epoch.number for epoch in seen] == list(range(stop_after + 1, 5))
    assert_same(fresh, unbroken)
    assert {name: actual[name] for name in ("loss", "twice")} == {name: expected[name] for name in ("loss", "twice")}


def test_killed_inside_an_epoch_and_resumed_equals_unbroken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unbroken, broken, fresh = small_net(), small_net(), small_net()
    expected = run(tmp_path / "a", unbroken)
    monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", -1.0)  # after every step
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", broken, breaks_at=6)  # the third step of the second epoch
    assert load(tmp_path / "b" / "checkpoint.pt", CPU)["progress"]["step"] == 2
    actual = run(tmp_path / "b", fresh)
    assert_same(fresh, unbroken)
    assert actual["loss"] == expected["loss"]


@pytest.mark.parametrize("schedule", ["cosine", "step"])
def test_a_length_in_steps_equals_the_same_length_in_epochs(tmp_path: Path, schedule: str) -> None:
    by_epochs, by_steps, told, seen = small_net(), small_net(), [], []
    recipe = replace(RECIPE, epochs=7, warmup_epochs=2, schedule=schedule, optimizer="adamw")
    last = run(tmp_path / "a", by_epochs, told.append, recipe=recipe)
    recipe = replace(recipe, epochs=None, steps=21, epoch_steps=3)  # a pass over 20 images is 3 steps
    assert run(tmp_path / "b", by_steps, seen.append, recipe=recipe)["loss"] == last["loss"]
    assert_same(by_steps, by_epochs)
    assert [(each.number, each.metrics["loss"]) for each in seen] == [(e.number, e.metrics["loss"]) for e in told]


@pytest.mark.parametrize(("epoch_steps", "epochs"), [(4, 6), (21, 1), (100, 1), (None, 11)])
def test_epochs_of_steps_need_not_be_passes(tmp_path: Path, epoch_steps: int | None, epochs: int) -> None:
    by_epochs, by_steps, seen = small_net(), small_net(), []
    run(tmp_path / "a", by_epochs, recipe=replace(RECIPE, epochs=7))
    run(tmp_path / "b", by_steps, seen.append, replace(RECIPE, epochs=None, steps=21, epoch_steps=epoch_steps))
    assert_same(by_steps, by_epochs)
    assert [epoch.number for epoch in seen] == list(range(1, epochs + 1))


@pytest.mark.parametrize("breaks_at", [3, 5, 9, 10])
def test_killed_in_an_epoch_of_steps_and_resumed_equals_unbroken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, breaks_at: int
) -> None:
    recipe = replace(RECIPE, epochs=None, steps=10, epoch_steps=4)  # passes end after 3, 6 and 9 steps
    unbroken, broken, fresh = small_net(), small_net(), small_net()
    expected = run(tmp_path / "a", unbroken, recipe=recipe)
    monkeypatch.setattr(loop, "SAVE_EVERY_SECONDS", -1.0)  # after every step
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "b", broken, recipe=recipe, breaks_at=breaks_at)
    assert run(tmp_path / "b", fresh, recipe=recipe)["loss"] == expected["loss"]
    assert_same(fresh, unbroken)


def test_a_run_that_is_finished_trains_no_more_and_knows_its_last_epoch(tmp_path: Path) -> None:
    net, again = small_net(), small_net()
    last = run(tmp_path, net)
    assert run(tmp_path, again, after=pytest.fail) == last
    assert_same(again, net)


def test_each_epoch_sees_each_image_once_in_another_order(tmp_path: Path) -> None:
    seen: list[list[int]] = []

    def loss(indices: Tensor, rng: torch.Generator):
        seen.append(indices.tolist())
        return net.weight.sum(), {}

    net = nn.Linear(2, 1)
    recipe = replace(RECIPE, epochs=2)
    stage = Stage(tmp_path, lambda m, s: None, 0, CPU)
    fit(net, loss, 20, recipe, stage, lambda epoch: None)
    first, second = seen[:3], seen[3:]
    assert [len(batch) for batch in first] == [8, 8, 4]
    assert sorted(chain(*first)) == sorted(chain(*second)) == list(range(20))
    assert first != second


@pytest.mark.parametrize(
    ("images", "drop_last", "lengths"),
    [(20, True, [8, 8]), (17, False, [8, 8]), (18, False, [8, 8, 2]), (5, True, [5]), (16, True, [8, 8])],
)
def test_batches(images: int, drop_last: bool, lengths: list[int]) -> None:
    assert [end - begin for begin, end in loop._batch_bounds(images, 8, drop_last)] == lengths


def test_a_loss_that_is_not_finite_is_divergence(tmp_path: Path) -> None:
    net = nn.Linear(2, 1)

    def loss(indices: Tensor, rng: torch.Generator):
        return net.weight.sum() * float("nan"), {}

    with pytest.raises(Diverged, match=r"loss is nan in epoch 1, by step 3 of 3; lower lr \(0.1\)"):
        fit(net, loss, 20, RECIPE, Stage(tmp_path, lambda m, s: None, 0, CPU), lambda epoch: None)


def test_after_step_hears_of_the_progress(tmp_path: Path) -> None:
    class Net(nn.Linear):
        def __init__(self) -> None:
            super().__init__(2, 1)
            self.heard: list[float] = []

        def after_step(self, progress: float) -> None:
            self.heard.append(progress)

    net = Net()
    stage = Stage(tmp_path, lambda m, s: None, 0, CPU)
    fit(net, lambda i, r: (net.weight.sum(), {}), 16, replace(RECIPE, epochs=2), stage, lambda epoch: None)
    assert net.heard == [0, 0.25, 0.5, 0.75]


def test_seeds_of_different_purposes_differ() -> None:
    seeds = {derive_seed(seed, *purpose) for seed in (0, 1) for purpose in ((), ("a",), ("b",), ("a", 1))}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    save(path, {"weights": torch.zeros(1000)})
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: cannot be read .* resume its trial"):
        load(path, CPU)


def test_a_write_that_fails_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        write_text(path, "new \udcff")
    assert [file.name for file in tmp_path.iterdir()] == ["notes.txt"]
    assert path.read_text() == "old"


def test_what_a_killed_writer_left_is_written_over(tmp_path: Path) -> None:
    (tmp_path / ".notes.txt.partial").write_text("half a")
    write_text(tmp_path / "notes.txt", "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("notes.txt", "new")]
