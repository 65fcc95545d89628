"""What lies about in the current directory is imported by neither a driver nor its workers."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from quick_sweeps import TRAINED

from ssl_sweep.cli import put_current_folder_last

SPEC = {"name": "stray", **TRAINED}


def lay_about(folder: Path, *modules: str) -> None:
    for name in modules:
        file = folder / name
        file.parent.mkdir(exist_ok=True)
        file.write_text(f"raise RuntimeError('the stray {name} was imported')\n")


@pytest.mark.slow
def test_a_sweep_runs_beside_stray_modules_and_leaves_nothing_of_rays(tmp_path: Path, rays_folder: Path) -> None:
    """Slow: Ray and MLflow start, and a trial is trained."""
    lay_about(tmp_path, "ssl_sweep/__init__.py", "torchvision.py", "numpy.py", "typing.py", "pandas.py")
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump(SPEC))
    command = [str(Path(sys.executable).with_name("ssl-sweep")), "run", "spec.yaml"]
    environment = {**os.environ, "RAY_TMPDIR": str(rays_folder)}
    ran = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert (ran.returncode, "1 of 1 trials complete" in ran.stdout) == (0, True), ran.stdout + ran.stderr
    assert list((rays_folder / "ray").glob("session_*")) == []


def test_so_does_python_m(tmp_path: Path) -> None:
    lay_about(tmp_path, "typer.py", "rich.py", "json.py")
    command = [sys.executable, "-m", "ssl_sweep", "--help"]
    ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (ran.returncode, "resume" in ran.stdout) == (0, True), ran.stderr


@pytest.mark.parametrize(("pythonpath", "first"), [("", False), (":/lab", False), ("/lab:.", True)])
def test_a_driver_prefers_what_is_installed_to_the_current_directory_unless_pythonpath_names_it(
    pythonpath: str, first: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", pythonpath)
    monkeypatch.setattr(sys, "path", [str(tmp_path), "/lab", "/lib"])
    put_current_folder_last()
    assert sys.path == ([str(tmp_path), "/lab", "/lib"] if first else ["/lab", "/lib", str(tmp_path)])
