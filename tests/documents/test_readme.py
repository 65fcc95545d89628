"""The documents' promises that can go stale are executed."""

import re
import runpy
import sys
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.torch import save_file
from torchvision.models import resnet18

from ssl_sweep import evaluations, methods
from ssl_sweep.contracts.find import find
from ssl_sweep.contracts.report import run as run_checks
from ssl_sweep.data.images import DataError
from ssl_sweep.data.sources import open_source
from ssl_sweep.data.splits import data_of, load_splits
from ssl_sweep.knobs.evaluation import load_evaluation
from ssl_sweep.models.encoders import ENCODERS
from ssl_sweep.plugins import catalog
from ssl_sweep.spec.file import load_spec
from ssl_sweep.spec.sweep import from_dump, grid, resolve
from ssl_sweep.training.declarations import MethodDeclarations
from ssl_sweep.trial import run as trial

TOP = Path(__file__).parents[2]
READERS = ("dashboards", "docker", "experiments", "ssl_sweep")  # folders with a document for who works there
PLACES = ("ssl_sweep", "tests", "experiments", "docker", ".ci")  # of files that documents name
README = (TOP / "README.md").read_text()
PACKAGE = (TOP / "ssl_sweep" / "README.md").read_text()
OWN = "Your own methods, encoders, evaluations and sources"
EXPERIMENTS = (TOP / "experiments" / "README.md").read_text()


def section(page: str, title: str) -> str:
    """What stands under a heading."""
    return page.split(f"\n## {title}\n")[1].split("\n## ")[0]


def block(page: str, title: str, language: str) -> str:
    """The first code block of a language in a section."""
    found = re.search(rf"```{language}\n(.*?)```", section(page, title), flags=re.DOTALL)
    assert found is not None
    return found[1]


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with the method, the evaluation and the encoder of the package's README, each found by its name."""
    for package, title, name in (
        (methods, "Add a method", "denoise"),
        (evaluations, "Add an evaluation", "centroids"),
    ):
        folder = tmp_path / name
        folder.mkdir()
        (folder / f"{name}.py").write_text(block(PACKAGE, title, "python"))
        monkeypatch.setattr(package, "__path__", [*package.__path__, str(folder)])
    (tmp_path / "plain.py").write_text(block(PACKAGE, "Add an encoder", "python"))
    monkeypatch.setitem(ENCODERS, "plain", runpy.run_path(str(tmp_path / "plain.py"))["Plain"])
    yield tmp_path
    for name in ("methods.denoise", "evaluations.centroids"):  # else they stay the package's own
        sys.modules.pop(f"ssl_sweep.{name}", None)


def run(spec: dict[str, Any], folder: Path, cache: Path) -> tuple[dict[str, float], list[dict[str, float]]]:
    """The results of the spec's second choice, and all that it reported."""
    seen: list[dict[str, float]] = []
    read = from_dump(spec)
    config = resolve(read, grid(read)[1], seed=0)
    return trial.run(config, lambda metrics, step: seen.append(metrics), folder / "trial", cache=cache), seen


def test_the_method_of_the_documents_can_be_searched_and_learns(written: Path, cache: Path) -> None:
    spec = yaml.safe_load(block(PACKAGE, "Add a method", "yaml"))
    assert [choice["method.noise"] for choice in grid(from_dump(spec))] == [0.0, 0.1, 0.3]
    results, seen = run(spec, written, cache)
    assert results["knn/top1_val"] > 50
    assert seen[0]["pretrain/loss"] > 0


def test_the_documents_list_what_a_method_may_declare() -> None:
    listed = re.findall(r"^\| `(\w+)", section(PACKAGE, "Add a method"), flags=re.MULTILINE)
    assert sorted(listed) == sorted(field.name for field in fields(MethodDeclarations))


def test_the_evaluation_and_the_encoder_of_the_documents_can_be_searched_and_learn(written: Path, cache: Path) -> None:
    spec = yaml.safe_load(block(PACKAGE, "Add a method", "yaml"))
    spec |= {"encoder": {"name": "plain", "depth": 2}, "evaluate": {"centroids": {}, "knn": {}}}
    spec["search"] = {"space": {"encoder.width": [4, 8], "evaluate.centroids.unit_length": [True]}}
    results, _ = run(spec, written, cache)
    assert {"centroids/top1_val", "centroids/top1_test"} <= set(results)
    assert results["centroids/top1_val"] > 40  # 10 by chance
    assert load_evaluation("centroids").metrics({}) == ("centroids/top1_val", "centroids/top1_test")


def test_the_source_of_the_documents_is_opened_and_packed(tmp_path: Path) -> None:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources/npz.py").write_text(block(PACKAGE, "Add a source", "python"))
    pixels = np.arange(40, dtype=np.uint8).repeat(8 * 8 * 3).reshape(40, 8, 8, 3)
    np.savez(tmp_path / "cells.npz", images=pixels, labels=np.arange(40) % 2)
    catalog.use(tmp_path)
    try:
        data = data_of(yaml.safe_load(block(PACKAGE, "Add a source", "yaml"))["data"] | {"image_size": 8})
        splits = load_splits(data, root=tmp_path, cache=tmp_path / "cache")
        with pytest.raises(DataError, match=r"name an \.npz archive"):
            open_source("local/npz:gone.npz", root=tmp_path)
    finally:
        catalog.use(None)
    assert (len(splits.train), len(splits.val), len(splits.test), splits.num_classes) == (29, 3, 8, 2)


