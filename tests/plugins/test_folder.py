"""A user's folder in whole sweeps: on Ray's workers, after an edit, and where it is gone.

The folder `users_folder` is written as a user's: a method that imports another file, an encoder, an evaluation and
a source.
"""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.plugins import catalog
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.trialdir.record import TrialRecord

USERS = Path(__file__).with_name("users_folder")
SPEC = {
    "name": "mine",
    "data": {"source": "local/stripes:40", "image_size": 16},
    "encoder": {"name": "local/tiny", "width": 4},
    "method": "local/noisy",
    "pretrain": {"epochs": 4, "batch_size": 16},
    "evaluate": {"local/centroids": {}, "knn": {"k": 5}},
    "search": {"space": {"method": {"choices": ["autoencoder", {"name": "local/noisy", "noise": [0.0, 0.2]}]}}},
    "resources": {"max_concurrent": 1},
}
ALL_PINS = {"method local/noisy", "encoder local/tiny", "evaluation local/centroids", "source local/stripes"}


class Lab:
    """A user's machine: a folder of plugins, a spec file and a storage."""

    def __init__(self, root: Path) -> None:
        self.root, self.folder, self.storage = root, root / "my plugins", FolderStorage(root / "runs")
        shutil.copytree(USERS, self.folder)
        self.write(SPEC)

    def write(self, spec: dict[str, object]) -> None:
        (self.root / "mine.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))

    def call(self, *words: object, expect: int = 0) -> str:
        """A command in this process; its output without line breaks by a terminal's width."""
        ran = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
        assert ran.exit_code == expect, ran.output
        return ran.output

    def process(self, *words: object) -> str:
        """A command in a process of its own, as a user runs it."""
        command = [sys.executable, "-m", "ssl_sweep", *map(str, words)]
        ran = subprocess.run(command, cwd=self.root, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    def killed(self, *words: object) -> None:
        """A command in a process of its own that is killed once its first trial has pretrained."""
        driver = subprocess.Popen([sys.executable, "-m", "ssl_sweep", *map(str, words)], cwd=self.root)
        deadline = time.monotonic() + 120
        while not list(self.storage.sweep("mine").glob("trials/*/stages.json")):
            assert driver.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        driver.kill()
        driver.wait()

    def records(self) -> list[TrialRecord]:
        folders = [path.parent for path in self.storage.sweep("mine").glob("trials/*/config.yaml")]
        return [TrialRecord.read(folder) for folder in folders]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Lab]:
    monkeypatch.delenv(catalog.FOLDER_VARIABLE, raising=False)
    yield Lab(tmp_path)
    catalog.use(None)


@pytest.mark.slow  # starts Ray twice, and reads the sweep with eight commands
def test_a_users_folder_in_a_sweep(lab: Lab) -> None:
    run = ("run", lab.root / "mine.yaml", "--storage", lab.storage.root, "--plugins")
    lab.killed(*run, lab.folder)
    lab.process("resume", "mine", "--storage", lab.storage.root, "--plugins", lab.folder)
    ledger = load_ledger(lab.storage.ledger_url, "mine")
    assert [trial.state for trial in ledger.trials] == ["COMPLETE"] * 3
    assert ledger.pins.keys() == ALL_PINS
    pins = {record.config["method"]["name"]: set(record.config["pins"]) for record in lab.records()}
    assert pins == {"local/noisy": ALL_PINS, "autoencoder": ALL_PINS - {"method local/noisy"}}
    assert {"local/centroids/top1_test", "knn/top1_test"} <= ledger.trials[0].results.keys()
    assert list((lab.storage.root / "mlartifacts").rglob("MLmodel"))  # the best encoder
    _check_the_sweep_can_be_read_without_the_folder(lab)
    _check_an_edited_plugin_is_refused(lab, run)


@pytest.mark.slow  # a gang is started by Ray Train
def test_a_gang_has_the_plugins(lab: Lab) -> None:
    lab.write({**SPEC, "search": {}, "resources": {"workers": 2}})
    lab.process("run", lab.root / "mine.yaml", "--storage", lab.storage.root, "--plugins", lab.folder)
    (trial,) = load_ledger(lab.storage.ledger_url, "mine").trials
    assert (trial.state, trial.attempts) == ("COMPLETE", 1)


def _check_the_sweep_can_be_read_without_the_folder(lab: Lab) -> None:
    gone, at = lab.root / "gone", ("--storage", lab.storage.root)
    lab.folder.rename(gone)
    assert "local centroids top1 (test)" in lab.call("table", "mine", *at)
    assert json.loads(lab.call("status", "mine", "--json", *at))["complete"] == 3
    assert "mine" in lab.call("list", *at)
    assert "none has failed" in lab.call("logs", "mine", *at)
    lab.call("clean", "mine", "--yes", *at)
    lab.call("report", "mine", "--out", lab.root / "page.html", *at)
    assert "local centroids" in (lab.root / "page.html").read_text()
    message = lab.call("export", "mine", lab.root / "encoder.safetensors", *at, expect=2)
    assert "there is no encoder 'local/tiny'; name its folder with --plugins DIR" in message
    message = lab.call("resume", "mine", *at, expect=2)
    assert "name its folder with --plugins DIR" in message
    gone.rename(lab.folder)
    lab.call("export", "mine", lab.root / "encoder.safetensors", *at, "--plugins", lab.folder)


def _check_an_edited_plugin_is_refused(lab: Lab, run: tuple[object, ...]) -> None:
    lab.write({**SPEC, "search": {**SPEC["search"], "confirm": {"top": 1, "seeds": 1}}})
    shared = lab.folder / "losses.py"
    before = shared.read_text()
    shared.write_text(f"{before}# edited\n")  # any plugin of the folder may import it
    assert "evaluation local/centroids: sha256:" in lab.call(*run, lab.folder, expect=2)
    shared.write_text(before)
    with (lab.folder / "methods" / "noisy.py").open("a") as file:
        file.write("# edited\n")
    message = lab.call(*run, lab.folder, expect=2)
    assert "method local/noisy: sha256:" in message
    assert "evaluation" not in message
    assert "ssl-sweep run SPEC.YAML --set name=mine-2 --plugins DIR" in message


def test_its_knobs_are_known_everywhere(lab: Lab) -> None:
    (lab.folder / "methods" / "broken.py").write_text("import nowhere\n")
    schema = lab.call("schema", lab.root / "schema.json", "--plugins", lab.folder)
    assert "left out: method 'local/broken' of" in schema
    read = json.loads((lab.root / "schema.json").read_text())
    assert "power" in read["properties"]["evaluate"]["properties"]["local/centroids"]["anyOf"][0]["properties"]
    assert "method.noise" in json.dumps(read["$defs"]["Search"]["properties"]["space"])
    plan = ("plan", lab.root / "mine.yaml", "--plugins", lab.folder)
    assert "local/noisy" in lab.call(*plan, "--set", "evaluate.local/centroids.power=1.0")
    wrong = [
        ("method={name: local/noisy, nose: 0.1}", "is not a knob of local/noisy; did you mean 'noise'?"),
        ("method=local/nosy", f"no method 'local/nosy'; {lab.folder}/methods has local/broken, local/noisy"),
        ("method=local/broken", f"cannot be imported: {lab.folder}/methods/broken.py:1: ModuleNotFoundError"),
        ("evaluate.local/centroids.powr=1.0", "is not a knob of local/centroids; did you mean 'power'?"),
        ("search.objective=maximize local/centroids/top_val", "did you mean 'local/centroids/top1_val'?"),
    ]
    for override, message in wrong:
        assert message in lab.call(*plan, "--set", override, expect=2)


def test_the_doctor_lists_plugins(lab: Lab) -> None:
    (lab.folder / "methods" / "broken.py").write_text("import nowhere\n")
    checks = json.loads(lab.call("doctor", "--json", "--storage", lab.storage.root, "--plugins", lab.folder, expect=2))
    found = {check["check"]: (check["ok"], check["found"]) for check in checks}
    assert found["encoder local/tiny"] == (True, str(lab.folder / "encoders" / "tiny.py"))
    assert found["method local/broken"][0] is False
    assert "No module named 'nowhere'" in found["method local/broken"][1]


def test_a_huge_folder_is_not_shipped(lab: Lab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalog, "MAX_FILES", 3)
    catalog.use(lab.folder)
    with pytest.raises(catalog.PluginError, match=r"has more than 3 files .* give the plugins a folder of their own"):
        catalog.copy_local(tmp_path / "copy")


def test_what_is_shipped_is_what_plugins_are_made_of(lab: Lab, tmp_path: Path) -> None:
    package = lab.folder / "methods" / "big"
    for name in ("__init__.py", "table.csv", ".hidden", "__pycache__/x.pyc"):
        (package / name).parent.mkdir(parents=True, exist_ok=True)
        (package / name).write_text("")
    (lab.folder / "photos").mkdir()
    (lab.folder / "photos" / "a.jpg").write_text("")
    catalog.use(lab.folder)
    copy = catalog.copy_local(tmp_path / "copy")
    files = {path.relative_to(copy).as_posix() for path in copy.rglob("*") if path.is_file()}
    own = {"methods/noisy.py", "losses.py", "encoders/tiny.py", "evaluations/centroids.py", "sources/stripes.py"}
    assert files == own | {"methods/big/__init__.py", "methods/big/table.csv"}
    before = catalog.identity("methods", "local/big")
    (package / "table.csv").write_text("1\n")
    catalog.use(lab.folder)
    assert catalog.identity("methods", "local/big") != before
