"""`ssl-sweep check` as a user calls it: names, folders, exit codes and what is printed."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.plugins import catalog

from .conftest import changed
from .right import ENCODER, EVALUATION, METHOD, SOURCE


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an encoder that is right, a method with one mistake and a method that cannot be imported."""
    (tmp_path / "encoders").mkdir()
    (tmp_path / "encoders" / "plain.py").write_text(ENCODER)
    (tmp_path / "methods").mkdir()
    wrong = changed(METHOD, ("images.sampler(rng).randn(*first.shape[1:])", "torch.randn(first.shape)"))
    (tmp_path / "methods" / "alike.py").write_text(wrong)
    (tmp_path / "methods" / "broken.py").write_text("import nowhere\n")
    return tmp_path


@pytest.fixture(autouse=True)
def _no_plugins_afterwards() -> Iterator[None]:
    yield
    catalog.use(None)


def check(*arguments: str) -> tuple[int, str]:
    """Exit code, and all that is printed."""
    result = CliRunner().invoke(app, ["check", *arguments])
    return result.exit_code, result.output


def test_a_name_of_the_package_holds(tmp_path: Path) -> None:
    code, text = check("pixels")
    assert code == 0
    assert "encoder pixels  holds        its weights are below net\n" in text
    assert text.endswith("7 checks hold, 0 fail\n")


def test_a_name_of_two_kinds_is_checked_as_both() -> None:
    code, text = check("drlim")
    assert code == 0
    assert {line.split()[0] for line in text.splitlines()[:-1]} == {"method", "encoder"}


def test_a_source_of_the_package_holds() -> None:
    code, text = check("digits")
    assert code == 0
    assert "its fingerprint changes with its files (its argument names no file or folder)" in text


def test_a_folder_is_checked_as_a_whole(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    code, text = check(folder.name)
    assert code == 1
    assert "encoder local/plain  holds        its weights are below net\n" in text
    assert "method local/alike   fails        views draw from the generator alone\n" in text
    assert "draw through images.sampler(rng)\n" in text
    assert f"at {folder.name}/methods/alike.py:26\n" in text
    assert text.count("local/broken") == 2
    assert "methods/broken.py:1: ModuleNotFoundError: No module named 'nowhere'\n" in text
    assert "Traceback" not in text
    assert text.endswith("24 checks hold, 2 fail, 5 not checked\n")


def test_a_plugin_is_checked_by_its_name(folder: Path) -> None:
    code, text = check("local/plain", "--plugins", str(folder))
    assert code == 0
    assert "alike" not in text


def test_findings_as_json(folder: Path) -> None:
    code, text = check("local/alike", "--plugins", str(folder), "--json")
    assert code == 1
    [failure] = (finding for finding in json.loads(text) if finding["result"] == "fails")
    assert failure["check"] == "views draw from the generator alone"
    assert failure["place"] == f"{folder}/methods/alike.py:26"


def test_verbose_prints_traces(folder: Path) -> None:
    code, text = check("local/broken", "--plugins", str(folder), "--verbose")
    assert code == 1
    assert "Traceback" in text


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("mocco", "there is no method, evaluation, encoder or source 'mocco'; did you mean 'moco'?"),
        ("local/alike", "name its folder with --plugins DIR or SSL_SWEEP_PLUGINS"),
        (
            "{folder}/methods/alike.py",
            "is a file; check it by its name: ssl-sweep check local/alike --plugins {folder}",
        ),
        ("{folder}/methods", "has no plugins; name the folder around it, {folder}"),
        ("torchvision/resnt18", "did you mean 'torchvision/resnet18'"),
    ],
)
def test_what_is_not_there_is_refused_in_words(folder: Path, target: str, message: str) -> None:
    code, text = check(target.format(folder=folder))
    assert code in (1, 2)
    assert message.format(folder=folder) in text.replace("\n", " ").replace("  ", " ")


def test_all_kinds_of_a_folder_are_found(folder: Path) -> None:
    (folder / "evaluations").mkdir()
    (folder / "evaluations" / "nearest.py").write_text(EVALUATION)
    (folder / "sources").mkdir()
    (folder / "sources" / "numbered.py").write_text(SOURCE)
    code, text = check(str(folder))
    assert code == 1
    assert "evaluation local/nearest  holds" in text
    assert "give it one: local/numbered:ARGUMENT" in text
