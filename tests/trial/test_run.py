"""A trial from its config to its metrics, on the real digits: resumed to the bit, and its finished stages kept."""

import importlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ssl_sweep.data.images import DataError
from ssl_sweep.knobs.evaluation import load_evaluation
from ssl_sweep.models.library import LibraryError
from ssl_sweep.spec.sweep import SweepSpec, from_dump, resolve
from ssl_sweep.training.loop import Diverged, Stop
from ssl_sweep.trial import attempt
from ssl_sweep.trial import run as trial
from ssl_sweep.trial.stage_keys import stage_key
from ssl_sweep.trialdir import journal, requests
from ssl_sweep.trialdir.events import TagsSet
from ssl_sweep.trialdir.record import TrialRecord

SPEC: dict[str, Any] = {
    "name": "trial",
    "data": {"source": "digits", "image_size": 8},
    "encoder": {"name": "resnet18", "width": 8},
    "method": "autoencoder",
    "pretrain": {"epochs": 2, "batch_size": 256, "optimizer": "adamw", "lr": 0.003},
    "evaluate": {"knn": {}, "linear": {"epochs": 2}, "finetune": {"epochs": 2}},
    "precision": "fp32",
}


def config(seed: int = 0, **changes: Any) -> dict[str, Any]:
    return resolve(from_dump({**SPEC, **changes}), {}, seed)


def ignore(metrics: dict[str, float], step: int) -> None:
    pass


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, cache: Path) -> tuple[Path, dict[str, float]]:
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, trial.run(config(), ignore, folder, cache=cache)


def encoder(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "encoder.pt", weights_only=True)["encoder"]


def assert_same_encoder(ours: Path, theirs: Path) -> None:
    pairs = zip(encoder(ours).items(), encoder(theirs).items(), strict=True)
    assert all(name == other and torch.equal(value, expected) for (name, value), (other, expected) in pairs)


def test_it_gives_the_metrics_of_every_stage(undisturbed: tuple[Path, dict[str, float]]) -> None:
    folder, results = undisturbed
    assert {name.split("/")[0] for name in results} == {"pretrain", "knn", "linear", "finetune"}
    assert results["knn/top1_test"] > 60
    before, after = (Image.open(folder / "artifacts" / name) for name in ("pictures_before.png", "pictures.png"))
    with before, after:
        assert before.size == after.size
        assert before.tobytes() != after.tobytes()
    assert not list(folder.rglob("checkpoint.pt"))  # what is finished needs none


def test_what_a_method_measures_of_its_pictures_is_told_before_and_after(tmp_path: Path, cache: Path) -> None:
    drlim = {"name": "drlim", "shifts": [-1, 1], "pairs": "label"}
    told: list[tuple[float, int]] = []

    def report(metrics: dict[str, float], step: int) -> None:
        if "pretrain/separation_test" in metrics:
            told.append((metrics["pretrain/separation_test"], step))

    trial.run(config(method=drlim, evaluate={"knn": {}}), report, tmp_path, cache=cache)
    (before, first), (after, last) = told
    assert (first, last) == (0, 2)
    assert after != before  # of two epochs no more can be asked


@pytest.mark.parametrize("method", ["moco", "leoclr", "exemplar"])
def test_what_depends_on_the_number_of_images_is_derived(tmp_path: Path, cache: Path, method: str) -> None:
    own = config(
        method=method, evaluate={"knn": {}}, pretrain={"epochs": 1}, data={**SPEC["data"], "train_images": 600}
    )
    trial.run(own, ignore, tmp_path, cache=cache)
    state = checkpoint_of_pretraining(own, tmp_path, cache)
    shapes = {name: tuple(value.shape) for name, value in state.items()}
    sizes = {"classifier.weight": 600} if method == "exemplar" else {"keys.queue.keys": 512}
    assert {name: shapes[name][0] for name in sizes} == sizes
    told = {"method.num_classes": "600"} if method == "exemplar" else {"method.queue_size": "512"}
    assert [event.tags for event in journal.read(tmp_path)[0] if isinstance(event, TagsSet)] == [told]


