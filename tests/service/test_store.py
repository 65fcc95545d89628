"""The service's database: what two writers at once, a restart and a thief of the file can do to it."""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, event, text
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.service import server, tables
from ssl_sweep.service.access import User
from ssl_sweep.service.listener import Listener
from ssl_sweep.service.queue import Capacity, Limits
from ssl_sweep.service.settings import Settings
from ssl_sweep.service.store import Store, StoreError, Submission, _engine


def submission(number: str = "1", **changes: Any) -> Submission:
    values = {"id": number, "name": f"sweep{number}", "owner": "ann", "spec": {"name": f"sweep{number}"}, "slots": 2}
    return Submission(**{**values, "cpus": 1.0, "gpus": 0.5, "created": time.time(), "queued": time.time(), **changes})


def test_a_submission_is_read_as_it_was_written(store: Store, tmp_path: Path) -> None:
    new = submission(priority=3, command=("resume", "--failed"), counts={"complete": 1})
    store.add(new)
    assert Store(f"sqlite:///{tmp_path / 'service.db'}").get("sweep1") == new
    assert store.get("other") is None


def test_a_client_key_makes_one_submission_and_a_name_is_taken_once(store: Store) -> None:
    first = store.add(submission(client_key="k"))
    again = store.add(submission("2", name="sweep1", client_key="k"))
    assert again == first
    with pytest.raises(StoreError, match="'sweep1' was submitted before"):
        store.add(submission("3", name="sweep1"))
    with pytest.raises(StoreError):
        store.add(submission("3", name="sweep1", client_key="another"))
    store.add(submission("4", owner="bob", client_key="k"))  # a key is its owner's
    assert [each.id for each in store.find()] == ["4", "1"]


def test_of_two_that_add_under_one_key_at_once_both_get_the_same(store: Store) -> None:
    got: list[str] = []
    threads = [
        threading.Thread(target=lambda n=n: got.append(store.add(submission(str(n), name="x", client_key="k")).id))
        for n in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(got) == 8
    assert len(set(got)) == 1


def test_who_comes_second_changes_nothing(store: Store) -> None:
    read = store.add(submission())
    assert store.change(read, state="LAUNCHING", attempt=1)
    assert not store.change(read, state="STOPPED")
    now = store.get("sweep1")
    assert now is not None
    assert (now.state, now.attempt) == ("LAUNCHING", 1)
    assert store.change(now, asked="stop")
    assert not store.change(now, state="RUNNING", asked=None)


def test_events_keep_their_order_and_numbers(store: Store) -> None:
    new = store.add(submission())
    other = store.add(submission("2"))
    store.change(new, state="LAUNCHING")
    store.add_events(other.id, "trial", [{"trial_id": "x", "state": "RUNNING"}])
    store.add_events(new.id, "trial", [{"trial_id": "y", "state": "RUNNING"}])
    events = store.events(new.id)
    assert [(each["kind"], each["state"]) for each in events] == [
        ("state", "QUEUED"), ("state", "LAUNCHING"), ("trial", "RUNNING"),
    ]  # fmt: skip
    assert store.events(new.id, after=events[1]["number"]) == events[2:]
    assert [each["trial_id"] for each in store.events(new.id, kind="trial")] == ["y"]
    assert store.remove(other)
    assert store.events(other.id) == []
    store.add_events(new.id, "trial", [{"trial_id": "y", "state": "COMPLETE"}])
    assert store.events(new.id)[-1]["number"] > events[-1]["number"]


def test_a_submission_that_changed_is_not_removed(store: Store) -> None:
    read = store.add(submission())
    store.change(read, state="LAUNCHING")
    assert not store.remove(read)
    assert len(store.events(read.id)) == 2


def test_tokens_are_not_in_the_database(store: Store, tmp_path: Path) -> None:
    token, number = store.create_token("ann", "submitter")
    assert store.user_of(token) == User("ann", "submitter")
    assert store.user_of(token[:-1]) is None
    content = b"".join(path.read_bytes() for path in tmp_path.iterdir())
    assert token.encode() not in content
    assert token.removeprefix("sslsweep_").encode() not in content
    assert [(each["id"], each["user"]) for each in store.tokens()] == [(number, "ann")]
    assert store.revoke_token(number)
    assert not store.revoke_token(number)
    assert store.user_of(token) is None


def test_notes_of_the_audit_log_stay(store: Store, tmp_path: Path) -> None:
    store.record_action("ann", "127.0.0.1", "POST /api/v1/sweeps", 201)
    engine = create_engine(f"sqlite:///{tmp_path / 'service.db'}")
    with engine.connect() as connection:
        assert connection.execute(text("SELECT user, status FROM audit")).all() == [("ann", 201)]
    engine.dispose()
    assert store.audit_log()[0]["action"] == "POST /api/v1/sweeps"


def test_the_commands_make_list_and_revoke_tokens(tmp_path: Path) -> None:
    def run(*words: str, code: int = 0) -> str:
        ran = CliRunner().invoke(app, ["token", *words, "--storage", str(tmp_path)], catch_exceptions=False)
        assert ran.exit_code == code, ran.output
        return ran.stdout

    made = run("create", "ann", "--role", "admin").strip()
    assert Store(f"sqlite:///{tmp_path / 'service.db'}").user_of(made) == User("ann", "admin")
    (listed,) = json.loads(run("list", "--json"))
    assert (listed["user"], listed["role"]) == ("ann", "admin")
    assert made not in run("list")
    run("revoke", listed["id"])
    run("revoke", listed["id"], code=2)
    assert json.loads(run("list", "--json")) == []


def test_the_audit_log_is_shown_to_who_runs_the_service(tmp_path: Path) -> None:
    store = Store(f"sqlite:///{tmp_path / 'service.db'}")
    for number in range(3):
        store.record_action("[b]ann", "10.0.0.1", f"POST /api/v1/sweeps/s{number}/stop", 200)
    given = ["audit", "-n", "2", "--storage", str(tmp_path)]
    told = CliRunner().invoke(app, given, catch_exceptions=False).stdout
    assert told.index("s1/stop") < told.index("s2/stop")
    assert "s0/stop" not in told
    assert "[b]ann" in told
    listed = json.loads(CliRunner().invoke(app, [*given, "--json"], catch_exceptions=False).stdout)
    assert [each["action"][-7:] for each in listed] == ["s1/stop", "s2/stop"]


@pytest.mark.parametrize("user", ["", " ", "-", "a b", "<b>", "a" * 101])
def test_a_token_is_of_somebody_with_a_name(tmp_path: Path, user: str) -> None:
    ran = CliRunner().invoke(app, ["token", "create", "--storage", str(tmp_path), "--", user])
    assert ran.exit_code == 2
    assert "is no user's name" in " ".join(ran.output.split())
    assert not (tmp_path / "service.db").exists()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("nothing", "SSL_SWEEP_SERVICE_DB, nothing, is no database's URL"),
        ("postgresql://x:secret@127.0.0.1:1/y", "postgresql://x:***@127.0.0.1:1/y, cannot be reached"),
    ],
)
def test_a_database_that_is_none_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, said: str
) -> None:
    monkeypatch.setenv("SSL_SWEEP_SERVICE_DB", url)
    for words in (["token", "list"], ["serve", "--data-root", str(tmp_path)]):
        ran = CliRunner().invoke(app, [*words, "--storage", str(tmp_path)], catch_exceptions=False)
        assert ran.exit_code == 2
        assert said in " ".join(ran.output.split())
        assert "secret" not in ran.output


