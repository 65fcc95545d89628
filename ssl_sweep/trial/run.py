"""One trial: pretrain, then evaluate. Knows no Ray, no MLflow and no Optuna; runs wherever torch does.

A trial's folder holds `encoder.pt` and `stages.json` (finished stages), `EVALUATION/checkpoint.pt` (unfinished ones),
`journal.jsonl` (every event), `artifacts/` and `log.txt`. Pretraining has a folder of its own, which trials that differ
only in their evaluations share (`stages.py`). To resume a trial, call `run` again with the same folder.

In a trial with several workers rank 0 calls `run`, the others `run_worker`: they join the pretraining, then return.
"""

import logging
import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torchvision.utils import make_grid, save_image

from ssl_sweep.data.images import DataError
from ssl_sweep.data.pack import Pack
from ssl_sweep.data.splits import LABELS_REMEDY, PER_SEED, Data, Splits, data_of, load_splits
from ssl_sweep.data.subset import OWN_ENCODER, Subset, subset_of
from ssl_sweep.data.views import Augment
from ssl_sweep.knobs import knobs, methods
from ssl_sweep.knobs.evaluation import load_evaluation
from ssl_sweep.knobs.pins import check_pins, identities_of
from ssl_sweep.models.distributed import gather_no_grad, leave, rank, world_size
from ssl_sweep.models.encoders import Encoder, build_encoder
from ssl_sweep.models.weights import SUFFIX, WeightsError, digest, load_weights
from ssl_sweep.training.declarations import Method, evaluated_encoder
from ssl_sweep.training.gallery import gallery
from ssl_sweep.training.health import health_of, measure, voting_projector
from ssl_sweep.training.loop import Epoch, Report, Stage, derive_seed
from ssl_sweep.training.optimizers import Recipe
from ssl_sweep.training.pretrain import pretrain, visualize
from ssl_sweep.trial.stage_keys import PRECISIONS, resolve_precision, stage_key
from ssl_sweep.trial.stages import FinishedStages, PretrainingOutput, SharedPretraining, link, newest_turn
from ssl_sweep.trial.subset import listed_rows, read_origin, shared_rows
from ssl_sweep.trialdir import checkpoint, watchdog
from ssl_sweep.trialdir.events import StageFinished, TagsSet
from ssl_sweep.trialdir.journal import Journal

Config = Mapping[str, Any]
PICTURES_A_ROW = 8
CHECKPOINT_VERSION = 2  # raise it when evaluations have other buffers: unfinished ones then start anew
log = logging.getLogger("ssl_sweep.trial")


def run(config: Config, report: Report, workdir: Path, *, cache: Path, stages: Path | None = None) -> dict[str, float]:
    """Run the unfinished stages of a trial and return the metrics of all its stages, `linear/top1_test` and so on.

    Args:
        config: a resolved trial config with a value for every knob (`spec.resolve`).
        report: called with metrics and their epoch after each epoch of each stage; may raise `Stop`.
        workdir: the trial's own folder.
        cache: folder of decoded data, shared by the trials of a node.
        stages: folder of shared pretrainings, on a file system that all trials see; None: one in `workdir`.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    return _Trial(config, report, workdir, cache, stages or workdir / "stages").run()


def run_worker(
    config: Config, workdir: Path, *, cache: Path, stages: Path | None = None, timeout: float | None = None
) -> None:
    """Take a rank's part in the pretraining that rank 0 runs, if it has to run any; the arguments are `run`'s.

    timeout: seconds without a heartbeat, while the data is opened, after which this process ends; None: never.

    Raises:
        Dismissed: rank 0 has been stopped, or failed.
    """
    _Trial(config, _ignore, workdir, cache, stages or workdir / "stages").run_worker(timeout)


def encoder_path(folder: Path) -> Path:
    """A trial's pretrained encoder, `{"encoder": state dict}`; exists once pretraining is finished."""
    return folder / "encoder.pt"


def origin_file(sweep: Path, identity: str) -> Path:
    """The file of an earlier sweep's encoder that trials of this one begin from (`encoder.from`), by its identity."""
    return sweep / "weights" / f"{identity.removeprefix('sha256:')}{SUFFIX}"


def is_origin(path: Path, identity: str) -> bool:
    """Whether a file that `origin_file` names exists and is undamaged."""
    return path.exists() and digest(path) == identity


def is_whole(encoder: Path) -> bool:
    """Whether an encoder's file exists and is undamaged."""
    return encoder.exists() and checkpoint.damage(encoder) is None


