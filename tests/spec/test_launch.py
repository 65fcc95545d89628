"""Mistakes that only building a sweep's methods shows, told before anything runs; and defaults that fit small sets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from ssl_sweep.knobs import knobs, methods
from ssl_sweep.knobs.problems import SpecError
from ssl_sweep.plugins import catalog
from ssl_sweep.spec.file import load_spec
from ssl_sweep.spec.launch import derived_sizes, launch_findings, size_findings, size_warnings
from ssl_sweep.spec.sweep import SweepSpec, from_dump, resolve

DIGITS, FLOWERS = (1294, 8), (735, 64)  # training images beside validation, and pixels


def made(method: Any = "simclr", size: int = 8, **changes: Any) -> SweepSpec:
    base = {"name": "x", "data": {"source": "digits", "image_size": size}, "encoder": {"name": "resnet18", "width": 8}}
    return SweepSpec.model_validate(base | {"method": method, "evaluate": {"knn": {}}} | changes)


def found(spec: SweepSpec, train_images: int | None = None) -> dict[str, str]:
    findings = launch_findings(spec) if train_images is None else size_findings(spec, train_images)
    return {".".join(map(str, each.loc)): f"{each.value}: {each.message}; {each.remedy}" for each in findings}


@pytest.mark.parametrize(("train_images", "size"), [DIGITS, FLOWERS])
@pytest.mark.parametrize("name", knobs.names("methods"))
def test_every_method_alone_fits_a_small_set(name: str, train_images: int, size: int) -> None:
    encoder = "vit_tiny" if name == "mae" else {"name": "resnet18", "width": 8}
    spec = made(name, size, encoder=encoder)
    assert found(spec) == {}
    assert found(spec, train_images) == {}
    assert size_warnings(spec, train_images) == []


def test_an_evaluation_refuses_what_the_encoder_has_not() -> None:
    tuned = {"finetune": {"drop_path": 0.1}}
    refused = "ResNet18 has no residual branches that can be dropped; use a transformer, such as vit_tiny"
    (found_one,) = found(made(evaluate=tuned)).items()
    assert found_one[0] == "evaluate.finetune.drop_path"
    assert found_one[1].startswith(f"0.1: {refused}")
    assert found(made(evaluate=tuned, encoder="vit_tiny")) == {}
    contradictory = {"finetune": {"nesterov": True, "optimizer": "adamw"}}
    assert "set nesterov to false" in found(made(evaluate=contradictory))["evaluate.finetune.nesterov"]
    searched = {"space": {"evaluate.finetune.drop_path": [0.0, 0.2]}}
    (key,) = found(made(evaluate={"finetune": {}}, search=searched))
    assert key == "search.space.evaluate.finetune.drop_path"


def test_mae_says_which_encoders_it_takes() -> None:
    with pytest.raises(SpecError, match=r"method mae cannot use resnet18; use one of .*vit_tiny"):
        from_dump(made().model_dump(mode="json") | {"method": "mae"})


@pytest.mark.parametrize(
    ("changes", "key", "message"),
    [
        ({"method": {"name": "moco", "queue_size": 1000}}, "method.queue_size", "1000: is not a multiple of"),
        (
            {"method": {"name": "moco", "queue_size": 768, "symmetric": True}},
            "method.queue_size",
            "768: is not a multiple of the 512 keys that a step adds; take 1024, or another pretrain.batch_size",
        ),
        ({"method": {"name": "leoclr", "queue_size": 256, "enqueue": "both"}}, "method.queue_size", "take 512"),
        (
            {"method": {"name": "moco", "bn_splits": 1}, "resources": {"workers": 2}},
            "method.bn_splits",
            "1: groups of a batch cannot be shared evenly by 2 workers (resources.workers); make it a multiple of 2",
        ),
        ({"encoder": {"name": "vit_tiny", "patch_size": 3}}, "encoder.patch_size", "use one of [1, 2, 4, 8]"),
        (
            {"method": {"name": "mae", "decoder_dim": 100}, "encoder": "vit_tiny"},
            "method.decoder_dim",
            "not a multiple of decoder_heads 16",
        ),
        ({"method": {"name": "simmim", "mask_patch": 3}}, "method.mask_patch", "3: does not divide the image size 8"),
        ({"method": {"name": "simmim", "mask_fill": "token"}}, "method.mask_fill", "take mean or zero"),
        ({"method": {"name": "drlim", "shifts": [-9, 3]}}, "method.shifts", "too large for an image of 8 pixels"),
        (
            {"method": "moco", "search": {"space": {"method.queue_size": [256, 300]}}},
            "search.space.method.queue_size",
            "300: is not",
        ),
        (
            {
                "method": {"name": "exemplar", "scale_max": 1.4},
                "search": {
                    "space": {"method.scale_min": {"low": 0.5, "high": 2.0}}, "sampler": "random", "trials": 2
                },
            },
            "search.space.method.scale_min",
            "2.0: scale_min 2.0 must not exceed scale_max",
        ),
        (
            {"search": {"space": {"method": {"choices": ["simclr", {"name": "moco", "queue_size": [256, 300]}]}}}},
            "search.space.method",
            "300: is not a multiple",
        ),
        (
            {"search": {"cases": {"a": {}, "b": {"method": {"name": "moco", "queue_size": 300}}}}},
            "search.cases.b.method",
            "300: is not a multiple",
        ),
        (
            {
                "evaluate": {"transfer": {"sources": ["digits"]}},
                "search": {"pruner": "asha", "prune_on": "maximize transfer/top1_val"},
            },
            "search.prune_on",
            "is reported once, when transfer has ended",
        ),
    ],
)  # fmt: skip
def test_what_a_config_alone_shows(changes: dict[str, Any], key: str, message: str) -> None:
    mistakes = found(made(**changes))
    assert mistakes.keys() == {key}
    assert message in mistakes[key]


def test_an_end_to_end_leoclr_has_no_groups_and_no_queue() -> None:
    unused = {"bn_splits": 7, "queue_size": 999}
    spec = made({"name": "leoclr", "mechanism": "end_to_end", **unused}, resources={"workers": 2})
    assert found(spec) == {}
    assert found(spec, 100) == {}


def test_groups_of_a_batch_that_workers_cannot_share_are_refused() -> None:
    mistakes = found(made("moco", pretrain={"batch_size": 192}, resources={"workers": 3}))
    assert mistakes["method.bn_splits"].endswith("(resources.workers); make it a multiple of 3; ")


def test_a_queue_that_is_not_shorter_than_the_training_set_is_told_with_the_size_to_take() -> None:
    spec = made({"name": "moco", "queue_size": 65536})
    assert found(spec) == {}
    assert found(spec, 1294) == {
        "method.queue_size": "65536: is not shorter than the 1294 training images; take 1280; "
    }
    assert found(spec, 100_000) == {}
    assert found(made({"name": "exemplar", "num_classes": 1000}), 1294)["method.num_classes"].startswith(
        "1000: are fewer than the 1294 training images"
    )


def test_a_batch_that_is_larger_than_the_set_is_told() -> None:
    assert size_warnings(made(), 100) == [
        "pretrain.batch_size: 256 is more than the 100 training images: an epoch is one step with all of them"
    ]
    assert size_warnings(made("supervised"), 100) == []
    assert found(made(), 101) == {}
    shared = found(made(resources={"workers": 2}), 101)
    assert "take 100" in shared["pretrain.batch_size"]
    assert found(made("supervised", resources={"workers": 2}), 101) == {}


@pytest.mark.parametrize(
    ("name", "images", "batch_size", "changes", "size"),
    [
        ("moco", 1_281_167, 256, {}, 65536),
        ("moco", 1_281_167, 100, {}, 65500),
        ("moco", 1294, 128, {}, 1280),
        ("moco", 1280, 128, {}, 1152),
        ("moco", 1294, 256, {"symmetric": True}, 1024),
        ("moco", 100, 256, {}, 100),
        ("moco", 1294, 256, {"queue_size": 512}, 512),
        ("leoclr", 735, 64, {"enqueue": "both"}, 640),
    ],
)
def test_the_default_queue_is_the_papers_or_stays_below_the_set(
    name: str, images: int, batch_size: int, changes: dict[str, Any], size: int
) -> None:
    settings = made({"name": name, **changes}).method
    assert methods.fitted(settings, batch_size=batch_size, train_images=images)["queue_size"] == size


def test_sizes_that_depend_on_the_data_are_listed_by_method_or_case() -> None:
    choices = ["simclr", "moco", {"name": "leoclr", "temperature": [0.1, 0.2]}, "exemplar", "supervised"]
    searched = made(search={"space": {"method": {"choices": choices}}})
    sizes = {"moco; leoclr": {"queue_size": [1280]}, "exemplar": {"num_classes": [1294]}}
    assert derived_sizes(searched, 1294) == sizes
    cases = {"small": {"method": "moco", "pretrain.batch_size": 64}, "large": {"method": "moco"}, "none": {}}
    assert derived_sizes(made(search={"cases": cases}), 1000) == {
        "small": {"queue_size": [960]}, "large": {"queue_size": [768]},
    }  # fmt: skip
    batches = made("moco", search={"space": {"pretrain.batch_size": [64, 256, 128]}})
    assert derived_sizes(batches, 1000) == {"moco": {"queue_size": [960, 768, 896]}}
    assert derived_sizes(made({"name": "moco", "queue_size": 512}), 1000) == {}


@pytest.mark.parametrize("batch_size", [1294, 4096])
@pytest.mark.parametrize("written", [{}, {"queue_size": 1294}])
def test_a_queue_of_one_step_that_has_the_whole_set_is_told(batch_size: int, written: dict[str, int]) -> None:
    spec = made({"name": "moco", "bn_splits": 2, **written}, pretrain={"batch_size": batch_size})
    assert found(spec, 1294) == {}
    assert size_warnings(spec, 1294)[-1] == (
        "method.queue_size: is 1294, the keys of one step, as none is shorter than the 1294 training images: it holds "
        "older keys of the query's own image; take a smaller pretrain.batch_size"
    )


@pytest.mark.parametrize(("size", "train_images", "best"), [(1280, 1280, 1024), (2560, 1294, 1280), (512, 200, 200)])
def test_a_written_queue_obeys_the_rule_of_the_default(size: int, train_images: int, best: int) -> None:
    words = f"{size}: is not shorter than the {train_images} training images; take {best}; "
    assert found(made({"name": "moco", "queue_size": size}), train_images) == {"method.queue_size": words}
    spec = made({"name": "moco", "queue_size": best})
    assert found(spec, train_images) == {}
    assert (
        methods.fitted({**spec.method, "queue_size": None}, batch_size=256, train_images=train_images)["queue_size"]
        == best
    )


def test_exemplar_has_a_class_for_each_image() -> None:
    settings = made("exemplar").method
    assert methods.fitted(settings, batch_size=256, train_images=45_000)["num_classes"] == 45_000


def test_mistakes_have_their_line_and_stored_specs_are_not_checked(tmp_path: Path) -> None:
    path = tmp_path / "spec.yaml"
    raw = {"name": "x", "data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "evaluate": {"knn": {}}}
    path.write_text(yaml.safe_dump(raw) + "method: {name: moco,\n  queue_size: 1000}\n")
    with pytest.raises(SpecError, match=r"spec\.yaml:9: method\.queue_size: 1000: is not a multiple of the 256 keys"):
        load_spec(path)
    stored = made({"name": "moco", "queue_size": 1000}).model_dump(mode="json")
    assert resolve(from_dump(stored), {}, 0)["method"]["queue_size"] == 1000


def test_a_constructor_that_reads_values_is_built_in_memory_and_its_errors_are_words(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    method: Any = knobs.load("methods", "simclr")
    original = method.__init__

    def reads(self: Any, encoder: Any, **settings: Any) -> None:
        original(self, encoder, **settings)
        self.first = float(next(encoder.parameters()).flatten()[0])

    spec, before = made(), torch.get_rng_state()
    monkeypatch.setattr(method, "__init__", reads)
    assert found(spec) == {}
    assert torch.equal(torch.get_rng_state(), before)

    def fails(self: Any, encoder: Any, **settings: Any) -> None:
        raise KeyError("stem")

    monkeypatch.setattr(method, "__init__", fails)
    assert found(spec) == {"method": "simclr: cannot be built: KeyError: 'stem'; "}


@pytest.fixture
def mine(tmp_path: Path) -> Iterator[Path]:
    """The file of local/mine."""
    file = tmp_path / "methods" / "mine.py"
    file.parent.mkdir()
    yield file
    catalog.use(None)


def test_a_method_without_views_or_loss_is_refused_with_the_name_to_change(mine: Path) -> None:
    text = (
        "from torch import nn\n\nclass Method(nn.Module):\n    def __init__(self, encoder):\n"
        "        super().__init__()\n        self.encoder = encoder\n    def view(self, images, augment, rng): ...\n"
    )
    mine.write_text(text)
    catalog.use(mine.parents[1])
    message = f"has no `views`; rename `view`, and has no `loss`; define loss(self, batch) in {mine}"
    assert found(made("local/mine")) == {"method": f"local/mine: {message}; "}
    mine.write_text(f"{text}    pretrains = False\n")
    catalog.use(mine.parents[1])
    assert found(made("local/mine")) == {}


def test_without_validation_images_a_list_of_values_and_a_refit_are_refused() -> None:
    data = {"source": "digits", "image_size": 8, "val_fraction": 0}
    evaluate = {"linear": {"lr": 0.1}, "knn": {"k": [5, 20], "refit": True}, "finetune": {}}
    refused = found(made(data=data, evaluate=evaluate))
    assert refused.keys() == {"evaluate.linear.weight_decay", "evaluate.knn.k", "evaluate.knn.refit"}
    assert "of which validation would choose, and data.val_fraction is 0; give one value" in refused["evaluate.knn.k"]
    searched = {"space": {"evaluate.linear.lr": [0.1, 1.0]}, "seeds": 2}
    assert found(made(data=data, evaluate={"linear": {"weight_decay": 0.0}}, search=searched)) == {}
    with pytest.raises(ValueError, match="is no metric of this spec's evaluations"):
        made(data=data, evaluate={"knn": {}}, search={"objective": "maximize knn/top1_val"})


def test_a_crop_that_the_encoder_does_not_take_is_refused() -> None:
    data = {"source": "digits", "image_size": 32, "eval_crop": {"crop": 40}}
    assert found(made(data=data)) == {}
    (message,) = found(made("supervised", data=data, encoder="pixels")).values()
    assert "pixels is built for images of 32 pixels, and does not take 40" in message
    with pytest.raises(ValueError, match="resize: 8 is below the crop, 40"):
        made(data={**data, "eval_crop": {"crop": 40, "resize": 8}})
