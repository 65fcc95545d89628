"""The wheel that `pip install` gets: built from this tree, installed into an empty environment, and used there."""

import os
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

TOP = Path(__file__).parents[2]
SPEC = """
name: fresh
data: {source: digits, image_size: 8}
encoder: {name: resnet18, width: 8}
method: autoencoder
pretrain: {epochs: 1, batch_size: 256}
evaluate: {knn: {}}
search:
  space:
    views.overlay_alpha: [0.0, 0.2]
"""
SCRIPT = """
import ssl_sweep

sweep = ssl_sweep.run("fresh.yaml", storage="here")
print(ssl_sweep.__file__, sweep.state, sweep.report().stat().st_size > 10_000, sweep.best.encoder().feature_dim)
"""


def ran(*command: object, folder: Path) -> str:
    """The output of a command that finds no package but those that its environment has installed."""
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        list(map(str, command)), cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("dist")
    ran(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, TOP, folder=folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An environment with the wheel; what the wheel depends on, gigabytes, is taken from the present one."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, symlinks=True)
    scheme = sysconfig.get_paths("venv", vars={"base": str(folder), "platbase": str(folder)})
    dependencies = dict.fromkeys((sysconfig.get_path("purelib"), sysconfig.get_path("platlib")))
    Path(scheme["purelib"], "dependencies.pth").write_text("\n".join(dependencies))  # not those packages' own .pth
    python = folder / "bin" / "python"
    pip = (sys.executable, "-m", "pip", "--python", python)
    ran(*pip, "install", "--quiet", "--no-deps", "--no-index", "--ignore-installed", wheel, folder=folder)
    return folder


def test_the_wheel_has_every_file_that_the_package_reads(wheel: Path) -> None:
    packed = set(zipfile.ZipFile(wheel).namelist())
    files = {path for path in (TOP / "ssl_sweep").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path.relative_to(TOP).as_posix() for path in files} - packed == set()
    assert {Path(name).suffix for name in packed} >= {".css", ".js", ".html", ".typed"}


@pytest.mark.slow
def test_a_sweep_runs_where_only_the_wheel_is_installed(environment: Path, tmp_path: Path) -> None:
    """Slow: builds and installs the wheel, and starts Ray."""
    program, python = environment / "bin" / "ssl-sweep", environment / "bin" / "python"
    (tmp_path / "fresh.yaml").write_text(SPEC)
    (tmp_path / "sweep.py").write_text(SCRIPT)
    assert "Run and compare hyperparameter sweeps" in ran(program, "--help", folder=tmp_path)
    assert "trials" in ran(program, "plan", "fresh.yaml", folder=tmp_path)
    place, *rest = ran(python, "sweep.py", folder=tmp_path).split()
    assert Path(place).is_relative_to(environment)
    assert rest == ["COMPLETE", "True", "64"]
    assert "overlay_alpha" in ran(program, "table", "fresh", "--storage", "here", folder=tmp_path)
