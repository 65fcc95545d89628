"""The client and its commands against the service's application: the verbs work remote as they do local."""

import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest
import yaml
from rich.console import Console
from services import SPEC, URL, Service
from starlette.testclient import TestClient
from typer.testing import CliRunner

import ssl_sweep
from ssl_sweep.cli import app
from ssl_sweep.client import client as clients
from ssl_sweep.client.client import Client, ServiceError
from ssl_sweep.commands import terminal, watching


@pytest.fixture
def client(ann: TestClient) -> Client:
    return ssl_sweep.Client(URL, http=ann)


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    path = tmp_path / "spec.yaml"
    path.write_text(yaml.safe_dump(SPEC))
    return path


@pytest.fixture
def _wired(ann: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands' client speaks to the service of this process."""
    monkeypatch.setattr(clients.httpx2, "Client", lambda **_: ann)


def command(*words: object, code: int = 0, answer: str | None = None) -> str:
    ran = CliRunner().invoke(app, ["--server", URL, *map(str, words)], catch_exceptions=False, input=answer)
    assert ran.exit_code == code, ran.output
    return ran.output


def test_the_verbs_of_the_client(client: Client, service: Service) -> None:
    text = yaml.safe_dump(SPEC)
    assert client.plan(text)["trials"] == 4
    assert client.submit(text, ["search.seeds=1"], key="k")["counts"]["total"] == 2
    assert client.submit(text, ["search.seeds=1"], key="k")["name"] == "tiny"
    assert [each["name"] for each in client.sweeps()] == ["tiny"]
    assert client.pause("tiny")["state"] == "PAUSED"
    with pytest.raises(ServiceError, match="tiny has not begun: it has no trials to choose from"):
        client.resume("tiny", trials=["ab"])
    assert client.resume("tiny")["state"] == "QUEUED"
    assert client.priority("tiny", -1)["priority"] == -1
    ledger = service.begun()
    trial = ledger.ask().trials[0]
    assert client.status("tiny")["trials"][0]["trial_id"] == trial.trial_id
    assert client.stop("tiny", [trial.trial_id])["asked"] is None
    assert client.stop("tiny")["asked"] == "stop"
    read = service.now()
    service.store.change(read, state="STOPPED", asked=None)
    assert [each["state"] for each in client.events("tiny")][-1] == "STOPPED"
    client.delete("tiny")
    with pytest.raises(ServiceError, match="no sweep named 'tiny'") as caught:
        client.show("tiny")
    assert caught.value.status == 404


def shown(renderable: Any) -> str:
    console = Console(width=200)
    with console.capture() as caught:
        console.print(renderable)
    return caught.get()


def test_what_a_service_answers_is_shown_as_what_is_local(client: Client, service: Service) -> None:
    search = {"space": {"views.overlay_alpha": {"low": 0.0, "high": 0.2}}, "sampler": "random", "trials": 3}
    search |= {"objective": "maximize knn/top1_val", "seeds": 2, "confirm": {"top": 1, "seeds": 2}}
    planned = client.plan(yaml.safe_dump({**SPEC, "search": search}))
    assert planned["confirming"] == 2
    assert "3 choices x 2 seeds, and 2 to confirm the best" in shown(terminal.plan_table("tiny", planned))
    client.submit(yaml.safe_dump(SPEC))
    assert "of 4" in shown(terminal.status_table(client.status("tiny")))
    assert "0/4" in shown(terminal.submitted_table(client.sweeps()))
    first, second = service.begun().ask().trials
    table = shown(terminal.status_table(client.status("tiny")))
    assert first.trial_id[:8] in table
    assert second.trial_id[:8] in table
    status = client.status("tiny")
    status["trials"][0] |= {"state": "RUNNING", "attempts": 2, "message": "ssl-sweep pause by ann"}
    assert "tried again" not in shown(terminal.status_table(status))  # it was resumed
    status["trials"][0]["reason"] = "crash"
    assert "1 tried again after crash: ssl-sweep pause by ann" in shown(terminal.status_table(status))


def test_pages_are_put_together(client: Client, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "PAGE", 2)
    for number in range(5):
        client.submit(yaml.safe_dump({**SPEC, "name": f"s{number}"}))
    assert [each["name"] for each in client.sweeps()] == ["s4", "s3", "s2", "s1", "s0"]
    ledger = service.begun("s0")
    trials = [trial.trial_id for _ in range(2) for trial in ledger.ask().trials]
    assert [each["trial_id"] for each in client.trials("s0")] == trials


def test_a_request_nobody_heard_is_sent_again(
    ann: TestClient, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A submission whose answer is lost makes one sweep; a stop whose answer is lost is not sent twice."""
    monkeypatch.setattr(clients.time, "sleep", lambda _: None)
    sent: list[str] = []

    def lossy(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.url.path)
        answer = ann.request(request.method, request.url.path, content=request.content, headers=dict(request.headers))
        if len(sent) == 1:
            raise httpx2.ReadTimeout("lost", request=request)
        return httpx2.Response(answer.status_code, content=answer.content)

    transport = httpx2.MockTransport(lossy)
    client = Client(URL, http=httpx2.Client(base_url=URL, transport=transport, headers=ann.headers))
    assert client.submit(yaml.safe_dump(SPEC))["name"] == "tiny"
    assert len(sent) == 2
    assert len(service.store.find()) == 1
    sent.clear()
    with pytest.raises(ServiceError, match="no service answers"):
        client.pause("tiny")
    assert len(sent) == 1


@pytest.mark.parametrize(
    ("error", "times"), [(httpx2.ReadTimeout, 1), (httpx2.ConnectError, 4), (httpx2.RemoteProtocolError, 4)]
)
def test_an_answer_that_takes_too_long_is_not_asked_for_again(
    monkeypatch: pytest.MonkeyPatch, error: type[httpx2.TransportError], times: int
) -> None:
    monkeypatch.setattr(clients.time, "sleep", lambda _: None)
    sent: list[str] = []
    with pytest.raises(ServiceError, match="no service answers"):
        answering([error("lost")] * 4, sent).report("tiny")
    assert len(sent) == times


def answering(answers: Sequence[httpx2.Response | Exception], sent: list[str]) -> Client:
    """The client of a service that answers so, one request after the other."""

    def answered(request: httpx2.Request) -> httpx2.Response:
        sent.append(request.url.path)
        answer = answers[len(sent) - 1]
        if isinstance(answer, Exception):
            raise answer
        return answer

    return Client(URL, http=httpx2.Client(base_url=URL, transport=httpx2.MockTransport(answered)))


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (httpx2.Response(200, html="<html>log in</html>"), "is no sweep service .it sends text/html"),
        (httpx2.Response(302, headers={"Location": "https://login.lab"}), "redirects to https://login.lab; give"),
    ],
)
def test_what_is_no_service_is_one_message(answer: httpx2.Response, said: str) -> None:
    with pytest.raises(ServiceError, match=said):
        answering([answer], []).show("tiny")
    with pytest.raises(ServiceError, match=said):
        next(answering([answer], []).events("tiny"))


def test_events_go_on_after_a_proxys_refusals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.time, "sleep", lambda _: None)
    text = 'event: state\ndata: {"number": 1, "state": "COMPLETE"}\n\nevent: end\ndata: {}\n\n'
    stream = httpx2.Response(200, text=text, headers={"Content-Type": "text/event-stream"})
    refusals = [httpx2.Response(status, text="busy") for status in (429, 502, 503, 504)]
    assert [each["state"] for each in answering([*refusals, stream], []).events("tiny")] == ["COMPLETE"]
    with pytest.raises(ServiceError, match="answers 503"):
        list(answering([httpx2.Response(503, text="busy")] * 5, []).events("tiny"))
    with pytest.raises(ServiceError, match="answers 401: no; give it in SSL_SWEEP_TOKEN, or as a profile's `token`"):
        list(answering([httpx2.Response(401, text="no")], []).events("tiny"))


def test_nobody_there_is_one_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.time, "sleep", lambda _: None)
    with pytest.raises(ServiceError, match=r"no service answers at http://127\.0\.0\.1:9"):
        Client("http://127.0.0.1:9").cluster()


def test_a_certificate_that_nobody_knows_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.time, "sleep", lambda _: None)
    error = httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed certificate")
    with pytest.raises(ServiceError, match=r"no service answers at .* set SSL_CERT_FILE to"):
        answering([error] * 4, []).cluster()


def test_profiles_give_address_and_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[profiles.lab]\nserver = "https://sweeps.lab/"\ntoken = "secret"\n')
    monkeypatch.setenv("SSL_SWEEP_CONFIG", str(config))
    config.chmod(0o644)
    with pytest.raises(ServiceError, match="chmod 600"):
        Client("lab")
    config.chmod(0o600)
    for server in ("lab", "https://sweeps.lab/", "https://sweeps.lab"):
        made = Client(server)
        assert made.server == "https://sweeps.lab"
        assert made._http.headers["Authorization"] == "Bearer secret"
    monkeypatch.setenv("SSL_SWEEP_TOKEN", "another")
    assert Client("lab")._http.headers["Authorization"] == "Bearer another"
    with pytest.raises(ServiceError, match=r"neither an address nor a profile .* which has lab"):
        Client("home")
    config.write_text('[profiles.lab]\ntoken = "secret"\n')
    with pytest.raises(ServiceError, match="profile lab has no `server`"):
        Client("lab")


@pytest.mark.usefixtures("_wired")
def test_submit_shows_the_plan_asks_and_says_what_to_type_next(spec: Path, service: Service) -> None:
    for answer in ("n\n", None):  # None: nobody is there to answer
        refused = command("submit", spec, answer=answer, code=130)
        assert "4  (2 choices x 2 seeds)" in refused
        assert "not submitted; -y submits without asking" in refused
    assert service.store.find() == []
    told = command("submit", spec, answer="y\n")
    assert "tiny is QUEUED" in told
    assert f"{URL}/sweeps/tiny" in told
    assert f"ssl-sweep --server {URL} logs tiny -f" in told
    assert "was submitted before" in command("submit", spec, "-y", code=2)


@pytest.mark.usefixtures("_wired")
def test_what_to_type_next_is_about_the_same_service(
    spec: Path, service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert f"no sweeps yet: ssl-sweep --server {URL} submit SPEC.YAML" in command("list")
    command("submit", spec, "-y")
    assert f"continue it: ssl-sweep --server {URL} resume tiny" in command("pause", "tiny")
    assert f"in the queue: ssl-sweep --server {URL} status tiny" in command("resume", "tiny")
    monkeypatch.setenv("SSL_SWEEP_SERVER", URL)
    ran = CliRunner().invoke(app, ["stop", "tiny"])
    assert "continue it: ssl-sweep resume tiny" in ran.output


@pytest.mark.usefixtures("_wired")
@pytest.mark.parametrize("verb", ["submit", "plan"])
def test_a_file_that_is_no_spec_is_told_as_run_tells_it(verb: str, tmp_path: Path) -> None:
    latin, absent = tmp_path / "latin.yaml", tmp_path / "absent.yaml"
    latin.write_bytes(b"name: \xe9t\xe9\n")
    for path, said in ((tmp_path, "cannot be read"), (absent, "no such file"), (latin, "is not UTF-8")):
        told = " ".join(command(verb, path, code=2).split())
        assert f"{path}" in told
        assert said in told


@pytest.mark.usefixtures("_wired")
def test_a_plan_says_what_fits_the_services_cluster(spec: Path, service: Service) -> None:
    assert command("plan", spec).split()[-3:] == ["at", "once", "4"]
    wants_gpus = command("plan", spec, "--set", "resources.gpus=3")
    assert "does not fit" in wants_gpus
    assert "until the cluster has grown" in wants_gpus
    service.dispatcher.capacity = None
    unknown = command("plan", spec, "--set", "resources.gpus=3")
    assert "unknown: the service's cluster does not answer" in unknown
    assert "does not fit" not in unknown


@pytest.mark.usefixtures("_wired")
def test_following_a_log_waits_for_a_trial(spec: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    command("submit", spec, "-y")

    def driven(_: float) -> None:
        read = service.now()
        service.store.change(read, state="PAUSED", reason="as requested")

    monkeypatch.setattr(watching.time, "sleep", driven)
    told = " ".join(command("logs", "tiny", "-f", code=2).split())
    assert "no trial of tiny runs yet, waiting for one; it is QUEUED tiny has no trials yet" in told


@pytest.mark.usefixtures("_wired")
def test_the_same_commands_work_on_a_service(spec: Path, service: Service) -> None:
    command("submit", spec, "-y")
    assert json.loads(command("plan", spec, "--json"))["trials"] == 4
    assert json.loads(command("list", "--json"))[0]["name"] == "tiny"
    assert "ann" in command("list")
    assert "ann's, QUEUED" in command("status", "tiny")
    ledger = service.begun()
    trial = ledger.ask().trials[0]
    assert trial.trial_id[:8] in command("status", "tiny")
    assert "no trial of tiny runs" in command("logs", "tiny")
    assert "asked to stop" in command("stop", "tiny")
    read = service.now()
    service.store.change(read, state="PAUSED", asked=None)
    assert "leave out --set, --retries and --max-concurrent" in command("resume", "tiny", "--retries", 3, code=2)
    assert "leave out --set, --retries and --max-concurrent" in command("resume", "tiny", "--max-concurrent", 3, code=2)
    assert "is in the queue" in command("resume", "tiny", "--failed")
    assert "priority -2" in command("priority", "tiny", "--", -2)
    assert "tiny has no results yet; it is QUEUED" in command("table", "tiny", code=2)
    assert "is deleted" in command("delete", "tiny")
    assert "no sweep named" in command("status", "tiny", code=2)


@pytest.mark.usefixtures("_wired")
def test_a_mistake_is_told_as_run_tells_it(spec: Path, service: Service) -> None:
    spec.write_text(yaml.safe_dump({**SPEC, "pretrain": {"epoch": 2}}))
    remote = command("submit", spec, "-y", code=2)
    local = CliRunner().invoke(app, ["plan", str(spec)])
    assert f"{spec}:" in remote
    assert " ".join(remote.split()) == " ".join(local.output.split())


@pytest.mark.parametrize(("words", "option"), [(("status", "tiny"), "storage"), (("resume", "tiny"), "address")])
def test_a_service_and_what_is_local_exclude_each_other(words: tuple[str, ...], option: str) -> None:
    told = command(*words, f"--{option}", "here", code=2)
    assert f"--{option} and --server {URL} exclude each other: leave --{option} out, or --server" in " ".join(
        told.split()
    )


def test_what_is_local_says_so(spec: Path) -> None:
    assert "leave --server out" in command("run", spec, code=2)
    ran = CliRunner().invoke(app, ["submit", str(spec)])
    assert ran.exit_code == 2
    assert "--server" in ran.output
    assert json.loads(command("schema"))["title"]  # it is of both


def test_a_service_is_asked_without_what_trains() -> None:
    """torch and pandas take seconds to import, and a laptop that asks a service needs neither."""
    code = "import sys, ssl_sweep.cli, ssl_sweep.client.client, ssl_sweep.commands.terminal, ssl_sweep.spec.document; "
    code += "sys.exit(str({'torch', 'pandas', 'optuna', 'ray', 'mlflow'} & set(sys.modules)))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.stderr.strip() == "set()"


@pytest.mark.usefixtures("_wired")
def test_ctrl_c_while_following_leaves_the_sweep(spec: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: Any) -> Iterator[Any]:
        yield {"kind": "state", "state": "RUNNING", "reason": ""}
        raise KeyboardInterrupt

    monkeypatch.setattr(Client, "events", interrupted)
    assert "tiny continues in the background" in command("submit", spec, "-y", "-f", code=130)
    read = service.now()
    assert (read.state, read.asked) == ("QUEUED", None)
