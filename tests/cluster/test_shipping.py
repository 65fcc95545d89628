"""What reaches a worker runs with the driver's code, or says why it does not."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from ray import cloudpickle

import ssl_sweep
from ssl_sweep.cluster import shipping
from ssl_sweep.trial.attempt import Outcome, attempt

# a worker for each folder: forked, since it takes seconds to import Ray
WORKERS = """
import os, sys
from pathlib import Path
from ray import cloudpickle
content, *folders = sys.argv[1:]
elsewhere = [path for path in sys.path if not (Path(path) / "ssl_sweep").is_dir()]
for folder in folders:
    if not (process := os.fork()):
        sys.path[:] = [folder, *elsewhere]
        Path(folder, "said").write_text(cloudpickle.loads(Path(content).read_bytes())(1))
        os._exit(0)
    os.waitpid(process, 0)
"""
PACKAGE = Path(ssl_sweep.__file__).parent


def call_in_workers(tmp_path: Path, folders: list[Path]) -> list[str]:
    """What a shipped function, which returns its own file, says to workers with these folders on their path."""

    def where(_: int) -> str:
        return sys.modules[attempt.__module__].__file__ or ""

    function = shipping.shipped(where, lambda outcome: outcome)
    (tmp_path / "content").write_bytes(cloudpickle.dumps(function))
    command = [sys.executable, "-P", "-c", WORKERS, str(tmp_path / "content"), *map(str, folders)]
    subprocess.run(command, check=True, timeout=300)
    return [(folder / "said").read_text() for folder in folders]


def test_a_worker_runs_the_drivers_code_or_refuses(tmp_path: Path) -> None:
    same, other, without, broken = (tmp_path / name for name in ("same", "other", "without", "broken"))
    for folder in (same, broken):
        shutil.copytree(PACKAGE, folder / "ssl_sweep", ignore=shutil.ignore_patterns("__pycache__"))
    (broken / "numpy.py").write_text("import no_such_module\n")
    (other / "ssl_sweep").mkdir(parents=True)
    (other / "ssl_sweep" / "__init__.py").write_text('__version__ = "9.9"\nraise AssertionError("was imported")\n')
    without.mkdir()
    ran, *refused = call_in_workers(tmp_path, [same, other, without, broken])
    assert ran == str(same / "ssl_sweep" / "trial" / "attempt.py")
    outcomes = [Outcome.from_json(each) for each in refused]
    assert {(outcome.state, outcome.reason) for outcome in outcomes} == {("FAILED", "code")}
    mixed, missing, stray = (outcome.message or "" for outcome in outcomes)
    assert f"ssl_sweep 9.9 of {other / 'ssl_sweep'}" in mixed
    assert f"the driver is ssl_sweep {ssl_sweep.__version__} of {PACKAGE}" in mixed
    assert "install one version of ssl_sweep on all nodes" in mixed
    assert "ModuleNotFoundError: No module named 'ssl_sweep'; install it there" in missing
    assert f"ModuleNotFoundError: No module named 'no_such_module' ({broken / 'numpy.py'}:1)" in stray


def test_an_edit_after_the_drivers_start_is_refused_by_later_workers_only(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    worker = shipping.shipped(lambda: "ran", lambda outcome: said.append(json.loads(outcome)["message"]))
    late = shipping.shipped(lambda: "ran", lambda outcome: said.append(json.loads(outcome)["message"]))
    assert worker() == "ran"
    edited = shipping.code_here()._replace(digest="0" * 64)
    monkeypatch.setattr(shipping, "code_here", lambda: edited)
    assert worker() == "ran"
    assert late() is None
    assert "have changed since the driver started" in said[0]
    assert "resume the sweep" in said[0]
