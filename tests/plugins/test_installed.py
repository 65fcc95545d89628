"""Plugins of an installed distribution: at the service, in the driver that it starts, and after an upgrade."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from services import API, Cluster, Service, make_dispatcher
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.plugins import catalog

USERS = Path(__file__).with_name("users_folder")
ENTRY_POINTS = """
[ssl_sweep.methods]
noisy = lab_plugins.methods.noisy

[ssl_sweep.encoders]
tiny = lab_plugins.encoders.tiny

[ssl_sweep.evaluations]
centroids = lab_plugins.evaluations.centroids

[ssl_sweep.sources]
stripes = lab_plugins.sources.stripes
"""
SPEC = {
    "name": "mine",
    "data": {"source": "stripes:40", "image_size": 16},
    "encoder": {"name": "tiny", "width": 4},
    "method": {"name": "noisy", "noise": 0.2},
    "pretrain": {"epochs": 1, "batch_size": 16},
    "evaluate": {"centroids": {}},
}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder as pip leaves it that has installed a user's files as the distribution lab-plugins 1.2."""
    made = tmp_path / "site"
    shutil.copytree(USERS, made / "lab_plugins")
    method = made / "lab_plugins" / "methods" / "noisy.py"
    method.write_text(method.read_text().replace("ssl_sweep_local", "lab_plugins"))
    info = made / "lab_plugins-1.2.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: lab-plugins\nVersion: 1.2\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    monkeypatch.syspath_prepend(made)
    catalog.use(None)
    yield made
    for name in [name for name in sys.modules if name.startswith("lab_plugins")]:
        del sys.modules[name]
    monkeypatch.undo()
    catalog.use(None)


@pytest.mark.slow  # a driver starts Ray
def test_an_installed_plugin_at_the_service(tmp_path: Path, site: Path) -> None:
    service, cluster = Service(tmp_path), Cluster()
    client = service.client("ann")
    answer = client.post(f"{API}/sweeps", json={"spec": yaml.safe_dump({**SPEC, "method": "local/noisy"})})
    assert answer.status_code == 422
    assert "install it as a package with entry points" in answer.text
    answer = client.post(f"{API}/sweeps", json={"spec": yaml.safe_dump(SPEC)})
    assert answer.status_code == 201, answer.text
    make_dispatcher(tmp_path, service.store, cluster).tick()
    path = os.pathsep.join([str(site), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, **cluster.environments[0], "PYTHONPATH": path}
    ran = subprocess.run(cluster.commands[0], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    url = service.settings.storage.ledger_url
    identity = "lab-plugins 1.2"
    pins = {
        f"{use} {name}": identity for use, name in (("method", "noisy"), ("encoder", "tiny"), ("source", "stripes"))
    }
    assert load_ledger(url, "mine").pins == {**pins, "evaluation centroids": identity}
    assert "centroids" in client.get(f"{API}/table", params={"sweep": "mine"}).text
    _check_an_upgrade_is_refused(tmp_path, site)


def _check_an_upgrade_is_refused(tmp_path: Path, site: Path) -> None:
    (site / "lab_plugins-1.2.dist-info").rename(site / "lab_plugins-1.3.dist-info")
    metadata = site / "lab_plugins-1.3.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.2", "1.3"))
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump({**SPEC, "search": {"confirm": {"top": 1, "seeds": 1}}}))
    run = ["run", str(tmp_path / "mine.yaml"), "--storage", str(tmp_path), "--set", "resources.max_concurrent=4"]
    ran = CliRunner().invoke(app, run, catch_exceptions=False, env={"SSL_SWEEP_DATA": str(tmp_path / "data")})
    assert ran.exit_code == 2
    assert "method noisy: lab-plugins 1.2 became lab-plugins 1.3" in ran.output
    assert "install what it began with again, or run it as a new sweep" in ran.output
