from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import pytest
from pydantic import Field, ValidationError

import ssl_sweep.methods
from ssl_sweep.knobs import knobs
from ssl_sweep.knobs.evaluation import load_evaluation
from ssl_sweep.knobs.problems import did_you_mean, findings_of
from ssl_sweep.spec.sections import FIXED

TARGETS = [
    *FIXED.values(),
    *(knobs.load(kind, name) for kind in ("methods", "evaluations", "encoders") for name in knobs.names(kind)),
]


class Toy:
    def __init__(
        self,
        encoder: object,
        stage: int = 3,
        *,
        temperature: Annotated[float, Field(gt=0, lt=2, description="softness of the softmax")] = 0.2,
        queue: Annotated[int, Field(ge=1)] = 64,
        head: Literal["mlp", "linear"] = "mlp",
        sizes: tuple[int, ...] = (1, 2),
        clip: float | None = None,
        shuffle: bool = False,
        label: str,
    ) -> None:
        raise AssertionError("reading the knobs must not build the target")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    lr: Annotated[float, Field(gt=0)] = 1
    steps: int


def refused(target: object, **values: object) -> dict[object, tuple[str, str]]:
    with pytest.raises(ValidationError) as raised:
        knobs.check(target, values, "toy")
    return {found.loc: (found.message, found.remedy) for found in findings_of(raised.value)}


def test_keyword_only_arguments_are_the_knobs() -> None:
    assert list(knobs.knobs_of(Toy).model_fields) == [
        "temperature", "queue", "head", "sizes", "clip", "shuffle", "label",
    ]  # fmt: skip
    assert list(knobs.knobs_of(Recipe).model_fields) == ["lr", "steps"]
    assert knobs.knobs_of(lambda images, rng: None).model_fields == {}


def test_check_fills_defaults_and_gives_plain_json() -> None:
    checked = knobs.check(Toy, {"label": "a", "temperature": 1, "sizes": [3], "clip": 2}, "toy")
    assert checked == {
        "temperature": 1.0, "queue": 64, "head": "mlp", "sizes": [3], "clip": 2.0, "shuffle": False, "label": "a",
    }  # fmt: skip
    assert isinstance(checked["temperature"], float)
    recipe = knobs.check(Recipe, {"steps": 2}, "recipe")
    assert isinstance(recipe["lr"], float)


@pytest.mark.parametrize(
    ("knob", "value"),
    [
        ("temperature", "0.2"), ("temperature", True), ("temperature", float("inf")), ("temperature", float("nan")),
        ("temperature", None), ("queue", 1.5), ("queue", 2.0), ("queue", False), ("shuffle", 1), ("shuffle", "true"),
        ("label", 3), ("head", "MLP"), ("sizes", 3), ("sizes", [1, "2"]), ("clip", "none"),
    ],
)  # fmt: skip
def test_values_are_not_converted(knob: str, value: object) -> None:
    (loc,) = refused(Toy, **{"label": "a", knob: value})
    assert loc[0] == knob


def test_all_mistakes_at_once_each_with_reason_and_remedy() -> None:
    assert refused(Toy, temperature=2, temprature=1, head="mlpp", queue="x", sizes=[1, 2, "x"]) == {
        ("temperature",): ("must be less than 2 (softness of the softmax)", "use a value in (0, 2)"),
        ("temprature",): ("is not a knob of toy", "did you mean 'temperature'?"),
        ("head",): ("must be 'mlp' or 'linear'", "did you mean 'mlp'?"),
        ("queue",): ("must be a valid integer", "write a whole number, such as 64"),
        ("sizes", 2): ("must be a valid integer", "write a whole number, such as [1, 2]"),
        ("label",): ("is required", "add `label: ...`"),
    }


def test_not_a_mapping() -> None:
    with pytest.raises(ValidationError) as raised:
        knobs.check(Toy, 5, "toy")  # type: ignore[arg-type]
    assert [found.message for found in findings_of(raised.value)] == ["must be a mapping"]


def test_a_default_outside_its_own_bounds_is_refused() -> None:
    def broken(*, alpha: Annotated[float, Field(lt=0.5)] = 0.5) -> None: ...

    assert ("alpha",) in refused(broken)


def test_the_issue_asks_for_this_reason() -> None:
    message, remedy = refused(FIXED["views"], overlay_alpha=0.5)[("overlay_alpha",)]
    assert "must dominate" in message
    assert remedy == "use a value in [0, 0.5)"
    assert ("overlay_alpha",) in refused(FIXED["views"], overlay_alpha=-0.01)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.__module__}.{target.__name__}")
def test_every_knob_of_the_project_says_what_it_is(target: object) -> None:
    for name, field in knobs.knobs_of(target).model_fields.items():
        assert field.description, f"{name} has no description"
        assert name != "name", "a section's own key has this name"


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: f"{target.__module__}.{target.__name__}")
def test_every_default_of_the_project_is_valid(target: object) -> None:
    required = {name for name, field in knobs.knobs_of(target).model_fields.items() if field.is_required()}
    values = {"source": "digits", "image_size": 8, "sources": ["digits"]}
    assert required <= values.keys()
    knobs.check(target, {name: values[name] for name in required}, "target")


def test_names_are_the_files_of_the_folder() -> None:
    folder = Path(ssl_sweep.methods.__path__[0])
    assert knobs.names("methods") == sorted(path.stem for path in folder.glob("[!_]*.py"))
    assert {"autoencoder", "supervised"} <= set(knobs.names("methods"))
    assert "resnet18" in knobs.names("encoders")


def test_a_new_file_is_a_new_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = "class Method:\n    def __init__(self, encoder, *, momentum: float = 0.9): ...\n"
    (tmp_path / "brand_new.py").write_text(code)
    monkeypatch.setattr(ssl_sweep.methods, "__path__", [*ssl_sweep.methods.__path__, str(tmp_path)])
    assert "brand_new" in knobs.names("methods")
    assert list(knobs.knobs_of(knobs.load("methods", "brand_new")).model_fields) == ["momentum"]


@pytest.mark.parametrize("name", ["autoencodr", "../trial", "__init__", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(knobs.UnknownNameError, match="there is no method"):
        knobs.load("methods", name)


def test_unknown_name_proposes_the_nearest() -> None:
    with pytest.raises(knobs.UnknownNameError, match=r"there is no evaluation 'lineer'; did you mean 'linear'\?"):
        knobs.load("evaluations", "lineer")


def test_metrics_have_their_evaluation_in_front() -> None:
    assert {"knn/top1_val", "knn/top1_test"} <= set(load_evaluation("knn").metrics({"k": 20}))


def test_an_evaluation_names_the_data_that_it_opens() -> None:
    assert load_evaluation("transfer").data_sources({"sources": ["digits", "imagefolder:cars"]}) == (
        "digits",
        "imagefolder:cars",
    )
    assert load_evaluation("knn").data_sources({"k": 20}) == ()


def test_nearest() -> None:
    assert did_you_mean("epoch", ["lr", "epochs"]) == "did you mean 'epochs'?"
    assert did_you_mean("xyz", ["b", "a"]) == "use one of a, b"
    assert did_you_mean("xyz", []) == "there are none, leave it out"
    assert did_you_mean("xyz", ["b"], "stop") == "stop"