def test_the_spec_of_the_readme_is_the_quickstarts_with_a_comment_a_line() -> None:
    shown = re.search(r"<!-- spec:begin -->\n```yaml\n(.*?)```\n<!-- spec:end -->", README, flags=re.DOTALL)
    assert shown is not None
    assert yaml.safe_load(shown[1]) == yaml.safe_load((TOP / "experiments" / "quickstart.yaml").read_text())
    assert [line for line in shown[1].splitlines() if not re.search(r" # \S", line)] == []


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) <= 250


def test_the_map_has_every_package() -> None:
    listed = re.findall(r"\b([a-z]+)/ ", section(README, "The packages"))
    there = [path.parent.name for path in (TOP / "ssl_sweep").glob("*/__init__.py")]
    assert sorted(listed) == sorted(there)


@pytest.fixture
def _own_plugins(tmp_path: Path) -> Iterator[None]:
    """The folder of plugins that the documents have the reader write, in use."""
    (tmp_path / "plugins" / "methods").mkdir(parents=True)
    (tmp_path / "plugins" / "methods" / "mine.py").write_text(block(EXPERIMENTS, OWN, "python"))
    catalog.use(tmp_path / "plugins")
    yield
    catalog.use(None)


@pytest.mark.usefixtures("_own_plugins")
def test_the_plugin_of_the_documents_learns(tmp_path: Path, cache: Path) -> None:
    (tmp_path / "mine.yaml").write_text(block(EXPERIMENTS, OWN, "yaml"))
    spec = load_spec(tmp_path / "mine.yaml")
    config = resolve(spec, grid(spec)[1], seed=0)
    assert config["method"] == {"name": "local/mine", "noise": 0.0}
    config["encoder"]["width"] = 8  # a smaller net than the documents': quick, and not worse
    results = trial.run(config, lambda metrics, step: None, tmp_path / "trial", cache=cache)
    assert results["knn/top1_test"] > 50


@pytest.mark.usefixtures("_own_plugins")
def test_the_plugins_of_the_documents_keep_their_contracts(tmp_path: Path) -> None:
    for place, title in (
        ("methods/denoise.py", "Add a method"),
        ("evaluations/centroids.py", "Add an evaluation"),
        ("encoders/plain.py", "Add an encoder"),
        ("sources/npz.py", "Add a source"),
    ):
        file = tmp_path / "plugins" / place
        file.parent.mkdir(exist_ok=True)
        file.write_text(block(PACKAGE, title, "python").replace("class Plain", "class Backbone"))
    np.savez(tmp_path / "cells.npz", images=np.zeros((20, 8, 8, 3), np.uint8), labels=np.arange(20) % 2)
    subjects = [
        subject if subject.kind != "sources" else replace(subject, name="local/npz:cells.npz")
        for subject in find(str(tmp_path / "plugins"), tmp_path)
    ]
    assert [subject.name.partition("/")[2] for subject in subjects] == [
        "denoise", "mine", "centroids", "plain", "npz:cells.npz",
    ]  # fmt: skip
    findings = [finding for subject in subjects for finding in run_checks(subject, 60.0, lambda words: None)]
    assert [finding for finding in findings if finding.result != "holds"] == []


@pytest.mark.usefixtures("_own_plugins")
def test_the_specs_in_the_documents_are_accepted(tmp_path: Path) -> None:
    first, *parts = re.findall(r"```yaml\n(.*?)```", EXPERIMENTS, flags=re.DOTALL)
    (tmp_path / "weights").mkdir()
    save_file(resnet18().state_dict(), tmp_path / "weights" / "resnet18.safetensors")
    path, base = tmp_path / "spec.yaml", yaml.safe_load(first)
    path.write_text(first)
    assert load_spec(path).search.trials == 20
    for part in map(yaml.safe_load, parts):
        own = {"sampler": "random", "trials": 4, **part.get("search", {})}
        search = own if "search" in part else base["search"]
        path.write_text(yaml.safe_dump({**base, **part, "search": search}))
        assert load_spec(path).name == part.get("name", base["name"])


def test_every_dependency_has_its_reason() -> None:
    import tomllib

    project = tomllib.loads((TOP / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[>=<]", requirement)[0] for requirement in project["dependencies"]}
    reasons = section(PACKAGE, "Dependencies")
    assert [name for name in sorted(names) if name not in reasons] == []


def test_every_command_is_named() -> None:
    from ssl_sweep.cli import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert [name for name in sorted(names) if f"ssl-sweep {name}" not in README] == []


def test_every_experiment_is_listed() -> None:
    folder = TOP / "experiments"
    listed = (folder / "README.md").read_text()
    specs = [path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")]
    missing = [spec for spec in specs if Path(spec).name not in listed and spec.replace("_small", "") not in listed]
    assert missing == []


@pytest.mark.parametrize("page", ["README.md", *(f"{each}/README.md" for each in READERS)])
def test_every_file_that_is_named_is_there(page: str) -> None:
    examples = {"denoise.py", "centroids.py", "plain.py"}  # which these documents have the reader write
    examples |= {"mine.py", "net.py", "score.py", "photos.py", "npz.py", "__init__.py"}
    named = set(re.findall(r"[\w/.-]*\b\w+\.py\b|experiments/[\w/-]+\.yaml", (TOP / page).read_text()))
    there = [f"/{path.relative_to(TOP).as_posix()}" for folder in PLACES for path in (TOP / folder).rglob("*.*")]
    missing = [name for name in named if not any(each.endswith(f"/{name}") for each in there)]
    assert [name for name in missing if Path(name).name not in examples] == []
