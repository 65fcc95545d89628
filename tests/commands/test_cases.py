"""Two small specs that users have: one whose search never draws a method, one with fewer settings than trials."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssl_sweep.cli import app

NEVER_DRAWN = """\
name: cond
data: {source: digits, image_size: 8}
encoder: {name: resnet18, width: 8}
method: simclr
pretrain: {epochs: 1, batch_size: 128}
evaluate: {knn: {}}
search:
  space:
    method:
      choices:
        - {name: simclr, dim: 16, temperature: [0.1, 0.5]}
        - {name: byol, hidden_dim: 64, dim: 16, momentum: {low: 0.9, high: 0.999}}
        - {name: vicreg, hidden_dim: 64, dim: 64}
    views.overlay_alpha: [0.0, 0.2]
  sampler: tpe
  trials: 5
table: {group_by: method.name}
"""
FEW_SETTINGS = """\
name: dup
data: {source: digits, image_size: 8}
encoder: {name: resnet18, width: 8}
method: {name: simclr, dim: 16}
pretrain: {epochs: 1, batch_size: 128}
evaluate: {knn: {}}
search:
  space:
    views.overlay_alpha: [0.0, 0.2]
    method.temperature: [0.1, 0.5]
  sampler: tpe
  trials: 8
"""


def ssl_sweep(*words: object) -> str:
    """What a command prints, in this process; it must end well."""
    ran = CliRunner().invoke(app, list(map(str, words)), catch_exceptions=False)
    assert ran.exit_code == 0, ran.output
    return ran.stdout


def run_sweep(spec: Path, storage: Path) -> str:
    """What `ssl-sweep run` prints, in a process of its own."""
    command = [sys.executable, "-m", "ssl_sweep", "run", str(spec), "--storage", str(storage)]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "Traceback" not in ran.stderr
    return ran.stdout


@pytest.mark.slow  # five real trials, and their table and page
def test_a_method_that_is_never_drawn(tmp_path: Path) -> None:
    spec, storage, page = tmp_path / "spec.yaml", tmp_path / "runs", tmp_path / "page.html"
    spec.write_text(NEVER_DRAWN)
    printed = run_sweep(spec, storage)
    assert "5 of 5 trials complete" in printed
    trials = json.loads(ssl_sweep("status", "cond", "--json", "--storage", storage))["trials"]
    assert {trial["knobs"]["method"] for trial in trials} == {"byol", "vicreg"}  # the sampler's first, by its seed
    assert len({json.dumps(trial["knobs"]) for trial in trials}) == 5
    for table in (printed, ssl_sweep("table", "cond", "--storage", storage)):
        assert "temperature" in table
        assert "–" in table
    ssl_sweep("report", "cond", "-o", page, "--storage", storage)
    assert "crop_scale_min 0.08" in page.read_text()


@pytest.mark.slow  # four real trials
def test_fewer_settings_than_trials(tmp_path: Path) -> None:
    spec, storage = tmp_path / "spec.yaml", tmp_path / "runs"
    spec.write_text(FEW_SETTINGS)
    warning = "search.trials: 8 are more than the 4 different settings: each runs once"
    assert warning in ssl_sweep("plan", spec)
    printed = run_sweep(spec, storage)
    assert "4 of 4 trials complete" in printed
    assert warning in printed
    trials = json.loads(ssl_sweep("status", "dup", "--json", "--storage", storage))["trials"]
    assert len({json.dumps(trial["knobs"]) for trial in trials}) == len(trials) == 4
