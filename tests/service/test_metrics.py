"""What Prometheus is told of the service."""

import time
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from starlette.testclient import TestClient

from ssl_sweep.service.app import make_app
from ssl_sweep.service.dispatcher import Dispatcher
from ssl_sweep.service.jobs import RayJobs
from ssl_sweep.service.queue import Capacity
from ssl_sweep.service.settings import Settings
from ssl_sweep.service.store import Store, Submission
from ssl_sweep.storage.folder_storage import FolderStorage


def submission(name: str, state: str, queued: float) -> Submission:
    return Submission(name, name, "ann", {}, 1, 1.0, 0.0, queued, queued, state=state)


def told(client: TestClient) -> dict[str, float]:
    answer = client.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    samples = [sample for family in text_string_to_metric_families(answer.text) for sample in family.samples]
    return {sample.name + sample.labels.get("state", ""): sample.value for sample in samples}


def test_the_queue_is_counted_for_who_has_a_token(tmp_path: Path) -> None:
    store, now = Store(f"sqlite:///{tmp_path / 'service.db'}"), time.time()
    for name, state, queued in (("a", "QUEUED", now - 60), ("b", "QUEUED", now), ("c", "RUNNING", now - 900)):
        store.add(submission(name, state, queued))
    settings = Settings(FolderStorage(tmp_path), (tmp_path,))
    dispatcher = Dispatcher(store, RayJobs("http://127.0.0.1:1"), settings)
    app = make_app(store, dispatcher, settings, run_dispatcher=False)
    assert TestClient(app).get("/metrics").status_code == 401
    client = TestClient(app, headers={"Authorization": f"Bearer {store.create_token('prometheus', 'viewer')[0]}"})
    found = told(client)
    assert (found["ssl_sweep_service_sweepsQUEUED"], found["ssl_sweep_service_sweepsRUNNING"]) == (2, 1)
    assert found["ssl_sweep_service_sweepsFAILED"] == 0
    assert 60 <= found["ssl_sweep_service_queue_seconds"] < 70
    assert found["ssl_sweep_service_ray_up"] == 0  # it has not been heard of yet
    dispatcher.capacity = Capacity(4, 2)
    assert told(client)["ssl_sweep_service_ray_up"] == 1
    dispatcher.trouble = "Ray is away"
    assert told(client)["ssl_sweep_service_ray_up"] == 0
