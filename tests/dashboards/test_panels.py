"""Every panel and every alert asks for something that a real Prometheus has of a real sweep on a real Ray."""

import json
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray
import uvicorn
import yaml
from ray import cloudpickle

from ssl_sweep.cluster import metrics
from ssl_sweep.cluster.run import run_sweep
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.service.app import make_app
from ssl_sweep.service.dispatcher import Dispatcher
from ssl_sweep.service.jobs import RayJobs
from ssl_sweep.service.settings import Settings
from ssl_sweep.service.store import Store, Submission
from ssl_sweep.spec.sweep import from_dump
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.trial.attempt import Outcome
from ssl_sweep.trialdir.events import MetricsReported
from ssl_sweep.trialdir.record import TrialRecord

FOLDER = Path(__file__).parents[2] / "dashboards"
OF_REAL_GPUS = {"ray_node_gpus_utilization", "ray_node_gram_used"}
EPOCH_S, TIMEOUT_S = 0.4, 300.0  # a busy machine needs many scrapes until it has answered two in a row

pytestmark = pytest.mark.skipif(
    shutil.which("prometheus") is None, reason="needs Prometheus: apt-get install prometheus"
)


class Quiet:
    def started(self, trial: Any) -> None: ...
    def reported(self, trial: Any, report: MetricsReported) -> None: ...
    def ended(self, trial: Any) -> None: ...


def work(seen: Path, record: TrialRecord, number: int, report: Any, folder: Path, cache: Path) -> Outcome:
    """Train until Prometheus has `seen` all that it should, on a GPU that torch believes to have."""
    import torch

    torch.cuda.is_available, torch.cuda.memory_reserved = lambda: True, lambda: 1 << 30
    for epoch in range(1, 1 + int(TIMEOUT_S / EPOCH_S)):
        if seen.exists():
            break
        time.sleep(EPOCH_S)
        report({"pretrain/loss": 1.0, "pretrain/images_per_second": 100.0}, epoch)
    torch.cuda.is_available = lambda: False
    return Outcome("COMPLETE", {"knn/top1_val": 50.0})


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port: int = server.getsockname()[1]
    return port


@pytest.fixture(scope="module")
def session() -> Iterator[Path]:
    """The folder of a Ray that hands its metrics on every second."""
    cloudpickle.register_pickle_by_value(sys.modules[__name__])  # the workers cannot import a test file
    ray.init(
        address="local",
        num_cpus=2,
        num_gpus=1,
        include_dashboard=True,
        log_to_driver=False,
        logging_level="ERROR",
        _system_config={"metrics_report_interval_ms": 1000},
    )
    yield Path(ray._private.worker._global_node.get_session_dir_path()).parent
    ray.shutdown()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, str]]:
    """Port and token of a service in which a sweep is queued."""
    folder, port = tmp_path_factory.mktemp("service"), free_port()
    store = Store(f"sqlite:///{folder / 'service.db'}")
    store.add(Submission("id", "queued", "ann", {}, 1, 1.0, 0.0, time.time(), time.time()))
    settings = Settings(FolderStorage(folder), (folder,))
    app = make_app(store, Dispatcher(store, RayJobs("http://127.0.0.1:1"), settings), settings, run_dispatcher=False)
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning"))
    thread = threading.Thread(target=server.run)
    thread.start()
    yield port, store.create_token("prometheus", "viewer")[0]
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def prometheus(session: Path, service: tuple[int, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a Prometheus with our configuration, but for where Ray is and how often it is read."""
    folder, port = tmp_path_factory.mktemp("prometheus"), free_port()
    text = (FOLDER / "prometheus" / "prometheus.yml").read_text().replace("/ray/", f"{session}/")
    config = yaml.safe_load(text)
    config["global"] = {"scrape_interval": "2s", "evaluation_interval": "1s"}  # a busy node needs over 1 s to answer
    (nodes, served), (port_of_service, token) = config["scrape_configs"], service
    nodes["file_sd_configs"][0]["refresh_interval"] = "1s"
    served["static_configs"][0]["targets"] = [f"127.0.0.1:{port_of_service}"]
    served["authorization"]["credentials_file"] = str(folder / "token")
    (folder / "token").write_text(token + "\n")
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config))
    shutil.copy(FOLDER / "prometheus" / "alerts.yml", folder)
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "log.txt").open("w") as log:
        process = subprocess.Popen([*command, f"--web.listen-address=127.0.0.1:{port}"], stderr=log)
    yield f"http://127.0.0.1:{port}/api/v1"
    process.terminate()
    process.wait(10)


def ask(prometheus: str, path: str, **query: str) -> Any:
    with urllib.request.urlopen(f"{prometheus}/{path}?{urllib.parse.urlencode(query)}") as answer:
        return json.load(answer)["data"]


def expressions() -> dict[str, str]:
    """PromQL of every panel, by where it stands."""
    found = {}
    for file in sorted((FOLDER / "grafana" / "dashboards").glob("*.json")):
        for panel in json.loads(file.read_text())["panels"]:
            for target in panel["targets"]:
                text = target["expr"].replace("$__rate_interval", "10s").replace("$sweep", ".+")
                found[f"{file.stem}: {panel['title']} {target['refId']}"] = text
    return found


def of_real_gpus(query: str) -> bool:
    """Whether a query asks only for what a node without a GPU does not tell."""
    return bool(named := set(re.findall(r"\bray_\w+", query))) and named <= OF_REAL_GPUS


def test_prometheus_has_what_panels_and_alerts_ask_for(
    prometheus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metrics, "EVERY_S", 0.5)
    search = {"space": {"views.overlay_alpha": [0.0, 0.1]}, "objective": "maximize knn/top1_val"}
    base = {"data": {"source": "digits", "image_size": 8}, "encoder": "resnet18", "method": "autoencoder"}
    spec = from_dump({"name": "shown", **base, "evaluate": {"knn": {}}, "search": search})
    storage = FolderStorage(tmp_path)
    storage.sweep("shown").mkdir()
    ledger = open_ledger(storage.ledger_url, spec)
    queries = expressions()
    missing = {name for name, query in queries.items() if not of_real_gpus(query)}
    seen, ended = tmp_path / "seen", threading.Event()

    def look() -> None:
        while missing and not ended.wait(0.5):
            for name in sorted(missing):
                if ask(prometheus, "query", query=queries[name])["result"]:
                    missing.discard(name)
        seen.touch()

    looking = threading.Thread(target=look)
    looking.start()
    run_sweep(ledger, storage, Quiet(), work=partial(work, seen))
    ended.set()
    looking.join()
    assert missing == set()
    rules = ask(prometheus, "rules")["groups"][0]["rules"]
    assert {rule["health"] for rule in rules} == {"ok"}
    for rule in rules:
        for metric in re.findall(r"\b(?:ray_\w+|ssl_sweep_service_\w+|up)\b", rule["query"]):
            assert ask(prometheus, "series", **{"match[]": metric}), f"{rule['name']}: no {metric}"
