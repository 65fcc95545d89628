"""The README's promises that can go stale are executed."""

import re
from pathlib import Path

import pytest
import yaml

from ssl_sweep import methods
from ssl_sweep.knobs import knobs
from ssl_sweep.spec.sweep import from_dump, grid, resolve
from ssl_sweep.trial import run as trial

README = (Path(__file__).parents[2] / "README.md").read_text()


def block(section: str, language: str) -> str:
    """The first code block of a language in a section."""
    body = README.split(f"\n## {section}\n")[1].split("\n## ")[0]
    found = re.search(rf"```{language}\n(.*?)```", body, flags=re.DOTALL)
    assert found is not None
    return found[1]


def test_the_method_of_the_readme_can_be_searched_and_learns(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "denoise.py").write_text(block("Add a method", "python"))
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    knobs.load.cache_clear()
    spec = from_dump(yaml.safe_load(block("Add a method", "yaml")))
    choices = grid(spec)
    assert [choice["method.noise"] for choice in choices] == [0.0, 0.1, 0.3]
    seen: list[dict[str, float]] = []
    config = resolve(spec, choices[1], seed=0)
    results = trial.run(config, lambda metrics, step: seen.append(metrics), tmp_path / "trial", cache=cache)
    assert results["knn/top1_val"] > 50
    assert seen[0]["pretrain/loss"] > 0


def test_every_dependency_has_its_reason() -> None:
    import tomllib

    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    names = {re.split(r"[\[>=<]", requirement)[0] for requirement in project["dependencies"]}
    section = README.split("## Dependencies")[1].split("\n## ")[0]
    assert [name for name in sorted(names) if name not in section] == []


def test_every_command_is_named() -> None:
    from ssl_sweep.cli import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert [name for name in sorted(names) if f"ssl-sweep {name}" not in README] == []


def test_every_experiment_is_listed() -> None:
    folder = Path(__file__).parents[2] / "experiments"
    listed = (folder / "README.md").read_text()
    specs = [path.relative_to(folder).as_posix() for path in folder.rglob("*.yaml")]
    missing = [spec for spec in specs if Path(spec).name not in listed and spec.replace("_small", "") not in listed]
    assert missing == []
