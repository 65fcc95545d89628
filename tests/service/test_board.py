"""The board as HTTP: who sees which pages and buttons, that texts stay texts, and what is said when things go wrong."""

import gzip
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from itertools import count
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from board_data import METRIC, SPEC, Filled
from sqlalchemy.exc import OperationalError
from starlette.testclient import TestClient

from ssl_sweep.ledger.database import LedgerUnreachableError
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.service import write_endpoints
from ssl_sweep.service.access import User
from ssl_sweep.service.board import snapshot as snapshots
from ssl_sweep.service.board.pages import actions
from ssl_sweep.service.board.progress import History, Point, history
from ssl_sweep.service.board.snapshot import Snapshots
from ssl_sweep.service.board.trials import failure_kinds, trial_table
from ssl_sweep.service.middleware import COOKIE, RateLimiter
from ssl_sweep.service.states import ENDED

NASTY = '<script>alert("1")</script> & <b>bold</b> {{ 7 * 7 }} \'"><img src=x onerror=alert(1)>'
PARTS = ["/list", "/sweeps/alphas/head", "/sweeps/alphas/trials", "/sweeps/alphas/failures", "/sweeps/alphas/plots"]
PARTS += ["/sweeps/alphas/curves", "/compare/plots?sweep=alphas"]
PAGES = ["/", "/sweeps/alphas", "/compare?sweep=alphas&sweep=nasty"]
BY_BOARD = {"X-Board": "1"}
ADDRESSES = count(1)  # each client may send as many wrong tokens as it likes


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Filled:
    root = tmp_path_factory.mktemp("board")
    (root / "mlflow.db").write_bytes(empty_store.read_bytes())
    made = Filled(root)
    made.submit("alphas")
    made.run("alphas", mlflow=True)
    made.submit("nasty", NASTY, description=NASTY, reason=NASTY)
    return made


@pytest.fixture
def as_user(filled: Filled) -> Iterator[Any]:
    """A browser of a user, signed in by cookie; None: of nobody."""

    def client(user: str | None, role: Any = "submitter", base: str = "http://sweeps.lab") -> TestClient:
        token = {COOKIE: filled.store.create_token(user, role)[0]} if user else {}
        headers = {"Accept": "text/html", **({"Cookie": f"{COOKIE}={token[COOKIE]}"} if user else {})}
        return TestClient(
            filled.app, base, headers=headers, client=(f"10.0.0.{next(ADDRESSES)}", 5), raise_server_exceptions=False
        )

    yield client
    for each in filled.store.tokens():
        filled.store.revoke_token(each["id"])