class _Trial:
    def __init__(self, config: Config, report: Report, workdir: Path, cache: Path, stages: Path) -> None:
        self.config, self.report, self.workdir, self.cache, self.stages = config, report, workdir, cache, stages
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.precision = resolve_precision(config["precision"], self.device)
        self.workers = world_size()
        self.others_wait = self.workers > 1  # for rank 0's instruction
        self.is_first = rank() == 0  # the process that writes; after `leave` every process is rank 0
        self.rows: Tensor | None = None  # of the images that `data.subset` keeps, once they are chosen; None: all
        self.journal: Journal
        self.finished = FinishedStages(workdir / "stages.json")

    def run(self) -> dict[str, float]:
        self.journal = Journal(self.workdir)
        results: dict[str, float] = {}
        try:
            check_pins(self.config)
            pretrained = methods.pretrains(self.config["method"]["name"])
            if pretrained:
                self._check_encoder()
                results |= self._stage("pretrain", self._pretrain)
        finally:
            self._instruct_others(pretrain=False)  # unless they have pretrained
        leave()  # one worker evaluates
        for name in self.config["evaluate"]:
            results |= self._stage(name, partial(self._evaluate, name, pretrained))
        return results

    def run_worker(self, timeout: float | None) -> None:
        check_pins(self.config)
        splits = self._open_data(timeout)  # before rank 0 needs it: while rank 0 waits, it gives no heartbeat
        if number := int(gather_no_grad(torch.zeros(1))[0]):
            self.precision = PRECISIONS[number - 1]  # rank 0's: nodes differ
            self._share_rows(splits)
            folder = newest_turn(self.stages / stage_key(self.config, "pretrain", self.precision, self.workers))
            stage = self._begin("pretrain", folder, _ignore)
            augment, recipe = Augment(splits.image_size, **self.config["views"]), Recipe(**self.config["pretrain"])
            pretrain(self._method(), self._seen(splits), augment, recipe, stage, lambda epoch: None)
        leave()

    def _open_data(self, timeout: float | None) -> Splits:
        """Open the data under a watchdog of this rank; afterwards rank 0's watchdog covers all ranks."""
        own = self.workdir / f"rank{rank()}"
        own.mkdir(parents=True, exist_ok=True)
        with watchdog.watched(own, timeout):
            splits = self.splits
        shutil.rmtree(own, ignore_errors=True)
        return splits

    def _instruct_others(self, *, pretrain: bool) -> None:
        """Have the other ranks join the pretraining, or return. Only the first call has an effect."""
        if self.others_wait:
            self.others_wait = False
            with watchdog.waiting():  # until they have opened the data
                gather_no_grad(torch.full((1,), 1.0 + PRECISIONS.index(self.precision) if pretrain else 0.0))

    def _choose_rows(self, splits: Splits, output: PretrainingOutput) -> None:
        """Choose the images of `data.subset`, once: a pretraining that goes on reads its list of them."""
        subset = subset_of(self.config["data"])
        if subset is None:
            return
        seed = derive_seed(self.config["seed"], "subset")
        stage = Stage(output.folder, _ignore, seed, self.device, self.precision)
        make = partial(self._choosing_encoder, subset)
        self.rows = listed_rows(subset, self.config, splits.seen, make, stage, self.cache, output)

    def _share_rows(self, splits: Splits) -> None:
        """Give the other ranks rank 0's choice: on another node they might choose otherwise, by rounding."""
        if subset_of(self.config["data"]) is not None:
            self.rows = shared_rows(self.rows, len(splits.seen))

    def _seen(self, splits: Splits) -> Pack:
        """The images that the method is pretrained on. Evaluations and health see `splits` as they are."""
        return splits.seen if self.rows is None else splits.seen.subset(self.rows)

    @property
    def splits(self) -> Splits:
        data, identities = self.config["data"], self.config.get("identities", {})
        own = data_of(data)
        # one opening serves the trials of all seeds, where these see the same split
        seed = self.config["seed"] if own.split_seed == PER_SEED else 0
        return _open_splits(own, Path(data["root"]), self.cache, tuple(sorted(identities.items())), seed)

    def _stage(self, name: str, work: Callable[[str], dict[str, float]]) -> dict[str, float]:
        """Run a stage unless it is finished; returns its results with the stage's name as prefix."""
        key = stage_key(self.config, name, self.precision, self.workers)
        results = self.finished.results(name, key)
        if results is None:
            started = time.monotonic()
            self.journal.begin(name, key)
            log.info("%s: start", name)
            results = work(key)
            seconds = time.monotonic() - started
            log.info("%s: done in %.1f s: %s", name, seconds, results)
            # the journal first: if the process is killed in between, the event is repeated, not lost
            self.journal.append(StageFinished(stage=name, key=key, seconds=seconds, results=results))
            self.finished.add(name, key, results)
            (self.workdir / name / "checkpoint.pt").unlink(missing_ok=True)
        return {f"{name}/{metric}": value for metric, value in results.items()}

    def _check_encoder(self) -> None:
        """If the pretrained encoder is missing or damaged, run the stage again, or take it from another trial.

        On a CPU the new encoder is the same to the bit, so that finished evaluations stay valid.
        """
        path = encoder_path(self.workdir)
        if self.finished.key("pretrain") is not None and not is_whole(path):
            self._report_damage(path, checkpoint.damage(path) or "gone")
            self.finished.drop("pretrain")

    def _report_damage(self, path: Path, damage: str) -> None:
        """Log, and tag the trial, that a stage is repeated."""
        log.warning("%s is %s: doing its stage again", path, damage)
        self.journal.append(TagsSet(tags={"repeated": f"{path.parent.name}/{path.name} was {damage}"}))

    def _begin(self, name: str, folder: Path, report_prefixed: Report) -> Stage:
        """A stage in a folder, whose metrics are reported with its name before them. Sets damaged checkpoints aside."""
        for path in folder.rglob("checkpoint.pt") if self.is_first else ():
            if (damage := checkpoint.damage(path)) is not None:
                self._report_damage(path, damage)
                checkpoint.set_aside(path)
        seed = derive_seed(self.config["seed"], name)
        torch.manual_seed(seed)  # weights are initialised by torch's modules, which take no generator

        def report(metrics: dict[str, float], step: int) -> None:
            report_prefixed({f"{name}/{metric}": value for metric, value in metrics.items()}, step)

        return Stage(folder, report, seed, self.device, self.precision)

    def _pretrain(self, key: str) -> dict[str, float]:
        splits = self.splits  # decoded before the lock is taken
        for name in self.config["evaluate"]:
            self._splits_for(name)  # without the labels that it needs, a pretraining would be in vain
        shared = SharedPretraining(self.stages / key, self.journal, self.report)
        make = partial(self._pretrain_shared, splits)
        results = shared.get_or_run(make, lambda: is_whole(encoder_path(shared.folder)))
        link(encoder_path(shared.folder), encoder_path(self.workdir))
        return results

    def _pretrain_shared(self, splits: Splits, output: PretrainingOutput) -> dict[str, float]:
        """Pretrain for all trials that share this pretraining."""
        self._choose_rows(splits, output)  # before the stage begins with random numbers of its own
        stage = self._begin("pretrain", output.folder, output.report)
        method, augment = self._method(), Augment(splits.image_size, **self.config["views"])
        for knob, value in self._derived().items():
            output.tag(f"method.{knob}", str(value))
        recipe, health = Recipe(**self.config["pretrain"]), health_of(self.config)
        encoder, project = evaluated_encoder(method), voting_projector(method, health)
        if not len(splits.val):
            health = replace(health, every=0)  # it measures validation images
        last: dict[str, float] = {}

        def report(epoch: Epoch) -> None:
            metrics = epoch.metrics
            if due := health.due(epoch.number, recipe.num_epochs):
                last.update(measure(encoder, splits, augment, health, stage, epoch.number, project))
                metrics = {**metrics, **last}
                if health.collapsed(metrics) is not None:
                    output.tag("collapsed", "true")
            stage.report(metrics, epoch.number)
            if due:
                health.refuse(metrics, epoch.number)

        if not (stage.folder / "checkpoint.pt").exists():
            with output.artifacts() as folder:
                self._show(method, augment, stage, folder / "pictures_before.png", 0)
        self._instruct_others(pretrain=True)
        self._share_rows(splits)
        metrics = pretrain(method, self._seen(splits), augment, recipe, stage, report)
        # continued from a checkpoint of the last epoch, whose report may be incomplete
        if metrics and health.every and not last:
            report(Epoch(recipe.num_epochs, metrics))
        checkpoint.save(encoder_path(output.folder), {"encoder": encoder.state_dict()})
        # made once for a finished encoder, and shown by every trial that uses it
        with output.artifacts() as folder:
            self._show(method, augment, stage, folder / "pictures.png", recipe.num_epochs)
            gallery(encoder, splits, stage, folder)
        return {"loss": metrics["loss"], **last} if metrics else {}

    def _method(self) -> Any:
        derived = self._derived()
        settings = {**self.config["method"], **derived}
        if derived:
            log.info("method: %s, for %d training images", derived, len(self._seen(self.splits)))
        return knobs.load("methods", settings.pop("name"))(self._encoder(), **settings)

    def _derived(self) -> dict[str, Any]:
        """The values of the method's knobs that depend on the data."""
        batch_size = self.config["pretrain"]["batch_size"]
        train_images = len(self._seen(self.splits))
        return methods.derived(self.config["method"], batch_size=batch_size, train_images=train_images)

    def _encoder(self) -> Encoder:
        """The encoder as it begins: with random weights, or those that its section names."""
        settings = self.config["encoder"]
        encoder = build_encoder(settings, self.splits.image_size)
        pins = self.config.get("pins", {})
        if origin := settings.get("from"):
            load_weights(encoder, self._kept("encoder.from", origin)[0], settings["name"], None)
        if file := settings.get("weights"):
            path = Path(self.config["data"]["root"]) / Path(os.path.expanduser(file))
            pinned = pins.get(f"encoder.weights {file}")
            if unused := load_weights(encoder, path, settings["name"], pinned):
                log.info("encoder.weights: %s: not used: %s", file, ", ".join(unused))
        return encoder

    def _choosing_encoder(self, subset: Subset) -> Encoder:
        """The encoder whose features choose the images."""
        if subset.origin is None or subset.origin == OWN_ENCODER:
            return self._encoder()
        return read_origin(*self._kept("subset.from", subset.origin))

    def _kept(self, knob: str, origin: str) -> tuple[Path, str]:
        """The sweep's own file of an earlier sweep's encoder, and its identity."""
        pinned = self.config.get("pins", {})[f"{knob} {origin}"]
        path = origin_file(self.workdir.parents[1], pinned)
        if not is_origin(path, pinned):
            remedy = "resume the sweep, which takes it anew"
            raise WeightsError(f"{knob}: {origin!r}: the copy {path} is gone or damaged; {remedy}")
        return path, pinned

    def _show(self, method: Method, augment: Augment, stage: Stage, path: Path, epoch: int) -> None:
        """Save the method's visualization of test images, if it has one, and report its metrics."""
        images, metrics = visualize(method, self.splits.test, augment, stage)
        if images is not None:
            save_image(make_grid(images, nrow=PICTURES_A_ROW), path)
        if metrics:
            stage.report({f"{name}_test": value for name, value in metrics.items()}, epoch)

    def _evaluate(self, name: str, pretrained: bool, key: str) -> dict[str, float]:
        stage = self._begin(name, self.workdir / name, self._report)
        _drop_stale_checkpoint(stage.folder, key)
        encoder = build_encoder(self.config["encoder"], self.splits.image_size) if pretrained else self._encoder()
        if pretrained:
            path = encoder_path(self.workdir)
            state = checkpoint.load(path, torch.device("cpu"))
            if state is None:
                raise FileNotFoundError(f"{path} is gone; resume the sweep to make it again")
            encoder.load_state_dict(state["encoder"])
        return load_evaluation(name).evaluate(encoder, self._splits_for(name), stage, **self.config["evaluate"][name])

    def _splits_for(self, evaluation: str) -> Splits:
        """The splits that an evaluation sees: of labelled images alone, where it needs labels."""
        splits = self.splits.expecting(identities_of(self.config, evaluation))
        if not load_evaluation(evaluation).needs_labels:
            return splits
        try:
            return splits.labelled()
        except DataError as error:
            source = self.config["data"].get("labelled") or self.config["data"]["source"]
            raise DataError(f"evaluate.{evaluation}: {error} in {source!r}; {LABELS_REMEDY}") from None

    def _report(self, metrics: dict[str, float], step: int) -> None:
        self.journal.report(metrics, step)
        self.report(metrics, step)


@lru_cache(maxsize=2)
def _open_splits(data: Data, root: Path, cache: Path, identities: tuple[tuple[str, str], ...], seed: int) -> Splits:
    """Open data once a process: a warm worker's next trial finds it mapped, without listing folders again."""
    return load_splits(data, root=root, cache=cache, expected=dict(identities), seed=seed)


def _ignore(metrics: dict[str, float], step: int) -> None:
    """Report nothing: only rank 0 reports."""


def _drop_stale_checkpoint(folder: Path, key: str) -> None:
    """Remove a checkpoint of another key, that is of other settings or another stage version."""
    mark, marked = folder / "key", f"{key} {CHECKPOINT_VERSION}"
    if not mark.exists() or mark.read_text() != marked:
        (folder / "checkpoint.pt").unlink(missing_ok=True)
        folder.mkdir(parents=True, exist_ok=True)  # the name of a local evaluation has a slash
        mark.write_text(marked)