@pytest.mark.parametrize("encoder_of", ["student", "teacher"])
def test_the_encoder_that_is_kept_is_the_one_that_is_named(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, encoder_of: str
) -> None:
    trained: list[Any] = []

    def pretrain(method: Any, *rest: Any) -> dict[str, float]:
        trained.append(method)
        return real(method, *rest)

    real = trial.pretrain
    monkeypatch.setattr(trial, "pretrain", pretrain)
    method = {"name": "byol", "hidden_dim": 16, "dim": 8, "encoder_of": encoder_of}
    data = {**SPEC["data"], "train_images": 512}
    own = config(method=method, data=data, evaluate={"knn": {}}, pretrain={"epochs": 1})
    trial.run(own, ignore, tmp_path, cache=cache)
    states = {"student": trained[0].encoder.state_dict(), "teacher": trained[0].target[0].state_dict()}
    kept, wanted = encoder(tmp_path), states.pop(encoder_of)
    assert kept.keys() == wanted.keys()
    assert all(torch.equal(kept[name], value) for name, value in wanted.items())
    (other,) = states.values()
    assert not torch.equal(kept["net.conv1.weight"], other["net.conv1.weight"])


def checkpoint_of_pretraining(own: dict[str, Any], folder: Path, cache: Path) -> dict[str, torch.Tensor]:
    """The state of the method that a trial of this config builds."""
    return trial._Trial(own, ignore, folder, cache, folder / "stages")._method().state_dict()


def test_some_classes_of_the_data_are_enough(tmp_path: Path, cache: Path) -> None:
    data = {**SPEC["data"], "classes": ["4", "9"]}
    settings = json.loads(json.dumps(config(data=data, method="supervised", evaluate={"knn": {}})))  # as Ray brings it
    assert trial.run(settings, ignore, tmp_path, cache=cache)["knn/top1_test"] > 90


@pytest.mark.parametrize(("stage", "epoch"), [("pretrain", 1), ("pretrain", 2), ("linear", 1), ("finetune", 2)])
def test_stopped_anywhere_and_run_again_it_ends_the_same(
    undisturbed: tuple[Path, dict[str, float]], tmp_path: Path, cache: Path, stage: str, epoch: int
) -> None:
    def stop(metrics: dict[str, float], step: int) -> None:
        if next(iter(metrics)).startswith(stage) and step == epoch:
            raise Stop("asked to")

    with pytest.raises(Stop):
        trial.run(config(), stop, tmp_path, cache=cache)
    torch.manual_seed(99)  # another process has another past
    assert trial.run(config(), ignore, tmp_path, cache=cache) == undisturbed[1]
    assert_same_encoder(tmp_path, undisturbed[0])
    reports = [event for event in journal.read(tmp_path)[0] if event.name == "report"]
    told = [(sorted(event.metrics), event.step) for event in reports]
    assert len(told) == len({json.dumps(each) for each in told})  # every epoch once


def test_finished_stages_are_not_run_again(
    undisturbed: tuple[Path, dict[str, float]], tmp_path: Path, cache: Path
) -> None:
    seen: list[str] = []

    def note(metrics: dict[str, float], step: int) -> None:
        seen.append(next(iter(metrics)).split("/")[0])

    trial.run(config(evaluate={"knn": {}}), ignore, tmp_path, cache=cache)
    trial.run(config(evaluate={"knn": {}, "linear": {"epochs": 1}}), note, tmp_path, cache=cache)
    assert set(seen) == {"linear"}


def test_another_seed_is_another_trial(undisturbed: tuple[Path, dict[str, float]], tmp_path: Path, cache: Path) -> None:
    trial.run(config(seed=1), ignore, tmp_path, cache=cache)
    first, second = (next(iter(encoder(folder).values())) for folder in (tmp_path, undisturbed[0]))
    assert not torch.equal(first, second)