class Texts(HTMLParser):
    """The elements and texts that a browser would see."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def buttons(self) -> list[str | None]:
        return [given.get("data-post") for tag, given in self.tags if tag == "button" and "data-post" in given]


# who sees and does what


@pytest.mark.parametrize(("role", "status"), [(None, 401), ("viewer", 200), ("submitter", 200), ("admin", 200)])
def test_everybody_with_a_token_sees_every_page(as_user: Any, role: str | None, status: int) -> None:
    client = as_user("vic" if role else None, role)
    for path in (*PAGES, *PARTS):
        answer = client.get(path)
        assert answer.status_code == status, path
        if role is None:
            assert 'id="token"' in answer.text
            assert "alphas" not in answer.text


@pytest.mark.parametrize(
    ("user", "role", "offered"),
    [("vic", "viewer", []), ("bob", "submitter", []), ("ann", "viewer", []), ("ann", "submitter", ["pause", "stop"]),
     ("root", "admin", ["pause", "stop"])],
)  # fmt: skip
def test_buttons_are_for_who_may_change_a_sweep(
    filled: Filled, as_user: Any, user: str, role: str, offered: list[str]
) -> None:
    if filled.store.get("mine") is None:
        filled.submit("mine", "ann")
    client = as_user(user, role)
    found = Texts(client.get("/sweeps/mine/head").text).buttons()
    assert found == [f"/api/v1/sweeps/mine/{each}" for each in offered]
    refused = client.post("/api/v1/sweeps/mine/pause", headers=BY_BOARD).status_code if not offered else 403
    assert refused == 403


def test_buttons_are_those_that_the_service_would_not_refuse(filled: Filled, as_user: Any) -> None:
    filled.submit("states", "ann", counts={**filled.now("alphas").counts, "failed": 2})
    ann, allowed = as_user("ann"), {}
    for state in ("QUEUED", "RUNNING", *ENDED):
        for endpoint, content in (("pause", {}), ("stop", {}), ("resume", {}), ("resume", {"failed": True})):
            filled.store.change(filled.now("states"), state=state, asked=None)
            offered = [
                (each.endpoint, json.loads(each.content))
                for each in actions(User("ann", "submitter"), filled.now("states"))
            ]
            answer = ann.post(f"/api/v1/sweeps/states/{endpoint}", json=content, headers=BY_BOARD)
            is_offered = (f"/api/v1/sweeps/states/{endpoint}", content) in offered
            assert answer.status_code == (200 if is_offered else 409), (state, endpoint, content)
            allowed[state] = len(offered)
    assert allowed == {"QUEUED": 2, "RUNNING": 2, "COMPLETE": 0, "FAILED": 2, "STOPPED": 2, "PAUSED": 3}
    filled.store.change(filled.now("states"), state="RUNNING", asked="stop")
    assert actions(User("ann", "submitter"), filled.now("states")) == []


def test_a_token_is_kept_in_a_cookie_that_no_script_and_no_other_site_can_use(filled: Filled, as_user: Any) -> None:
    token = filled.store.create_token("ann", "submitter")[0]
    for base, secure in (("http://sweeps.lab", False), ("https://sweeps.lab", True)):
        made = as_user(None, base=base).post("/session", headers={"Authorization": f"Bearer {token}"})
        assert made.status_code == 204
        words = {word.strip().lower() for word in made.headers["set-cookie"].split(";")}
        assert {"httponly", "samesite=strict", "path=/", f"max-age={30 * 86_400}"} <= words
        assert ("secure" in words) == secure
    assert as_user(None).post("/session", headers={"Authorization": "Bearer guess"}).status_code == 401
    out = as_user("ann").post("/sign-out", headers=BY_BOARD)
    assert "max-age=0" in out.headers["set-cookie"].lower()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        (BY_BOARD, 200),
        ({**BY_BOARD, "Origin": "http://sweeps.lab"}, 200),
        ({**BY_BOARD, "Origin": "http://evil.example"}, 403),
        ({**BY_BOARD, "Origin": "null"}, 403),
        ({"Origin": "http://sweeps.lab"}, 403),
        ({**BY_BOARD, "Authorization": "Bearer wrong"}, 401),
    ],
)
def test_only_pages_of_the_board_change_things_by_cookie(
    filled: Filled, as_user: Any, headers: dict[str, str], status: int
) -> None:
    if filled.store.get("forged") is None:
        filled.submit("forged", "ann")
    before = filled.now("forged")
    answer = as_user("ann").put(
        "/api/v1/sweeps/forged/priority", json={"priority": -before.priority - 1}, headers=headers
    )
    assert answer.status_code == status
    assert (filled.now("forged").priority != before.priority) == (status == 200)


def test_cookies_are_guessed_as_slowly_as_tokens(filled: Filled, as_user: Any) -> None:
    guesser = as_user(None)
    statuses = [guesser.get("/list", headers={"Cookie": f"{COOKIE}=guess{n}"}).status_code for n in range(30)]
    assert statuses.count(401) <= 11
    assert statuses[-1] == 429


def test_who_has_signed_out_elsewhere_is_told_to_sign_in_again(filled: Filled, as_user: Any) -> None:
    ann = as_user("ann")
    assert ann.get("/sweeps/alphas").status_code == 200
    filled.store.revoke_token(filled.store.tokens()[-1]["id"])
    again = ann.get("/sweeps/alphas")
    assert again.status_code == 401
    assert "the token is not valid any more" in again.text
    assert (
        ann.get("/sweeps/alphas/head", headers={"Accept": "*/*"})
        .json()["message"]
        .startswith("this token is not known")
    )


def test_loopback_without_tokens_needs_no_sign_in(tmp_path: Path) -> None:
    here = Filled(tmp_path, trust_local=True)
    client = TestClient(here.app, "http://127.0.0.1:8300", client=("127.0.0.1", 5), headers={"Accept": "text/html"})
    assert 'id="sign-out"' not in client.get("/").text
    stale = client.get("/list", headers={"Cookie": f"{COOKIE}=of-another-service"})  # cookies know no ports
    assert stale.status_code == 200
    assert "ssl-sweep submit experiments/quickstart.yaml" in stale.text
    assert "SSL_SWEEP_SERVER=http://127.0.0.1:8300" in stale.text


# texts stay texts


def test_names_and_messages_of_users_are_nothing_but_text(filled: Filled, as_user: Any) -> None:
    root, name = as_user("root", "admin"), "evil"
    if filled.store.get(name) is None:
        filled.submit(name, NASTY, description=NASTY, reason=NASTY)
        filled.run(name, failure=(NASTY, NASTY))
    paths = ["/list", *(f"/sweeps/{name}{each}" for each in ("", "/head", "/trials", "/failures"))]
    paths += [
        f"/compare?sweep={name}&sweep=alphas",
        "/<script>alert(1)</script>",
        f"/sweeps/{name}/trials?text={NASTY}",
    ]
    found = ""
    for path in paths:
        page = Texts(root.get(path).text)
        found += page.text
        assert not {"b", "img"} & {tag for tag, given in page.tags if "onerror" in given or tag == "img"}
        assert all(given.get("src", "").startswith("/static/") for tag, given in page.tags if tag == "script")  # type: ignore[union-attr]
        assert not [given for _, given in page.tags if any(key.startswith("on") for key in given)]
    assert found.count(NASTY) >= 4
    for path in (f"/sweeps/{name}/plots", f"/sweeps/{name}/curves"):
        assert "<script" not in root.get(path).text


@pytest.mark.parametrize("path", [*PAGES, "/sign-in", "/sweeps/nothing", "/nothing"])
def test_pages_run_no_script_but_the_boards(as_user: Any, path: str) -> None:
    answer = as_user("ann").get(path)
    policy = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["connect-src"] == "'self'"
    assert "unsafe-eval" not in str(policy)
    assert "unsafe" not in policy["script-src"]
    assert policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["cache-control"] == "no-store"
    for tag, given in Texts(answer.text).tags:
        assert tag != "script" or str(given["src"]).startswith("/static/")
        assert tag != "link" or str(given["href"]).startswith(("/static/", "data:"))


def test_scripts_are_kept_for_ever_and_lead_nowhere_else(as_user: Any) -> None:
    nobody = as_user(None)
    plotly = re.findall(r"/static/\w+/plotly\.js", as_user("ann").get("/sweeps/alphas").text)[0]
    answer = nobody.get(plotly)
    assert "immutable" in answer.headers["cache-control"]
    assert answer.headers["content-encoding"] == "gzip"
    assert len(answer.text) > 3_000_000
    assert nobody.get(plotly, headers={"Accept-Encoding": "identity"}).text == answer.text
    assert gzip.compress(answer.content) != answer.content
    digest = plotly.split("/")[2]
    for path in (f"{digest}/pages.py", f"{digest}/..%2f..%2fapi.py", "0/board.js", f"{digest}/%2e%2e/app.py", "x"):
        assert nobody.get(f"/static/{path}").status_code in (401, 404)


# what stands on the pages


def test_sweeps_are_found_and_paged(tmp_path: Path) -> None:
    here = Filled(tmp_path, trust_local=True)
    client = TestClient(here.app, "http://127.0.0.1:8300", client=("127.0.0.1", 5))
    for number in range(120):
        here.submit(
            f"s{number:03}",
            ["ann", "bob_"][number % 2],
            created=float(number),
            state=["STOPPED", "FAILED"][number % 3 == 0],
        )

    def names(**query: Any) -> tuple[list[str], str | None]:
        text = client.get("/list", params=query).text
        older = re.search(r'data-key="before" data-value="([\d.]+)">Older', text)
        return re.findall(r'href="/sweeps/(\w+)"', text), older and older[1]

    seen, before = [], ""
    while before is not None:
        page, before = names(**({"before": before} if before else {}))  # type: ignore[assignment]
        assert len(page) <= 50
        seen += page
    assert seen == [f"s{number:03}" for number in reversed(range(120))]
    assert names(text="S01")[0] == [f"s{number:03}" for number in reversed(range(10, 20))]
    assert names(text="_")[0] == names(text="bob")[0] != []  # no pattern of the database's
    assert len(names(state="failed")[0]) == 40
    assert names(state="failed", owner="bob_")[0] == [
        f"s{number:03}" for number in reversed(range(120)) if number % 6 == 3
    ]
    assert "No sweep matches" in client.get("/list", params={"text": "nothing"}).text
    assert client.get("/list", params={"text": "\0"}).status_code == 422


def test_the_queue_says_who_is_next_and_why_they_wait(tmp_path: Path) -> None:
    here = Filled(tmp_path, trust_local=True)
    client = TestClient(here.app, "http://127.0.0.1:8300", client=("127.0.0.1", 5))
    here.submit("first", "ann", state="RUNNING", granted=4, gpus=1.0)
    here.submit("second", "ann", reason="waits for resources")
    here.submit("third", "bob", reason="waits for resources")  # uses less
    here.submit("urgent", "ann", priority=5)
    text = client.get("/list", params={"state": "waiting"}).text
    assert re.findall(r'href="/sweeps/(\w+)"', text) == ["urgent", "third", "second"]
    assert [f"no. {place} in the queue" in text for place in (1, 2, 3, 4)] == [True, True, True, False]
    assert "waits for resources" in text
    assert "<b>4</b> of 8 in use" in text
    assert "<b>8</b> of 64 in use" in text
    assert "no. 2 in the queue" in client.get("/sweeps/third/head").text
    here.dispatcher.trouble = "no Ray cluster answers"
    assert "no Ray cluster answers" in client.get("/list").text


def test_trials_are_sorted_found_and_cut_into_pages(filled: Filled) -> None:
    seen = Snapshots().of(filled.dispatcher, filled.now("alphas"))

    def shown(**asked: Any) -> Any:
        given = {"metric": METRIC, "sort": "choice", "text": "", "state": "", "page": 1}
        return trial_table(seen, **(given | asked))

    by_value = [(row.trial.results or {}).get(METRIC) for row in shown(sort="-metric").rows]
    measured = [value for value in by_value if value is not None]
    assert measured == sorted(measured, reverse=True)
    assert by_value[len(measured) :] == [None] * (24 - len(measured))  # last, whichever way
    assert [(row.trial.results or {}).get(METRIC) for row in shown(sort="metric").rows][: len(measured)] == measured[
        ::-1
    ]
    rates = [row.knobs["pretrain.lr"] for row in shown(sort="knob.pretrain.lr").rows]
    assert rates == sorted(rates)
    took = [row.seconds for row in shown(sort="took").rows]
    assert took == sorted(took)
    assert all(60 <= each <= 300 for each in took)
    assert {row.trial.state for row in shown(state="FAILED").rows} == {"FAILED"}
    found = shown(text="optimizer=adamw seed=1")
    assert (
        found.num_matching
        == sum(row.knobs["pretrain.optimizer"] == "adamw" and row.trial.seed == 1 for row in seen.rows)
        > 0
    )
    assert shown(sort="-nothing' OR 1").sort == "choice"
    assert shown(page=99).page == 1
    many = replace(seen, rows=seen.rows * 10)
    pages = [trial_table(many, metric=METRIC, sort="seed", text="", state="", page=page) for page in range(1, 6)]
    assert [len(page.rows) for page in pages] == [50, 50, 50, 50, 40]
    assert [page.first for page in pages] == [1, 51, 101, 151, 201]


def test_the_best_so_far_is_the_choice_with_the_most_seeds_and_the_best_mean(filled: Filled) -> None:
    seen = Snapshots().of(filled.dispatcher, filled.now("alphas"))
    drawn = history(seen, METRIC, "time")
    rows = sorted((row for row in seen.rows if row.trial.results), key=lambda row: row.ended or 0)
    assert [point.value for point in drawn.points] == [(row.trial.results or {})[METRIC] for row in rows]
    shown = {number: value for number, _, value in drawn.steps}
    scores: dict[int, list[float]] = defaultdict(list)
    value = 0.0
    for number, row in enumerate(rows, 1):
        scores[row.trial.choice].append((row.trial.results or {})[METRIC])
        value = shown.get(number, value)
        assert value == fmean(max(scores.values(), key=lambda each: (len(each), fmean(each))))
    assert drawn.steps[-1][0] == len(rows)
    lowest = min(scores.values(), key=lambda each: (-len(each), fmean(each)))
    assert replace(drawn, lowest=True).steps[-1][2] == fmean(lowest)


def test_a_lucky_seed_is_not_the_best_so_far_and_test_scores_do_not_choose() -> None:
    def of(*points: tuple[int, float, float]) -> list[float]:
        made = tuple(Point(float(i), value, "", choice, score) for i, (choice, value, score) in enumerate(points))
        return [value for *_, value in History("a", METRIC, False, made).steps]

    assert of((0, 50.0, 50.0), (0, 52.0, 52.0), (1, 90.0, 90.0)) == [50.0, 51.0, 51.0]
    assert of((0, 50.0, 50.0), (1, 60.0, 60.0), (1, 40.0, 61.0), (0, 51.0, 49.0)) == [50.0, 60.0, 50.0, 50.0]


def test_trials_that_ended_alike_are_told_together(filled: Filled, as_user: Any) -> None:
    seen = Snapshots().of(filled.dispatcher, filled.now("alphas"))
    found = {(each.state, each.reason, each.message): each.count for each in failure_kinds(seen)}
    assert found == {("FAILED", "oom", "CUDA out of memory: 2.1 GiB wanted"): 2, ("PRUNED", "", "pruned at epoch 4"): 2}


def test_plots_are_of_the_ledgers_numbers(filled: Filled, as_user: Any) -> None:
    told = as_user("vic", "viewer").get("/sweeps/alphas/plots").json()
    sections = [plot["section"] for plot in told["plots"]]
    assert sections == ["best", "knobs", "knobs", "knobs", "together"]
    assert told["metrics"][0] == told["metric"] == METRIC
    ledger = load_ledger(filled.storage.ledger_url, "alphas")
    alpha = {choice.number: choice.knobs["views.overlay_alpha"] for choice in ledger.choices}
    values = [trial.results[METRIC] for trial in ledger.trials if trial.results and alpha[trial.choice] == 0.1]
    line = next(trace for trace in told["plots"][1]["data"] if "error_y" in trace)
    place = line["x"].index(0.1)
    assert line["y"][place] == pytest.approx(sum(values) / len(values), rel=1e-4)
    assert line["error_y"]["array"][place] > 0
    other = as_user("vic", "viewer").get("/sweeps/alphas/plots", params={"metric": "knn/top1_test"}).json()
    assert other["metric"] == "knn/top1_test"
    assert other["plots"][1]["layout"]["uirevision"] != told["plots"][1]["layout"]["uirevision"]


def test_curves_are_of_the_best_trials_until_others_are_chosen(filled: Filled, as_user: Any) -> None:
    vic = as_user("vic", "viewer")
    best = vic.get("/sweeps/alphas/curves").json()
    assert len(best["plots"][0]["data"]) == 5
    assert best["metric"] == "pretrain/knn_top1_val"
    trial = next(each for each in load_ledger(filled.storage.ledger_url, "alphas").trials if each.state == "PRUNED")
    told = vic.get("/sweeps/alphas/curves", params={"trial": trial.trial_id, "metric": "pretrain/loss"}).json()
    assert [len(trace["y"]) for trace in told["plots"][0]["data"]] == [4]
    assert vic.get("/sweeps/alphas/curves", params={"trial": "../../x"}).status_code == 422


def test_links_lead_to_the_right_experiment_run_and_job(filled: Filled, as_user: Any) -> None:
    from ssl_sweep.tracking.store import connect, parent_run, trial_run

    vic, uri = as_user("vic", "viewer"), filled.storage.tracking_uri
    client = connect(uri)
    experiment = parent_run(client, "alphas", uri).info.experiment_id
    led = vic.get("/sweeps/alphas/mlflow", follow_redirects=False)
    assert (led.status_code, led.headers["location"]) == (303, f"http://mlflow.lab:5000/#/experiments/{experiment}")
    trial = load_ledger(filled.storage.ledger_url, "alphas").trials[3].trial_id
    run = vic.get("/sweeps/alphas/mlflow", params={"trial": trial}, follow_redirects=False).headers["location"]
    assert run == f"http://mlflow.lab:5000/#/experiments/{experiment}/runs/{trial_run(client, 'alphas', trial, uri)}"
    assert "http://ray.lab:8265/#/jobs/ssl-sweep-alphas-1" in vic.get("/sweeps/alphas/head").text


def test_settings_that_differ_are_told_apart(filled: Filled, as_user: Any) -> None:
    if filled.store.get("wider") is None:
        filled.submit("wider", encoder={"name": "resnet18", "width": 32}, search={**SPEC["search"], "trials": 3})
    text = as_user("vic", "viewer").get("/compare?sweep=alphas&sweep=wider").text
    rows = re.findall(r"<code>([\w.]+)</code></th><td[^>]*>(\w+)</td><td[^>]*>(\w+)</td>", text)
    assert ("encoder.width", "64", "32") in rows
    assert ("search.trials", "12", "3") in rows
    assert not [row for row in rows if row[1] == row[2]]
    assert as_user("vic", "viewer").get("/compare?sweep=" + "&sweep=".join(["alphas"] * 13)).status_code == 422


def test_the_table_is_made_of_mlflow_and_a_long_one_is_cut(filled: Filled, as_user: Any) -> None:
    text = as_user("vic", "viewer").get("/sweeps/alphas/table").text
    choices = load_ledger(filled.storage.ledger_url, "alphas").choices
    body = text.partition("<tbody>")[2].partition("</tbody>")[0]
    assert body.count("<tr>") == len({choice.knobs["views.overlay_alpha"] for choice in choices})


# what is not new, and what is away


def test_what_has_not_changed_is_neither_read_nor_sent_again(
    filled: Filled, as_user: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    vic = as_user("vic", "viewer")
    tags = {path: vic.get(path).headers["etag"] for path in PARTS}
    monkeypatch.setattr(snapshots, "read_ledger", lambda *_: pytest.fail("the ledger was read again"))
    for path, tag in tags.items():
        again = vic.get(path, headers={"If-None-Match": tag})
        assert (again.status_code, again.content) == (304, b""), path


def test_a_change_that_the_loop_saw_is_seen(filled: Filled) -> None:
    kept = Snapshots()
    first = kept.of(filled.dispatcher, filled.now("alphas"))
    assert kept.of(filled.dispatcher, filled.now("alphas")) is first
    kept._entries["alphas"].seconds = 0.0
    moved = replace(filled.now("alphas"), counts={"complete": 99})
    assert kept.of(filled.dispatcher, moved) is not first


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("/sweeps/nothing", 404, "no sweep named 'nothing' was submitted here".replace("'", "&#39;")),
        ("/sweeps/-x", 422, "Check the address"),
        ("/nothing", 404, "Not found"),
        ("/compare", 422, "Check the address"),
        ("/sweeps/mine/mlflow", 409, "no sweep"),
    ],
)
def test_what_is_wrong_is_told_on_a_page(filled: Filled, as_user: Any, path: str, status: int, said: str) -> None:
    if filled.store.get("mine") is None:
        filled.submit("mine", "ann")
    answer = as_user("ann").get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "text/html; charset=utf-8")
    assert said in answer.text
    assert "Traceback" not in answer.text
    assert "message" in as_user("ann").get(path, headers={"Accept": "application/json"}).json()


def test_what_is_away_is_told_with_what_to_do(filled: Filled, as_user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def away(*_: Any, **__: Any) -> Any:
        raise LedgerUnreachableError("the ledger at postgresql://lab cannot be reached")

    def mistake(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("a secret")

    ann = as_user("ann")
    monkeypatch.setattr(snapshots, "read_ledger", away)
    filled.app.state.snapshots = Snapshots()
    assert ann.get("/sweeps/alphas").status_code == 200  # its head is the service's own
    part = ann.get("/sweeps/alphas/trials", headers={"Accept": "*/*"})
    assert (part.status_code, part.json()["message"]) == (503, "the ledger at postgresql://lab cannot be reached")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nobody listens there
    mlflow = ann.get("/sweeps/alphas/mlflow")
    assert (mlflow.status_code, "MLflow does not answer" in mlflow.text) == (503, True)
    monkeypatch.setattr(filled.store, "get", mistake)
    broken = ann.get("/sweeps/alphas")
    assert (broken.status_code, "secret" in broken.text, "That did not work" in broken.text) == (500, False, True)
    gone = OperationalError("SELECT", {}, ConnectionError("closed"))
    monkeypatch.setattr(filled.store, "user_of", lambda _: (_ for _ in ()).throw(gone))
    page = ann.get("/")
    assert (page.status_code, "Sweeps continue. Load the page again" in page.text) == (503, True)


def test_the_api_knows_nothing_of_the_board(as_user: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(write_endpoints, "spec_checks", RateLimiter(per_second=100, burst=1000))
    paths = as_user(None).get("/openapi.json").json()["paths"]
    assert all(path.startswith("/api/") for path in paths)
    assert as_user("ann").get("/api/v1/sweeps/nothing").headers["content-type"] == "application/json"


def test_a_journal_that_cannot_be_read_is_one_trials_trouble(tmp_path: Path) -> None:
    here = Filled(tmp_path, trust_local=True)
    here.submit("broken", search={**SPEC["search"], "space": {"views.overlay_alpha": [0.0]}, "trials": 1, "seeds": 1})
    here.run("broken", "RUNNING")
    trial = load_ledger(here.storage.ledger_url, "broken").trials[0]
    with (here.storage.trial("broken", trial.trial_id) / "journal.jsonl").open("a") as file:
        file.write("no JSON\n")
    client = TestClient(here.app, "http://127.0.0.1:8300", client=("127.0.0.1", 5))
    assert client.get("/sweeps/broken/trials").text.count("<tr>") == 2
    answer = client.get("/sweeps/broken/curves")
    assert (answer.status_code, "not a line of JSON" in answer.json()["message"]) == (409, True)
