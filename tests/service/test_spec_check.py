"""What a spec from the network may not have: folders of others, addresses, and more than it says."""

import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from services import SPEC

from ssl_sweep.plugins import catalog
from ssl_sweep.service.spec_check import MAX_CHARS, parse_submitted
from ssl_sweep.spec.file import SpecError, load_spec


def refused(roots: list[Path], overrides: list[str] | None = None, **changes: Any) -> str:
    with pytest.raises(SpecError) as caught:
        parse_submitted(yaml.safe_dump({**SPEC, **changes}), overrides or [], roots)
    return str(caught.value)


@pytest.fixture
def roots(tmp_path: Path) -> list[Path]:
    found = [tmp_path / "data", tmp_path / "more"]
    for each in found:
        each.mkdir()
    return found


def test_a_spec_is_read_as_run_reads_it(roots: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    monkeypatch.setenv("SSL_SWEEP_DATA", str(roots[0]))
    read = parse_submitted(yaml.safe_dump(SPEC), ["pretrain.epochs=3"], roots)
    assert read == load_spec(tmp_path / "spec.yaml", ["pretrain.epochs=3"])


def test_every_mistake_is_named_with_its_line(roots: list[Path]) -> None:
    said = refused(roots, views={"overlay_alpha": 0.7}, pretrain={"epoch": 2})
    assert "spec:" in said
    assert "overlay_alpha" in said
    assert "did you mean 'epochs'?" in said


@pytest.mark.parametrize("kind", ["imagefolder", "parquet"])
@pytest.mark.parametrize(
    "folder", ["/etc", "../x", "a/../../x", "~/x", "~nobody-here/x", "link", "s3://bucket/x", "file:///etc", "a\0b"]
)
def test_folders_outside_the_roots_are_refused(roots: list[Path], kind: str, folder: str) -> None:
    (roots[0] / "link").symlink_to("/etc")
    said = refused(roots, [f'data.source="{kind}:{folder}"'.replace("\0", "\\0")])
    assert "data.source" in said
    said = refused(roots, [f'data.labelled="{kind}:{folder}"'.replace("\0", "\\0")])
    assert "data.labelled" in said
    assert "name a folder below" in said


@pytest.mark.parametrize(
    "changes",
    [
        {"evaluate": {"knn": {}, "transfer": {"sources": ["digits", "imagefolder:/etc"]}}},
        {"evaluate": {"knn": {}, "semi_supervised": {"fractions": [1], "label_lists": ["1:/etc/passwd"]}}},
        {
            "evaluate": {"knn": {}, "detection": {"source": "voc:/etc"}},
            "search": {**SPEC["search"], "objective": "maximize knn/top1_val"},
        },
        {
            "evaluate": {"knn": {}, "transfer": {"sources": ["digits"]}},
            "search": {"space": {"evaluate.transfer.sources": [["digits"], ["imagefolder:../.."]]}},
        },
        {
            "evaluate": {"knn": {}, "transfer": {"sources": ["digits"]}},
            "search": {"cases": {"a": {"evaluate.transfer.sources": ["parquet:/etc"]}, "b": {}}},
        },
    ],
)
def test_wherever_a_spec_can_name_data_it_is_looked_at(roots: list[Path], changes: dict[str, Any]) -> None:
    assert "is outside the folders that the service reads" in refused(roots, **changes)


@pytest.mark.parametrize("place", ["a/b", "{root}/a", "{more}/b"])
def test_folders_below_the_roots_are_taken(roots: list[Path], place: str) -> None:
    source = f"imagefolder:{place.format(root=roots[0], more=roots[1])}"
    spec = parse_submitted(yaml.safe_dump({**SPEC, "data": {**SPEC["data"], "source": source}}), [], roots)
    assert spec.data["source"] == source


def test_addresses_roots_and_file_names_are_the_services(roots: list[Path]) -> None:
    assert "tracking.uri" in refused(roots, tracking={"uri": "http://elsewhere"})
    assert "is not a key of the spec" in refused(roots, ["root=/etc"])
    for name in ("service.db", "ledger.db"):
        assert "is a file of every storage" in refused(roots, name=name)
    for name in ("other.db", "service.db-wal", "ledger.db-journal", "driver.lock"):
        assert "ends as the service's own files do" in refused(roots, name=name)
    assert "rename it" in refused(roots, name="../up")


@pytest.mark.parametrize("name", ["os", "..health", "__init__", "ssl_sweep.trial.attempt", "/tmp/x"])
def test_names_of_code_are_only_those_of_the_package(roots: list[Path], name: str) -> None:
    assert refused(roots, method=name)
    assert refused(roots, encoder=name)
    assert refused(roots, evaluate={name: {}})


RATES = {"low": 0.1, "high": 1.0}
BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(
    "text",
    [
        BOMB,
        "a: &a [*a]\n",
        "[" * 5_000,
        "a:\n" + "".join(f"{' ' * n}- \n" for n in range(400)),
        "x: !!python/object/apply:os.system [true]\n",
        "name: !!binary aGk=\n",
        "x" * (MAX_CHARS + 1),
        "",
        "\0",
        "- a\n- b\n",
        yaml.safe_dump({**SPEC, "search": {"space": {"pretrain.epochs": {"low": 1, "high": 10**12, "step": 1}}}}),
        yaml.safe_dump({**SPEC, "search": {"seeds": 10**9}}),
        yaml.safe_dump({**SPEC, "search": {"seeds": list(range(15_000))}}),
        yaml.safe_dump({**SPEC, "search": {"sampler": "random", "trials": 10**12, "space": {"pretrain.lr": RATES}}}),
        yaml.safe_dump({**SPEC, "pretrain": {"epochs": int("9" * 4_000)}}).replace("9" * 4_000, "9" * 6_000),
    ],
)
def test_bombs_are_refused_soon(roots: list[Path], text: str) -> None:
    began = time.monotonic()
    with pytest.raises(SpecError):
        parse_submitted(text, [], roots)
    assert time.monotonic() - began < 10


def test_overrides_are_bounded_and_checked(roots: list[Path]) -> None:
    assert "overrides" in refused(roots, ["pretrain.epochs=1"] * 101)
    assert "overrides" in refused(roots, ["name=" + "x" * 6_000])
    assert "is outside" in refused(roots, ["data.source=imagefolder:/etc"])


SCORES = "METRICS = ('top1_val', 'top1_test')\ndef evaluate(encoder, splits, stage): ...\n"


@pytest.mark.parametrize("has_folder", [False, True])
def test_plugins_of_a_folder_are_refused_in_words(roots: list[Path], tmp_path: Path, has_folder: bool) -> None:
    (tmp_path / "plugins" / "evaluations").mkdir(parents=True)
    (tmp_path / "plugins" / "evaluations" / "mine.py").write_text(SCORES)
    catalog.use(tmp_path / "plugins" if has_folder else None)
    said = refused(roots, evaluate={"local/mine": {}, "knn": {}})
    catalog.use(None)
    assert "evaluate.local/mine" in said
    assert "the service has installed ones only; install it as a package with entry points" in said
    assert "--plugins" not in said


def test_a_plugin_that_is_installed_meanwhile_is_known(
    roots: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluate = {"lab_scores": {}, "knn": {}}
    assert "there is no evaluation 'lab_scores'" in refused(roots, evaluate=evaluate)
    site = tmp_path / "site"
    (site / "lab-1.0.dist-info").mkdir(parents=True)
    (site / "lab-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: lab\nVersion: 1.0\n")
    points = "[ssl_sweep.evaluations]\nlab_scores = lab_scores\n"
    (site / "lab-1.0.dist-info" / "entry_points.txt").write_text(points)
    (site / "lab_scores.py").write_text(SCORES)
    monkeypatch.syspath_prepend(site)
    search = {**SPEC["search"], "objective": "maximize lab_scores/top1_val"}
    spec = parse_submitted(yaml.safe_dump({**SPEC, "evaluate": evaluate, "search": search}), [], roots)
    assert spec.evaluate == {"lab_scores": {}, "knn": spec.evaluate["knn"]}
    monkeypatch.undo()
    catalog.use(None)