def test_a_service_that_cannot_work_is_not_started(tmp_path: Path) -> None:
    (tmp_path / "no.pem").write_text("no certificate")
    for words, said in (
        (["--data-root", tmp_path / "none"], "none is no folder; make it"),
        (["--data-root", tmp_path, "--ray", "head:8265"], "'head:8265' is no address"),
        (["--data-root", tmp_path, "--port", 99999], "value for '--port'"),
        (["--data-root", tmp_path, "--tls-key", tmp_path / "no.pem"], "goes with --tls-cert"),
        (["--data-root", tmp_path, "--tls-cert", tmp_path / "no.pem"], "are no certificate with its key"),
    ):
        ran = CliRunner().invoke(app, ["serve", *map(str, words)], catch_exceptions=False, env={"COLUMNS": "400"})
        assert ran.exit_code == 2, ran.output
        assert said in " ".join(ran.output.split())


def test_stored_databases_keep_the_names_of_their_tables() -> None:
    assert set(tables.metadata.tables) == {"submissions", "events", "news", "notes", "tokens", "audit"}


def test_what_serve_is_told_reaches_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    served: list[tuple[Settings, str, Listener]] = []
    monkeypatch.setattr(server, "serve", lambda *given: served.append(given))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    given = ["serve", "--data-root", str(tmp_path), "--storage", str(tmp_path), "--host", "0.0.0.0", "--max-gpus", "3"]
    for names in (
        ("--autoscale-max-cpus", "--autoscale-max-gpus"),
        ("--grows-to-cpus", "--grows-to-gpus"),
    ):  # as before
        ran = CliRunner().invoke(app, [*given, names[0], "8", names[1], "2"], catch_exceptions=False)
        assert ran.exit_code == 0, ran.output
        assert "unencrypted" in ran.output
    assert served[0] == served[1]
    settings, ray, listener = served[0]
    assert (settings.limits, settings.autoscale_max) == (Limits(gpus=3), Capacity(8, 2))
    assert (settings.data_roots, settings.trust_local, settings.ray_url) == ((tmp_path,), False, ray)
    assert listener == Listener("0.0.0.0", 8300)


@pytest.mark.parametrize(
    ("listener", "is_local", "is_exposed"),
    [
        (Listener(), True, False),
        (Listener("localhost"), True, False),
        (Listener(trusted_proxy="127.0.0.1"), False, False),
        (Listener("0.0.0.0"), False, True),
        (Listener("0.0.0.0", certificate=Path("cert.pem")), False, False),
    ],
)
def test_who_can_reach_a_listener(listener: Listener, is_local: bool, is_exposed: bool) -> None:
    assert (listener.is_local, listener.is_exposed) == (is_local, is_exposed)


def test_a_silent_postgresql_is_not_waited_for_by_the_hour() -> None:
    pytest.importorskip("psycopg")
    given: dict[str, Any] = {}
    engine = _engine("postgresql+psycopg://ann@127.0.0.1:9/service")

    @event.listens_for(engine, "do_connect")
    def _look(_: Any, __: Any, ___: Any, arguments: dict[str, Any]) -> None:
        given.update(arguments)
        raise ConnectionError

    with pytest.raises(ConnectionError):
        engine.connect()
    assert given["connect_timeout"] == 10
    assert given["keepalives_idle"] == 30


def test_services_that_start_at_once_make_the_new_database_together(tmp_path: Path) -> None:
    with ThreadPoolExecutor(6) as pool:
        made = [pool.submit(Store, f"sqlite:///{tmp_path / 'new.db'}") for _ in range(6)]
        assert [each.result().find() for each in made] == [[]] * 6
