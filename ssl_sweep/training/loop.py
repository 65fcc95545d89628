"""The training loop of pretraining and supervised evaluations. On CPU it resumes to the bit.

With torch.distributed every rank runs the same loop: each has every batch's indices and takes its share of them, and
all decisions (means of the loss, when to save) are the same on all ranks. Rank 0 reports and saves.
"""

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from ssl_sweep.models.distributed import broadcast, gather_no_grad, mean_scalars, on_first_rank, rank, world_size
from ssl_sweep.models.global_norm import average_statistics
from ssl_sweep.training import optimizers
from ssl_sweep.training.declarations import TrainingDeclarations, declared
from ssl_sweep.training.optimizers import Recipe
from ssl_sweep.trialdir import checkpoint, watchdog

Report = Callable[[dict[str, float], int], None]
Loss = Callable[[Tensor, torch.Generator], tuple[Tensor, dict[str, Tensor]]]
Precision = Literal["fp32", "bf16"]

CHECK_EVERY_STEPS = 50  # not at every step, since reading the loss synchronises the GPU
SAVE_EVERY_SECONDS = 300.0


class Diverged(RuntimeError):  # noqa: N818 - the trial's state has this name
    """The loss is no longer finite."""


class Stop(Exception):  # noqa: N818 - not an error: the trial has to end
    """Raised by a report: this trial was pruned or stopped. The loop saves its checkpoint and ends."""