def test_without_pretraining_an_encoder_is_only_evaluated(tmp_path: Path, cache: Path) -> None:
    results = trial.run(
        config(method="supervised", evaluate={"finetune": {"epochs": 1}}), ignore, tmp_path, cache=cache
    )
    assert {name.split("/")[0] for name in results} == {"finetune"}
    assert not (tmp_path / "encoder.pt").exists()


@pytest.mark.parametrize(
    ("stage", "changes"),
    [
        ("pretrain", {"pretrain": {**SPEC["pretrain"], "lr": 0.001}}),
        ("finetune", {"evaluate": {"finetune": {"epochs": 2, "lr": 0.05}}}),
    ],
)
def test_a_checkpoint_of_other_settings_is_not_gone_on_from(
    tmp_path: Path, cache: Path, stage: str, changes: dict[str, Any]
) -> None:
    def stop(metrics: dict[str, float], step: int) -> None:
        if next(iter(metrics)).startswith(stage):
            raise Stop("asked to")

    with pytest.raises(Stop):
        trial.run(config(evaluate={"finetune": {"epochs": 2}}), stop, tmp_path / "a", cache=cache)
    changed = config(**{"evaluate": {"knn": {}}, **changes})
    resumed = trial.run(changed, ignore, tmp_path / "a", cache=cache)
    assert resumed == trial.run(changed, ignore, tmp_path / "b", cache=cache)


def test_a_stage_key_covers_what_can_change_its_result() -> None:
    base = config()
    assert stage_key(base, "pretrain", "fp32") != stage_key(base, "pretrain", "bf16")
    for changed in (config(seed=1), config(views={"flip": 0.1}), config(encoder={"name": "resnet18", "width": 16})):
        assert stage_key(base, "pretrain", "fp32") != stage_key(changed, "pretrain", "fp32")
    moved = {**base, "data": {**base["data"], "root": "/elsewhere"}}
    assert stage_key(base, "linear", "fp32") == stage_key(moved, "linear", "fp32")
    other = config(evaluate={**SPEC["evaluate"], "linear": {"epochs": 3}})
    assert stage_key(base, "pretrain", "fp32") == stage_key(other, "pretrain", "fp32")
    assert stage_key(base, "linear", "fp32") != stage_key(other, "linear", "fp32")
    assert stage_key(base, "knn", "fp32") == stage_key(other, "knn", "fp32")


def test_the_crop_matters_to_evaluations_alone() -> None:
    large = {**SPEC["data"], "image_size": 64}
    plain = {"resize": 64, "interpolation": "bilinear"}
    configs = [config(data={**large, "eval_crop": crop}) for crop in (None, plain, {"resize": 73, "crop": 64})]
    assert len({stage_key(each, "pretrain", "fp32") for each in configs}) == 1
    default, other, same = (stage_key(each, "knn", "fp32") for each in configs)
    assert default == same != other


def test_a_sweep_of_an_earlier_version_keeps_its_meaning_and_its_keys() -> None:
    data = {**SPEC["data"], "image_size": 64}
    stored = from_dump({**SPEC, "data": data}).model_dump(mode="json")
    for section, knob in (("linear", "standardize"), ("linear", "refit"), ("knn", "refit"), ("finetune", "refit")):
        del stored["evaluate"][section][knob]
    del stored["data"]["eval_crop"]
    stored["evaluate"]["linear"] |= {"lr": 0.01, "weight_decay": 1e-4}
    old = resolve(from_dump(stored), {}, 0)
    assert old["data"]["eval_crop"] == {"resize": 64, "crop": 64, "interpolation": "bilinear"}
    assert old["evaluate"]["linear"]["standardize"] is False
    # those that the version before `standardize` and `eval_crop` computed
    keys = {"pretrain": "8c79762ff1095aa1", "knn": "c8e967eafec2b508", "linear": "ea93aa5726f9ad9a"}
    assert {stage: stage_key(old, stage, "fp32") for stage in keys} == keys


