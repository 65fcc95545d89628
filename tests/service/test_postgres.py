"""The service on a real PostgreSQL: a sweep's life, a restart, and two services on one database."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import Postgres, eventually
from services import API, Cluster, body, make_dispatcher, submit, submitted
from starlette.testclient import TestClient

from ssl_sweep.service.app import make_app
from ssl_sweep.service.store import Store


@pytest.fixture
def url(postgres: Postgres, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    return postgres.create(f"service{time.time_ns()}").replace("postgresql:", "postgresql+psycopg:")


@pytest.fixture
def stores(url: str) -> Iterator[list[Store]]:
    """The database as two services have it, each with connections of its own."""
    made = [Store(url), Store(url)]
    yield made
    for each in made:
        each.close()


def test_a_sweeps_life_and_a_restart(stores: list[Store], cluster: Cluster, tmp_path: Path) -> None:
    first, second = stores
    dispatcher = make_dispatcher(tmp_path, first, cluster)
    app = make_app(first, dispatcher, dispatcher.settings, run_dispatcher=False)
    token = {"Authorization": f"Bearer {first.create_token('ann', 'submitter')[0]}"}
    ann = TestClient(app, headers=token)
    dispatcher.tick()
    assert ann.post(f"{API}/sweeps", json=body(), headers={"Idempotency-Key": "k"}).status_code == 201
    dispatcher.tick()
    assert ann.get(f"{API}/sweeps/tiny").json()["state"] == "LAUNCHING"
    anew = make_dispatcher(tmp_path, second, cluster)  # the service is started again
    anew.tick()
    again = TestClient(make_app(second, anew, anew.settings, run_dispatcher=False), headers=token)
    assert again.get(f"{API}/sweeps/tiny").json()["state"] == "RUNNING"
    assert again.post(f"{API}/sweeps", json=body(), headers={"Idempotency-Key": "k"}).status_code == 200
    cluster.ends("SUCCEEDED", 0)
    anew.tick()
    assert again.get(f"{API}/sweeps/tiny").json()["state"] == "COMPLETE"
    states = [each["state"] for each in second.events(submitted(second).id, kind="state")]
    assert states == ["QUEUED", "LAUNCHING", "RUNNING", "COMPLETE"]
    assert [each["status"] for each in second.audit_log()] == [200, 201]
    assert again.delete(f"{API}/sweeps/tiny").status_code == 204


def test_of_two_services_one_works_and_the_other_takes_over(
    stores: list[Store], cluster: Cluster, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    submit(stores[0], tmp_path, gpus=0, slots=1)
    first, second = (make_dispatcher(tmp_path, each, cluster, tick_s=0.05) for each in stores)
    first.start()
    assert eventually(lambda: submitted(stores[0]).state == "RUNNING")
    second.start()
    try:
        assert eventually(lambda: "another service works on this database" in second.trouble)
        submit(stores[1], tmp_path, "next", gpus=0, slots=1)
        assert eventually(lambda: submitted(stores[0], "next").state == "RUNNING")
        assert len(cluster.commands) == 2
        first.stop()
        cluster.ends("SUCCEEDED", 0)
        assert eventually(lambda: submitted(stores[0], "next").state == "COMPLETE")
        assert second.trouble == ""
    finally:
        second.stop()
    assert len(cluster.commands) == 2
    assert not caplog.text  # who stands by for days does not say so every few seconds


def test_a_stale_look_at_a_sweep_that_was_launched_again_changes_nothing(stores: list[Store], tmp_path: Path) -> None:
    read = submit(stores[0], tmp_path, state="RUNNING", attempt=1)
    assert stores[1].change(read, attempt=2)
    assert not stores[0].change(read, state="QUEUED")