@dataclass(frozen=True)
class Stage:
    """Where one stage of a trial runs: its folder, its report function, its seed and its hardware."""

    folder: Path
    report: Report
    seed: int
    device: torch.device
    precision: Precision = "fp32"

    def generator(self, *purpose: object) -> torch.Generator:
        """A generator on the stage's device, the same for the same stage and purpose."""
        return torch.Generator(self.device).manual_seed(derive_seed(self.seed, *purpose))

    def autocast(self) -> torch.autocast:
        """bf16 autocast if that is the stage's precision, else none."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16")


@dataclass(frozen=True)
class Epoch:
    """One finished epoch: its number, from 1, and the means over its images.

    It is a pass over the images, or `Recipe.epoch_steps` steps where the recipe's length is given in steps.
    """

    number: int
    metrics: dict[str, float]


@dataclass
class _Progress:
    """The position of a run in its epoch; saved with the weights."""

    epoch: int = 0
    step: int = 0
    images: int = 0
    seconds: float = 0.0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, scalars: dict[str, Tensor], images: int) -> None:
        for name, value in scalars.items():
            weighted = torch.as_tensor(value, dtype=torch.float64).detach() * images
            self.sums[name] = self.sums[name] + weighted if name in self.sums else weighted
        self.images += images

    def means(self) -> dict[str, float]:
        means = {name: float(total) / self.images for name, total in self.sums.items()}
        return {**means, "images_per_second": self.images / max(self.seconds, 1e-9)}


def derive_seed(seed: int, *purpose: object) -> int:
    """A seed in [0, 2^63) for one purpose; different purposes of one trial have independent random numbers."""
    digest = hashlib.sha256(repr((seed, *purpose)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def fit(
    model: nn.Module,
    loss: Loss,
    num_images: int,
    recipe: Recipe,
    stage: Stage,
    after_epoch: Callable[[Epoch], None],
    *,
    drop_last: bool = False,
) -> dict[str, float]:
    """Train `model` in place and return the last epoch's means; resumes from the stage's checkpoint if there is one.

    The checkpoint is written after `after_epoch`, also if that raises: a process that is killed in between repeats the
    epoch and its report, and so does not lose the report.

    Args:
        model: every trainable parameter is trained; may have `TrainingDeclarations`.
        loss: image indices (B,) and a generator on the stage's device -> scalar loss and scalars to log.
        num_images: the loop draws indices in [0, num_images), each once per pass, in an order fixed by the seed.
        recipe: optimiser, schedule, length.
        stage: folder, seed, device, precision.
        after_epoch: measures and reports, on rank 0 alone; may raise `Stop`.
        drop_last: leave out an incomplete last batch (a queue needs equal batches).

    Raises:
        Diverged: the loss became infinite or NaN.
        Dismissed: on the other ranks, if rank 0 has been stopped or failed.
    """
    run = _Run(model, loss, num_images, recipe, stage, drop_last)
    run.restore()
    while run.progress.epoch < recipe.num_epochs:
        run.train_epoch()
        epoch = run.end_epoch()
        try:
            on_first_rank(partial(after_epoch, epoch))
        finally:
            run.save()
    return run.last


class _Run:
    """The state of one `fit`."""

    def __init__(
        self, model: nn.Module, loss: Loss, num_images: int, recipe: Recipe, stage: Stage, drop_last: bool
    ) -> None:
        self.model, self.loss, self.recipe, self.stage = model, loss, recipe, stage
        self.num_images = num_images
        self.batches = _batch_bounds(num_images, recipe.batch_size, drop_last)  # of a pass over the images
        self.epoch_length = recipe.epoch_length(len(self.batches))
        self.optimizer = optimizers.build(model, recipe)
        self.after_step = declared(TrainingDeclarations, model).after_step
        self.rng = stage.generator("steps")
        self.progress = _Progress()
        self.last: dict[str, float] = {}
        self.path = stage.folder / "checkpoint.pt"
        self.saved = 0.0  # time of the last checkpoint on the monotonic clock

    def train_epoch(self) -> None:
        self.model.train()
        started = self.saved = time.monotonic()
        before = self.progress.seconds
        for indices, done in self._batches_left():
            self._train_step(indices, done)
            self.progress.seconds = before + time.monotonic() - started
            if self._is_time_to_save():
                self.save()
        self._check_finite()
        self.progress.seconds = before + time.monotonic() - started

    def _batches_left(self) -> Iterator[tuple[Tensor, float]]:
        """The indices of each batch of the rest of the epoch, and the share of the run that is done before it."""
        length, passes = len(self.batches), self.recipe.passes(len(self.batches))
        first = self.progress.epoch * self.epoch_length
        end = min(first + self.epoch_length, self.recipe.total_steps(length))
        order, ordered = torch.empty(0), -1  # of the images, and the pass that has it
        for step in range(first + self.progress.step, end):
            number, position = divmod(step, length)
            if number != ordered:
                order, ordered = self._order(number), number
            begin_row, end_row = self.batches[position]
            yield order[begin_row:end_row], (number + position / length) / passes

    def end_epoch(self) -> Epoch:
        self.last = self.progress.means()
        self.progress = _Progress(epoch=self.progress.epoch + 1)
        return Epoch(self.progress.epoch, self.last)

    def _train_step(self, indices: Tensor, progress: float) -> None:
        optimizers.set_rates(self.optimizer, self.recipe, progress)
        with self.stage.autocast():
            value, scalars = self.loss(indices, self.rng)
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        if self.recipe.clip_norm is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
        self.optimizer.step()
        average_statistics(self.model)
        self.after_step(progress)
        self.progress.step += 1
        self.progress.add(mean_scalars({"loss": value, **scalars}), len(indices))
        if self.progress.step % CHECK_EVERY_STEPS == 0:
            self._check_finite()
        watchdog.heartbeat()

    def _check_finite(self) -> None:
        total = float(self.progress.sums["loss"])
        if not math.isfinite(total):
            where = f"epoch {self.progress.epoch + 1}, by step {self.progress.step} of {self.epoch_length}"
            raise Diverged(f"loss is {total} in {where}; lower lr ({self.recipe.lr}) or set clip_norm")

    def _order(self, number: int) -> Tensor:
        """The order of the images in a pass, from 0."""
        seed = derive_seed(self.stage.seed, "order", number)
        return torch.randperm(self.num_images, generator=torch.Generator().manual_seed(seed))

    def _is_time_to_save(self) -> bool:
        due = time.monotonic() - self.saved > SAVE_EVERY_SECONDS
        if world_size() == 1:
            return due
        # not at every step, since the broadcast synchronises the ranks
        at_check = self.progress.step % CHECK_EVERY_STEPS == 0
        return at_check and bool(broadcast(torch.tensor(float(due))))

    def save(self) -> None:
        self.saved = time.monotonic()
        if rank() > 0:
            return
        state: checkpoint.State = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": vars(self.progress),
            "last": self.last,
            "rng": self.rng.get_state(),
            "torch_rng": torch.get_rng_state(),
        }
        if self.stage.device.type == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state(self.stage.device)
        checkpoint.save(self.path, state)

    def restore(self) -> None:
        state = checkpoint.load(self.path, self.stage.device)
        self._check_alike(-1 if state is None else state["progress"]["epoch"])
        if state is None:
            return
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.progress, self.last = _Progress(**state["progress"]), state["last"]
        self.rng.set_state(state["rng"].cpu())
        torch.set_rng_state(state["torch_rng"].cpu())
        if "cuda_rng" in state:
            torch.cuda.set_rng_state(state["cuda_rng"].cpu(), self.stage.device)

    def _check_alike(self, epoch: int) -> None:
        """Raise FileNotFoundError if the ranks resume from different epochs: their models would differ."""
        if len(set(gather_no_grad(torch.tensor([epoch])).tolist())) > 1:
            raise FileNotFoundError(
                f"{self.path} is not the same on all workers; put the storage where every node sees it under one path"
            )


def _batch_bounds(num_images: int, batch_size: int, drop_last: bool) -> list[tuple[int, int]]:
    """Begin and end of each batch of an epoch. A set smaller than the batch size is one batch."""
    if num_images < batch_size:
        return [(0, num_images)]
    bounds = [(begin, min(begin + batch_size, num_images)) for begin in range(0, num_images, batch_size)]
    last_size = bounds[-1][1] - bounds[-1][0]
    # batch normalisation refuses a batch of one image
    return bounds[:-1] if last_size < batch_size and (drop_last or last_size == 1) else bounds