def test_without_validation_images_a_fixed_recipe_has_test_scores_alone(tmp_path: Path, cache: Path) -> None:
    linear = {"epochs": 2, "lr": 0.1, "weight_decay": 0.0}
    evaluate = {"linear": linear, "knn": {}, "semi_supervised": {"fractions": [10], "epochs_per_fraction": 1}}
    evaluate |= {"robustness": {"changes": ["flip"], "epochs": 1, "lr": [0.1]}, "label_free": {}, "clusters": {}}
    whole = {**SPEC["data"], "val_fraction": 0}
    spec = from_dump({**SPEC, "data": whole, "evaluate": {**evaluate, "finetune": {"epochs": 1}}})
    assert spec.search.objective == "minimize cost/million_parameters"
    results = trial.run(resolve(spec, {}, 0), ignore, tmp_path, cache=cache)
    measured = {name for name in results if not name.startswith("pretrain/")}
    assert {*spec.table.columns} <= measured
    assert measured == {name for name in _all_metrics(spec) if not name.endswith("_val") and "_best" not in name}
    assert "pretrain/knn_top1_val" not in results


def _all_metrics(spec: SweepSpec) -> set[str]:
    return {metric for name, knobs in spec.evaluate.items() for metric in load_evaluation(name).metrics(knobs)}


def test_a_refit_is_resumed_to_the_same_test_scores(tmp_path: Path, cache: Path) -> None:
    linear = {"epochs": 2, "lr": [0.1, 1.0], "weight_decay": 0.0, "refit": True}
    both = config(evaluate={"linear": linear, "finetune": {"epochs": 2, "refit": True}})
    expected = trial.run(both, ignore, tmp_path / "a", cache=cache)
    for number, stop_at in enumerate(("linear", "finetune")):

        def stop(metrics: dict[str, float], step: int, stage: str = stop_at) -> None:
            if step == 3 and next(iter(metrics)).startswith(stage):  # the first epoch of the second training
                raise Stop("asked to")

        with pytest.raises(Stop):
            trial.run(both, stop, tmp_path / str(number), cache=cache)
        assert trial.run(both, ignore, tmp_path / str(number), cache=cache) == expected


def test_labelled_images_matter_to_evaluations_and_their_presence_to_pretraining() -> None:
    none, digits, other = (
        config(data={**SPEC["data"], "labelled": labelled}) for labelled in (None, "digits", "imagefolder:other")
    )
    older = {**none, "data": {name: value for name, value in none["data"].items() if name != "labelled"}}
    for stage in ("pretrain", "knn"):
        assert stage_key(none, stage, "fp32") == stage_key(older, stage, "fp32")
    assert len({stage_key(each, "knn", "fp32") for each in (none, digits, other)}) == 3
    assert stage_key(digits, "pretrain", "fp32") == stage_key(other, "pretrain", "fp32")
    assert stage_key(none, "pretrain", "fp32") != stage_key(digits, "pretrain", "fp32")
    digits, other = ({**each, "health": {**each["health"], "on_collapse": "stop"}} for each in (digits, other))
    assert stage_key(digits, "pretrain", "fp32") != stage_key(other, "pretrain", "fp32")


def lay_out_photos(folder: Path) -> None:
    """Noise around a shade for each of two classes: by class folders, and all flat in one folder."""
    rng = np.random.default_rng(0)
    for number in range(64):
        pixels = rng.integers(0, 60, (12, 10, 3), dtype=np.uint8) + 150 * (number % 2)
        for place in (f"named/{'ab'[number % 2]}", "flat"):
            path = folder / place / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels.astype(np.uint8)).save(path)


