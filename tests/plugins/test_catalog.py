"""Plugins by name: what is imported, what each is made of, and what a user reads when one is wrong."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ssl_sweep.knobs import knobs
from ssl_sweep.plugins import catalog
from ssl_sweep.plugins.catalog import PluginError
from ssl_sweep.spec.sections import check_named

METHOD = "class Method:\n    def __init__(self, encoder, *, size: int = {size}): ...\n"


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """A plugin folder in use, with one method."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "mine.py").write_text(METHOD.format(size=1))
    catalog.use(tmp_path)
    yield tmp_path
    catalog.use(None)


def install(site: Path, name: str, version: str, points: str, *, editable: bool = False) -> None:
    """As much of an installed distribution as its metadata."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(points)
    if editable:
        (info / "direct_url.json").write_text('{"url": "file:///x", "dir_info": {"editable": true}}')


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed distributions."""
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith("lab_")]:
        del sys.modules[name]
    monkeypatch.undo()
    catalog.use(None)


def test_a_local_plugin_is_listed_and_loaded(folder: Path) -> None:
    assert catalog.names("methods") == ["local/mine"]
    assert "local/mine" in knobs.names("methods")
    assert knobs.check(knobs.load("methods", "local/mine"), {}, "mine") == {"size": 1}
    assert not (folder / "methods" / "__pycache__").exists()


def test_a_file_and_a_folder_of_one_name_are_refused_by_both(folder: Path) -> None:
    (folder / "methods" / "mine").mkdir()
    (folder / "methods" / "mine" / "__init__.py").write_text(METHOD.format(size=2))
    (folder / "methods" / "other.py").write_text(METHOD.format(size=3))
    for use in (catalog.load, catalog.identity, catalog.origin):
        with pytest.raises(PluginError, match=r"'local/mine' is both .*/mine\.py and .*/mine/__init__\.py; rename or"):
            use("methods", "local/mine")
    assert knobs.check(knobs.load("methods", "local/other"), {}, "other") == {"size": 3}


def test_an_edited_plugin_is_imported_anew_with_another_identity(folder: Path) -> None:
    knobs.load("methods", "local/mine")
    before = catalog.identity("methods", "local/mine")
    (folder / "methods" / "mine.py").write_text(METHOD.format(size=2))
    catalog.use(folder)
    assert knobs.check(knobs.load("methods", "local/mine"), {}, "mine") == {"size": 2}
    assert catalog.identity("methods", "local/mine") != before


def test_the_identity_covers_the_files_that_it_imports_and_no_others(folder: Path) -> None:
    (folder / "methods" / "mine.py").write_text("from ..nets.heads import head\n" + METHOD.format(size=1))
    (folder / "nets").mkdir()
    (folder / "nets" / "heads.py").write_text("from ssl_sweep_local import common\nhead = common.one\n")
    (folder / "common.py").write_text("one = 1\n")
    (folder / "methods" / "other.py").write_text("")

    def identity_after(path: str, text: str) -> str:
        (folder / path).write_text(text)
        catalog.use(folder)
        knobs.load("methods", "local/mine")
        return catalog.identity("methods", "local/mine")

    first = identity_after("methods/other.py", "two = 2\n")
    assert identity_after("methods/other.py", "three = 3\n") == first
    assert identity_after("common.py", "one = 11\n") != first


@pytest.mark.parametrize(
    "text",
    [
        "import sys\nsys.path.insert(0, {folder!r})\nfrom losses import scale\n",
        "import importlib\nscale = importlib.import_module('ssl_sweep_local.losses').scale\n",
    ],
)
def test_a_shared_file_counts_however_it_is_imported(folder: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (folder / "methods" / "mine.py").write_text(text.format(folder=str(folder)) + METHOD.format(size=1))
    identities = []
    for scale in (1, 1000):
        (folder / "losses.py").write_text(f"scale = {scale}\n")
        catalog.use(folder)
        knobs.load("methods", "local/mine")
        identities.append(catalog.identity("methods", "local/mine"))
        monkeypatch.delitem(sys.modules, "losses", raising=False)
    assert identities[0] != identities[1]


def test_a_script_beside_the_plugins_may_be_anything(folder: Path) -> None:
    (folder / "notes.py").write_text("def x(:\n")
    catalog.use(folder)
    assert knobs.load("methods", "local/mine")


def test_linked_folders_are_copied_for_workers_once(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    shared = tmp_path_factory.mktemp("shared")
    (shared / "heads.py").write_text("head = 1\n")
    (shared / "again").symlink_to(shared)
    (folder / "nets").symlink_to(shared)
    catalog.use(folder)
    copy = catalog.copy_local(tmp_path_factory.mktemp("copy"))
    assert (copy / "nets" / "heads.py").read_text() == "head = 1\n"
    assert not (copy / "nets" / "again").exists()


def test_a_package_can_be_a_plugin(folder: Path) -> None:
    (folder / "methods" / "big").mkdir()
    (folder / "methods" / "big" / "__init__.py").write_text("from .part import Method\n")
    (folder / "methods" / "big" / "part.py").write_text(METHOD.format(size=3))
    catalog.use(folder)
    assert knobs.check(knobs.load("methods", "local/big"), {}, "big") == {"size": 3}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("import nowhere\n", r"methods/mine.py:1: ModuleNotFoundError: No module named 'nowhere'"),
        ("def x(:\n", r"methods/mine.py:1: invalid syntax"),
        ("x = 1\n", r"methods/mine.py has no `Method`; define it there"),
        ("raise SystemExit(3)\n", r"methods/mine.py:1: SystemExit: 3"),
    ],
)
def test_a_broken_plugin_is_one_message(folder: Path, text: str, message: str) -> None:
    (folder / "methods" / "mine.py").write_text(text)
    catalog.use(folder)
    assert knobs.names("methods")
    with pytest.raises(PluginError, match=message):
        knobs.load("methods", "local/mine")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "size: Tensor = None",
            r"mine.py: an annotation of Method cannot be read: name 'Tensor' is not defined; import",
        ),
        ("size: Thing = None", r"mine.py: a keyword-only argument of Method is no knob .*; make it a number, a text"),
    ],
)
def test_an_argument_that_is_no_knob_is_one_message(folder: Path, argument: str, message: str) -> None:
    text = f"from __future__ import annotations\nclass Thing: ...\n{METHOD}".replace("size: int = {size}", argument)
    (folder / "methods" / "mine.py").write_text(text)
    catalog.use(folder)
    with pytest.raises(ValueError, match=message):
        check_named("methods", "local/mine")


