from pathlib import Path

import pytest

from ssl_sweep.spec.file import load_spec
from ssl_sweep.spec.sweep import Categorical, SpecError, SweepSpec

TEXT = """\
name: toy
data: {source: digits, image_size: 8}
encoder: resnet18
method: autoencoder
pretrain:
  epochs: 3
  lr: 1e-2
evaluate:
  finetune: {epochs: 2}
  knn:
search:
  space:
    views.overlay_alpha: [0, 0.1]
  seeds: 2
table:
  published: {knn/top1_test: {0: 37.1, 0.10: 37}}
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    file = tmp_path / "toy.yaml"
    file.write_text(TEXT)
    return file


def refused(path: Path, *overrides: str) -> list[str]:
    with pytest.raises(SpecError) as raised:
        load_spec(path, overrides)
    assert str(raised.value) == "\n".join(str(problem) for problem in raised.value.problems)
    return [str(problem).replace(str(path), path.name) for problem in raised.value.problems]


def test_a_file_is_read(path: Path) -> None:
    spec = load_spec(path)
    assert spec.pretrain["lr"] == 0.01
    assert spec.evaluate["knn"]["k"] == 20
    assert spec.table.published == {"knn/top1_test": {"0.0": 37.1, "0.1": 37}}


def test_problems_are_in_the_files_order_with_their_lines(path: Path) -> None:
    path.write_text(
        TEXT.replace("epochs: 3", "epoch: 3\n  momentum: 1")
        .replace("[0, 0.1]", "\n    - 0\n    - 0.5")
        .replace("seeds: 2", "seeds: 2\n  seeds: 3")
        .replace("name: toy\n", "")
        .replace("knn:\n", "knn: {k: 1e1}\n")
    )
    assert refused(path) == [
        "toy.yaml:1: name: is required (name of the sweep's study, runs and folder: letters, digits, `.`, `_`, `-`, "
        "at most 100); add `name: ...`",
        "toy.yaml:5: pretrain.epoch: 3: is not a knob of pretrain; did you mean 'epochs'?",
        "toy.yaml:6: pretrain.momentum: 1: must be less than 1 (momentum of sgd and lars; beta1 of adamw); "
        "use a value in [0, 1)",
        "toy.yaml:10: evaluate.knn.k: 10.0: must be a valid integer (neighbours that vote (at most the training set); "
        "validation chooses from a list); write a whole number, such as 20",
        "toy.yaml:15: search.space.views.overlay_alpha[1]: 0.5: must be less than 0.5 (weight of another image "
        "overlaid on this one, which must dominate); use a value in [0, 0.5)",
        "toy.yaml:17: search.seeds: is there twice, first on line 16; keep one of them",
    ]


def test_overrides(path: Path) -> None:
    spec = load_spec(
        path,
        [
            "pretrain.epochs=5",
            "pretrain.epochs=2",
            "search.space.views.overlay_alpha=[0.2]",
            "search.space.pretrain.lr=[1e-1]",
            "search.cases.flat.views.flip=0",
            "encoder.width=16",
            "resources={cpus: 2}",
            "evaluate.linear.epochs=1",
            "table.published.knn/top1_test={}",
            "description=a = b",
        ],
    )
    assert spec.pretrain["epochs"] == 2
    assert spec.search.space == {
        "views.overlay_alpha": Categorical(values=(0.2,)),
        "pretrain.lr": Categorical(values=(0.1,)),
    }
    assert spec.search.cases == {"flat": {"views.flip": 0.0}}
    assert (spec.encoder["name"], spec.encoder["width"]) == ("resnet18", 16)
    assert spec.resources.cpus == 2
    assert list(spec.evaluate) == ["finetune", "knn", "linear"]
    assert spec.table.published == {"knn/top1_test": {}}
    assert spec.description == "a = b"


def test_mistakes_in_overrides_are_placed_there(path: Path) -> None:
    assert refused(path, "pretrain.epoch=2", "seeds", "views={flip: [}", "search.seeds=!!binary x", ".a=1") == [
        "--set seeds: is not `key=value`; write, say, --set pretrain.epochs=2",
        "--set views={flip: [}: views: is no YAML: expected the node content, but found '}'; check the indentation, "
        "the colons and the brackets of this line and the one before",
        "--set search.seeds=!!binary x: search.seeds: 'tag:yaml.org,2002:binary': is a tag, "
        "which a spec does not have; remove it",
        "--set .a=1: is not `key=value`; write, say, --set pretrain.epochs=2",
        "--set pretrain.epoch=2: pretrain.epoch: 2: is not a knob of pretrain; did you mean 'epochs'?",
    ]


def test_an_overridden_key_has_no_line_any_more(path: Path) -> None:
    (problem,) = refused(path, "search.space={views.overlay_alpha: [0.7]}", "table={}")
    assert problem.startswith(
        "--set search.space={views.overlay_alpha: [0.7]}: search.space.views.overlay_alpha[0]: 0.7"
    )


def test_relative_data_start_from_the_file_or_the_variable_or_where_they_are_typed(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    relative = Path("..") / path.name
    assert load_spec(relative).root == tmp_path
    assert load_spec(relative, ["pretrain.epochs=2"]).root == tmp_path
    assert load_spec(relative, ["data.source=imagefolder:x"]).root == tmp_path / "here"
    monkeypatch.setenv("SSL_SWEEP_DATA", str(tmp_path / "sets"))
    assert load_spec(relative).root == tmp_path / "sets"
    assert load_spec(relative, ["data.source=imagefolder:x"]).root == tmp_path / "sets"


def test_root_is_no_key_of_the_file(path: Path) -> None:
    path.write_text(TEXT + "root: /\n")
    assert refused(path) == ["toy.yaml:17: root: is not a key of the spec; set SSL_SWEEP_DATA to the folder that data "
                             "sources start from"]  # fmt: skip
    path.write_text(TEXT)
    assert "--set root=/: root: is not a key" in refused(path, "root=/")[0]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "toy.yaml:1: is empty"),
        (b"# only a comment\n", "toy.yaml:1: is empty"),
        (b"- a\n- b\n", "toy.yaml:1: must be a mapping"),
        (b"name: x\nencoder: \xff\n", "toy.yaml:2: is not UTF-8; save the file as UTF-8"),
        (b"#" * 1_000_001, "toy.yaml: has 1,000,001 bytes"),
        (b"name: x\n\tdata: 3\n", "toy.yaml:2: has a tab where YAML takes only spaces; indent with spaces"),
    ],
)
def test_files_that_are_no_spec(path: Path, content: bytes, problem: str) -> None:
    path.write_bytes(content)
    found = refused(path, "name=a")
    assert len(found) == 1
    assert found[0].startswith(problem)


def test_a_byte_order_mark_and_windows_line_ends_are_fine(path: Path) -> None:
    path.write_bytes(b"\xef\xbb\xbf" + TEXT.replace("\n", "\r\n").encode())
    assert load_spec(path).name == "toy"


def test_missing_files(path: Path, tmp_path: Path) -> None:
    with pytest.raises(SpecError, match=r"toi\.yaml: there is no such file; did you mean '.*toy\.yaml'\?"):
        load_spec(tmp_path / "toi.yaml")
    with pytest.raises(SpecError, match="cannot be read: Is a directory"):
        load_spec(tmp_path)


def test_the_result_is_frozen(path: Path) -> None:
    spec: SweepSpec = load_spec(path)
    with pytest.raises(ValueError, match="frozen"):
        spec.retries = 3  # type: ignore[misc]