def test_pretrained_on_photos_without_labels_and_evaluated_on_labelled_ones(tmp_path: Path) -> None:
    lay_out_photos(tmp_path)
    data = {"source": "imagefolder:flat", "labelled": "imagefolder:named", "image_size": 8, "val_fraction": 0.25}
    wanted = config(data=data, pretrain={**SPEC["pretrain"], "batch_size": 16}, evaluate={"knn": {"k": 3}})
    wanted["data"]["root"] = str(tmp_path)
    results = trial.run(wanted, ignore, tmp_path / "trial", cache=tmp_path / "cache")
    assert results["knn/top1_val"] > 90  # by brightness alone
    assert results["knn/top1_test"] > 90
    assert results["pretrain/knn_top1_val"] > 90
    assert set(json.loads((tmp_path / "trial/artifacts/map.json").read_text())["labels"]) == {0, 1}


def test_sizes_follow_the_images_that_the_method_sees(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    lay_out_photos(tmp_path)
    data = {"source": "imagefolder:flat", "labelled": "digits", "image_size": 8}
    pretrain = {**SPEC["pretrain"], "batch_size": 16}
    wanted = config(data=data, method={"name": "moco", "dim": 8}, pretrain=pretrain, evaluate={"knn": {"k": 3}})
    wanted["data"]["root"] = str(tmp_path)
    with caplog.at_level("INFO"):
        trial.run(wanted, ignore, tmp_path / "trial", cache=tmp_path / "cache")
    assert "{'queue_size': 48}, for 64 training images" in caplog.text


def test_without_any_labels_it_is_pretrained_and_evaluated_without_them(tmp_path: Path) -> None:
    lay_out_photos(tmp_path)
    data = {"source": "imagefolder:flat", "image_size": 8, "val_fraction": 0.25}
    label_free, by_rank = (
        {"label_free": {"view_images": 8, "views": 2}},
        {"objective": "maximize label_free/rankme_val"},
    )
    wanted = config(data=data, pretrain={**SPEC["pretrain"], "batch_size": 16}, evaluate=label_free, search=by_rank)
    wanted["data"]["root"] = str(tmp_path)
    results = trial.run(wanted, ignore, tmp_path / "trial", cache=tmp_path / "cache")
    assert {"pretrain/effective_rank", "label_free/rankme_test"} <= results.keys()
    assert "pretrain/knn_top1_val" not in results
    assert set(json.loads((tmp_path / "trial/artifacts/map.json").read_text())["labels"]) == {-1}


def test_without_labels_an_evaluation_that_needs_them_ends_the_trial_before_pretraining(tmp_path: Path) -> None:
    lay_out_photos(tmp_path)
    wanted = config(data={"source": "imagefolder:flat", "image_size": 8}, evaluate={"knn": {}})
    wanted["data"]["root"] = str(tmp_path)
    with pytest.raises(DataError, match=r"evaluate.knn: .*'imagefolder:flat'.*data.labelled"):
        trial.run(wanted, ignore, tmp_path / "trial", cache=tmp_path / "cache")
    assert not (tmp_path / "trial/encoder.pt").exists()


def test_the_number_of_workers_matters_where_each_has_its_own_batch_statistics() -> None:
    shared = config()
    own = {**shared, "pretrain": {**shared["pretrain"], "sync_batchnorm": False}}
    assert stage_key(shared, "knn", "fp32", 2) == stage_key(shared, "knn", "fp32")
    assert stage_key(own, "knn", "fp32", 2) != stage_key(own, "knn", "fp32")


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), "oom"),
        (MemoryError(), "oom"),
        (Diverged("loss is nan"), "diverged"),
        (DataError("broken.jpg"), "data"),
        (ModuleNotFoundError("No module named 'timm'"), "import"),
        (LibraryError("timm is not installed", "install it"), "import"),
        (RuntimeError("else"), "crash"),
    ],
)
def test_a_failure_has_a_reason(error: Exception, reason: str) -> None:
    assert attempt.failure_reason(error) == reason