def test_an_unknown_local_plugin_names_those_that_are_there(folder: Path) -> None:
    with pytest.raises(PluginError, match=r"there is no method 'local/nine'; .*/methods has local/mine"):
        knobs.load("methods", "local/nine")


def test_without_a_folder_the_remedy_is_the_option() -> None:
    with pytest.raises(PluginError, match="name its folder with --plugins DIR or SSL_SWEEP_PLUGINS"):
        knobs.load("methods", "local/mine")


def test_a_folder_without_plugins_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PluginError, match=r"has no plugins; put them into .*/methods/NAME.py"):
        catalog.use(tmp_path)
    monkeypatch.setenv("SSL_SWEEP_PLUGINS", str(tmp_path / "nowhere"))
    with pytest.raises(
        PluginError, match=r"SSL_SWEEP_PLUGINS=.*/nowhere: is no folder; put them into .*/nowhere/methods"
    ):
        catalog.use(None)
    monkeypatch.undo()
    catalog.use(None)


def test_a_name_that_is_local_is_proposed(folder: Path) -> None:
    with pytest.raises(ValueError, match=r"there is no method 'mine'; did you mean 'local/mine'\?"):
        knobs.load("methods", "mine")


def test_the_folder_of_a_kind_is_not_the_folder_of_plugins(folder: Path) -> None:
    with pytest.raises(PluginError, match=rf"has no plugins; name the folder around it, {folder}"):
        catalog.use(folder / "methods")


@pytest.mark.parametrize("name", ["my.method", "my method", "local/mine"])
def test_a_name_that_cannot_stand_in_a_path_is_refused(site: Path, name: str) -> None:
    install(site, "lab-methods", "1.2", f"[ssl_sweep.methods]\n{name} = lab_noise\n")
    catalog.use(None)
    with pytest.raises(PluginError, match=f"method '{name}' cannot be the name of a plugin; use letters, digits"):
        knobs.load("methods", name)


def test_an_installed_plugin_has_its_version_as_identity(site: Path) -> None:
    (site / "lab_noise.py").write_text(METHOD.format(size=4))
    install(site, "lab-methods", "1.2", "[ssl_sweep.methods]\nnoise = lab_noise\n")
    catalog.use(None)
    assert "noise" in knobs.names("methods")
    assert "lab_noise" not in sys.modules
    assert knobs.check(knobs.load("methods", "noise"), {}, "noise") == {"size": 4}
    assert catalog.identity("methods", "noise") == "lab-methods 1.2"


def test_an_editable_installation_is_hashed_too(site: Path) -> None:
    (site / "lab_noise.py").write_text(METHOD.format(size=4))
    install(site, "lab-methods", "1.2", "[ssl_sweep.methods]\nnoise = lab_noise\n", editable=True)
    catalog.use(None)
    before = catalog.identity("methods", "noise")
    assert before.startswith("lab-methods 1.2 sha256:")
    (site / "lab_noise.py").write_text(METHOD.format(size=5))
    catalog.use(None)
    assert catalog.identity("methods", "noise") != before


def test_a_name_that_the_package_has_is_an_error_that_names_both(site: Path) -> None:
    (site / "lab_moco.py").write_text(METHOD.format(size=4))
    install(site, "lab-methods", "1.2", "[ssl_sweep.methods]\nmoco = lab_moco\n")
    catalog.use(None)
    with pytest.raises(PluginError, match=r"method 'moco' is provided by ssl_sweep itself and by lab-methods 1.2"):
        knobs.load("methods", "moco")
    assert knobs.load("methods", "simclr")