def test_an_import_error_names_the_file_that_imports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any, **__: Any) -> dict[str, float]:
        return vars(importlib.import_module("stray_module"))

    (tmp_path / "stray_module.py").write_text("\nimport no_such_module\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(trial, "run", broken)
    outcome = attempt.attempt(TrialRecord("t", config=config()), 1, ignore, tmp_path / "trial", tmp_path)
    said = f"ModuleNotFoundError: No module named 'no_such_module' ({tmp_path / 'stray_module.py'}:2)"
    assert (outcome.state, outcome.reason, outcome.message) == ("FAILED", "import", said)


def test_an_attempt_writes_down_how_it_ended(tmp_path: Path, cache: Path) -> None:
    record = TrialRecord("t", config=config(pretrain={**SPEC["pretrain"], "lr": 1e30, "optimizer": "sgd"}))
    outcome = attempt.attempt(record, 1, ignore, tmp_path, cache)
    assert (outcome.state, outcome.reason) == ("FAILED", "diverged")
    assert "lower lr" in (outcome.message or "")
    events = journal.read(tmp_path)[0]
    assert [event.name for event in events] == ["attempt", "begin", "artifact", "end"]
    assert events[0].versions["torch"]
    assert "Diverged" in events[-1].traceback
    assert "Diverged" in (tmp_path / "log.txt").read_text()


def one_picture(folder: Path) -> str:
    """A data set whose images are all the same, so that their features are too."""
    for number in range(40):
        path = folder / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (90, 120, 150)).save(path)
    return f"imagefolder:{folder}"


@pytest.mark.parametrize(
    ("objective", "reason", "said"),
    [
        ("label_free/rankme_val", None, None),
        ("label_free/alpha_val", "diverged", r"search\.objective label_free/alpha_val is nan.*lower pretrain\.lr"),
        ("knn/top1_val", "crash", r"objective knn/top1_val is not measured by this choice, .* label_free/rankme_val"),
    ],
)
def test_without_a_finite_objective_a_trial_has_failed(
    tmp_path: Path, cache: Path, objective: str, reason: str | None, said: str | None
) -> None:
    small = {"label_free": {"images": 10, "view_images": 4, "views": 2}}
    data = {"source": one_picture(tmp_path / "data"), "image_size": 8}
    spec = {"data": data, "encoder": "pixels", "method": "supervised", "evaluate": small}
    record = TrialRecord("t", config=config(**spec, search={"objective": "maximize label_free/rankme_val"}))
    outcome = attempt.attempt(record, 1, ignore, tmp_path / "t", cache, objectives=[objective])
    end = journal.read(tmp_path / "t")[0][-1]
    state = "FAILED" if reason else "COMPLETE"
    assert (outcome.state, outcome.reason, end.state, end.reason) == (state, reason, state, reason)
    assert bool(outcome.results) == (reason is None)
    assert said is None or re.search(said, outcome.message or "")


@pytest.mark.parametrize(
    ("ask", "state"), [("prune", "PRUNED"), ("stop", "STOPPED"), ("pause", "PAUSED"), (None, "STOPPED")]
)
def test_a_trial_that_is_asked_to_end_leaves_its_checkpoint_and_is_no_failure(
    tmp_path: Path, cache: Path, ask: Any, state: str
) -> None:
    def stop(metrics: dict[str, float], step: int) -> None:
        if ask is not None:
            requests.request_stop(tmp_path, ask, "as asked")
        raise Stop("as asked")

    outcome = attempt.attempt(TrialRecord("t", config=config()), 1, stop, tmp_path, cache)
    assert (outcome.state, outcome.message) == (state, "as asked")
    assert journal.read(tmp_path)[0][-1].state == state
    assert list(tmp_path.glob("stages/*/checkpoint.pt"))
