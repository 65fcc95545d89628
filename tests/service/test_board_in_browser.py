"""The board in a real browser, on a real service whose sweeps are made up: what people see, click and type."""

import re
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import uvicorn
from board_data import METRIC, Filled
from servers import eventually, free_port

from ssl_sweep.ledger.open import load_ledger

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")
NASTY = '<script>got = 1</script> & <b>bold</b> {{ 7 * 7 }} $x$ <img src=x onerror="got = 1">'
CHOICES, SEEDS = 100, 50


class Served(NamedTuple):
    """A service that listens, and a token of each user."""

    filled: Filled
    url: str
    tokens: dict[str, str]


class Opened(NamedTuple):
    """A tab, what its console said, and whom it asked."""

    tab: Any
    console: list[str]
    hosts: set[str]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Served]:
    root = tmp_path_factory.mktemp("board")
    (root / "mlflow.db").write_bytes(empty_store.read_bytes())
    filled = Filled(root)
    filled.submit("alphas", description="How much of a second image an autoencoder takes")
    filled.run("alphas", mlflow=True)
    filled.submit("running", description=NASTY, reason=NASTY)
    filled.run("running", "RUNNING", failure=(NASTY, NASTY))
    filled.submit("waiting", "bob", reason="waits for resources: a trial needs 2 CPUs and 0.5 GPUs")
    filled.fill("many", CHOICES, SEEDS)
    tokens = {name: filled.store.create_token(name, role)[0] for name, role in
              {"ann": "submitter", "vic": "viewer", "root": "admin"}.items()}  # fmt: skip
    port = free_port()
    server = uvicorn.Server(uvicorn.Config(filled.app, "127.0.0.1", port, log_level="critical", lifespan="off"))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    assert eventually(lambda: server.started)
    yield Served(filled, f"http://127.0.0.1:{port}", tokens)
    server.should_exit = True
    thread.join()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM)
        yield started
        started.close()


@pytest.fixture(scope="module")
def context_of(browser: Any, served: Served) -> Iterator[Any]:
    """A browser of a user, who has signed in; the same for the same user and options: it has the scripts already."""
    made: dict[str, Any] = {}

    def of(user: str | None, **options: Any) -> Any:
        key = f"{user} {options}"
        if key not in made:
            made[key] = browser.new_context(viewport={"width": options.pop("width"), "height": 900}, **options)
            if user:
                cookie = {"name": "ssl_sweep_token", "value": served.tokens[user], "url": served.url}
                made[key].add_cookies([{**cookie, "httpOnly": True, "sameSite": "Strict"}])
        return made[key]

    yield of
    for context in made.values():
        context.close()


@pytest.fixture
def board(context_of: Any, served: Served) -> Iterator[Any]:
    """Opens a page of the board as a user, and looks at it four times a second: `board("/", "ann")`.

    What its console says must be `expected`, and it may ask nobody but the service.
    """
    opened: list[Opened] = []

    def to(path: str, user: str | None = "ann", expects: str = "never", width: int = 1280, **options: Any) -> Any:
        page = Opened(context_of(user, width=width, **options).new_page(), [], set())
        opened.append(page)
        page.tab.on("console", lambda message: expects in message.text or page.console.append(message.text))
        page.tab.on("pageerror", lambda error: page.console.append(str(error)))
        page.tab.on("dialog", lambda dialog: page.console.append(f"dialog: {dialog.message}"))
        page.tab.on("request", lambda request: page.hosts.add(re.sub(r"(//[^/]*).*", r"\1", request.url)))
        page.tab.goto(served.url + path)
        page.tab.evaluate("for (const each of Object.values(Board.sources)) each.every = 250")
        return page.tab

    yield to
    for page in opened:
        page.tab.close()
        assert page.console == []
        assert page.hosts <= {served.url, "data:,"}


def until(tab: Any, holds: str, given: Any = None, timeout_s: float = 30) -> None:
    """Wait until something holds; Playwright's own waiting evaluates texts in the page, which its policy forbids."""
    deadline = time.monotonic() + timeout_s
    while not tab.evaluate(holds, given):
        assert time.monotonic() < deadline, (holds, given)
        tab.wait_for_timeout(50)


def drawn(tab: Any, section: str = "best") -> None:
    until(tab, f"!!document.querySelector('[data-section={section}] .main-svg')")


def says(tab: Any, selector: str, text: str) -> None:
    """Wait until an element has this text."""
    has = "([selector, text]) => (document.querySelector(selector)?.innerText ?? '').includes(text)"
    until(tab, has, [selector, text])


def rows(tab: Any, table: str, number: int) -> None:
    """Wait until a table has so many rows."""
    has = "([table, number]) => document.querySelectorAll(`${table} tbody tr`).length === number"
    until(tab, has, [table, number])


def heads(tab: Any) -> list[str]:
    return [each.strip(" ▴▾") for each in tab.locator(".trials thead th").all_inner_texts()]


def column(tab: Any, title: str) -> list[str]:
    place = heads(tab).index(title) + 1
    texts: list[str] = tab.locator(f".trials tbody td:nth-child({place})").all_inner_texts()
    return texts


def luminance(color: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2)."""
    channels = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(tab: Any, selector: str) -> float:
    ink, paper = (
        luminance(tab.eval_on_selector(place, f"node => getComputedStyle(node).{name}"))
        for place, name in ((selector, "color"), ("body", "backgroundColor"))
    )
    return (max(ink, paper) + 0.05) / (min(ink, paper) + 0.05)


def test_one_signs_in_with_a_token_and_out_again(board: Any, served: Served) -> None:
    tab = board("/sweeps/alphas", user=None, expects="401")
    assert tab.evaluate("document.activeElement === document.body")
    tab.get_by_label("Token").fill(served.tokens["vic"])
    tab.keyboard.press("Enter")
    tab.wait_for_selector("#head .states")
    assert tab.locator("h1").inner_text() == "alphas"
    assert tab.locator(".who").inner_text() == "vic viewer"
    assert served.tokens["vic"] not in tab.evaluate("document.cookie")
    tab.get_by_role("button", name="Sign out").click()
    tab.wait_for_url("**/sign-in")
    tab.goto(f"{served.url}/sweeps/alphas")
    assert tab.get_by_label("Token").is_visible()


def test_sweeps_with_progress_queue_and_cluster(board: Any) -> None:
    tab = board("/")
    tab.wait_for_selector("table.sweeps")
    text = " ".join(tab.locator("#list").inner_text().split())
    assert "GPUS 2 of 8 in use" in text
    assert "no. 1 in the queue waits for resources" in text
    assert "24 of 24 done, 2 pruned, 2 failed" in text
    assert "4 running" in text
    assert "5000 of 5000 done" in text
    tab.get_by_label("Name or owner").fill("bob")
    rows(tab, "table.sweeps", 1)
    assert tab.url.endswith("?text=bob")
    tab.reload()
    tab.wait_for_selector("table.sweeps")
    assert tab.get_by_label("Name or owner").input_value() == "bob"
    assert tab.locator("table.sweeps tbody tr").count() == 1
    tab.get_by_label("Name or owner").fill("")
    tab.get_by_label("State").select_option("waiting")
    rows(tab, "table.sweeps", 1)


def test_a_change_is_shown_and_said_without_a_reload(board: Any, served: Served) -> None:
    tab = board("/sweeps/waiting")
    tab.wait_for_selector("#head .line")
    assert "no. 1 in the queue" in tab.locator("#head").inner_text()
    served.filled.store.change(served.filled.now("waiting"), state="PAUSED", reason="as requested")
    says(tab, "#head", "paused")
    assert tab.locator("#status").inner_text().startswith("waiting is paused")
    served.filled.store.change(served.filled.now("waiting"), state="QUEUED", reason="waits for resources")


def test_everything_of_a_sweep_is_drawn(board: Any, served: Served) -> None:
    tab = board("/sweeps/alphas")
    for section in ("best", "knobs", "together", "curves"):
        drawn(tab, section)
    assert tab.locator("[data-section=knobs] .plot").count() == 3
    bars = "nodes => nodes.flatMap(node => node.data).flatMap(trace => trace.error_y?.array ?? [])"
    assert max(tab.eval_on_selector_all("[data-section=knobs] .plot", bars)) > 0
    empty = "nodes => nodes.filter(node => !node.querySelector('.trace')).map(node => node.id)"
    assert tab.eval_on_selector_all(".plot", empty) == []
    best = tab.evaluate("Math.max(...document.getElementById('best-0').data[1].y)")
    ledger = load_ledger(served.filled.storage.ledger_url, "alphas")
    means = [mean[0] for choice in ledger.choices if (mean := choice.means([METRIC])) is not None]
    assert best == pytest.approx(max(means), rel=1e-4)  # of the choices with all seeds, not of the luckiest trial
    assert "mean of 2 seeds" in tab.locator("#best").inner_text()
    told = tab.locator("#failures").inner_text()
    assert "2 failed: oom" in told
    assert "pruned at epoch 4" in told
    words = "node => document.getElementById(node.getAttribute('aria-describedby')).textContent"
    described = f"nodes => nodes.filter(node => !({words})(node)).length"
    assert tab.eval_on_selector_all(".plot", described) == 0
    tab.get_by_label("Metric").first.select_option("knn/top1_test")
    until(tab, "document.getElementById('best-0-title').textContent.includes('(test)')")
    says(tab, ".trials thead", "(test)")


def test_no_button_of_a_plot_sends_its_data_anywhere(board: Any, served: Served) -> None:
    tab = board("/sweeps/alphas")
    for section in ("best", "knobs", "together", "curves"):
        drawn(tab, section)
    buttons = tab.locator(".plot .modebar-btn")
    titles = set(buttons.evaluate_all("nodes => nodes.map(node => node.dataset.title)"))
    assert titles == {"Download plot", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    clicked = buttons.evaluate_all("nodes => nodes.map(node => node.dispatchEvent(new MouseEvent('click'))).length")
    assert clicked > len(titles)
    tab.wait_for_timeout(500)
    assert tab.locator("[class*=plotly-cloud]").count() == 0
    assert [url for url in asked if not url.startswith((served.url, f"blob:{served.url}", "data:"))] == []
    assert len(tab.context.pages) == 1


def test_a_zoom_stays_when_plots_are_drawn_again(board: Any) -> None:
    tab = board("/sweeps/running")
    drawn(tab)
    place = tab.locator("#best-0 .nsewdrag").bounding_box()
    tab.mouse.move(place["x"] + 100, place["y"] + 50)
    tab.mouse.down()
    tab.mouse.move(place["x"] + 300, place["y"] + 52, steps=5)
    tab.mouse.up()
    axis = "document.getElementById('best-0').layout.xaxis.range"
    until(tab, f"{axis} && {axis}[0] > 0.1")
    zoomed = tab.evaluate(axis)
    tab.evaluate("Board.sources.drawn.draw()")
    tab.wait_for_timeout(300)
    assert tab.evaluate("document.getElementById('best-0')._fullLayout.xaxis.range") == zoomed


def test_learning_curves_are_of_the_trials_that_are_chosen(board: Any) -> None:
    tab = board("/sweeps/alphas")
    drawn(tab, "curves")
    assert tab.evaluate("document.getElementById('curves-0').data.length") == 5
    for number in (2, 5):
        tab.locator(".trials tbody tr").nth(number).get_by_role("checkbox").check()
    until(tab, "document.getElementById('curves-0').data.length === 2")
    assert tab.locator("#chosen").inner_text() == "Of 2 selected trials."
    tab.locator("#curves").get_by_label("Metric").select_option("pretrain/loss")
    until(tab, "document.getElementById('curves-0-title').textContent === 'pretrain loss by epoch'")
    tab.locator("#sort-1").click()
    tab.wait_for_selector("th[aria-sort=descending]")
    assert tab.locator(".trials input:checked").count() == 2  # wherever they stand now
    tab.get_by_role("button", name="Show the best instead").click()
    until(tab, "document.getElementById('curves-0').data.length === 5")


def test_five_thousand_trials_are_a_page_of_fifty(board: Any, served: Served) -> None:
    tab = board("/sweeps/many")
    tab.wait_for_selector(".trials")
    drawn(tab)
    assert "of 5,000" in tab.locator("#trials .pager").inner_text()
    assert tab.locator(".trials tbody tr").count() == 50
    assert tab.evaluate("document.getElementsByTagName('*').length") < 6000
    sort = tab.get_by_role("button", name="knn top1 (val), %")
    sort.click()
    tab.wait_for_selector("th[aria-sort=ascending]:has-text('knn')")
    sort.click()
    tab.wait_for_selector("th[aria-sort=descending]:has-text('knn')")
    best = [float(each) for each in column(tab, "knn top1 (val), %")]
    ledger = load_ledger(served.filled.storage.ledger_url, "many")
    expected = sorted((trial.results[METRIC] for trial in ledger.trials if trial.results), reverse=True)
    assert best == pytest.approx(expected[:50], abs=0.006)
    tab.get_by_role("button", name="Next").click()
    until(tab, "document.querySelector('#trials .pager').innerText.startsWith('51')")
    assert [float(each) for each in column(tab, "knn top1 (val), %")] == pytest.approx(expected[50:100], abs=0.006)
    assert tab.evaluate("document.activeElement.id") == "page-after"
    tab.get_by_label("Find").fill("choice=7 seed=3")
    says(tab, "#trials .pager", "found among 5,000")
    assert set(column(tab, "choice")) <= {str(number) for number in (7, *range(70, 80))}
    tab.locator("[data-for=trials] select").select_option("FAILED")
    says(tab, "#trials", "No trial matches.")


def test_names_and_messages_are_texts(board: Any) -> None:
    tab = board("/sweeps/running")
    drawn(tab, "together")
    assert tab.locator(".description").inner_text() == NASTY
    assert NASTY in tab.locator("#head").inner_text()
    assert NASTY[:40] in tab.locator("#failures pre").first.inner_text()
    assert NASTY[:40] in tab.locator("#trials").inner_text()
    tab.get_by_label("Find").fill(NASTY[:60])
    rows(tab, ".trials", 2)
    assert tab.evaluate("window.got === undefined")
    assert tab.locator("main script, main img").count() == 0


def test_buttons_ask_first_and_then_change_the_sweep(board: Any, served: Served) -> None:
    filled = served.filled
    if filled.store.get("mine") is None:
        filled.submit("mine")
    tab = board("/sweeps/mine", expects="409")
    tab.get_by_role("button", name="Pause").click()
    dialog = tab.get_by_role("dialog")
    assert dialog.inner_text().startswith("Pause mine?")
    assert tab.evaluate("document.activeElement.id") == "ask-no"
    tab.keyboard.press("Escape")
    assert not dialog.is_visible()
    assert tab.evaluate("document.activeElement.id") == "do-pause"
    assert filled.now("mine").state == "QUEUED"
    tab.keyboard.press("Enter")
    dialog.get_by_role("button", name="Pause").click()
    tab.wait_for_selector("#do-resume")
    assert filled.now("mine").state == "PAUSED"
    filled.store.change(filled.now("mine"), state="FAILED", counts={**filled.now("mine").counts, "failed": 3})
    tab.get_by_role("button", name="Retry failed").click()
    dialog.get_by_role("button", name="Retry failed").click()
    says(tab, "#head", "queued")
    assert filled.now("mine").command in (("resume", "--failed"), ("run",))
    tab.get_by_role("button", name="Stop").click()
    filled.store.change(filled.now("mine"), state="COMPLETE")  # meanwhile
    dialog.get_by_role("button", name="Stop").click()
    says(tab, "#ask-trouble", "there is nothing to stop")


def test_the_table_is_copied_as_latex(board: Any, served: Served) -> None:
    tab = board("/sweeps/alphas", permissions=["clipboard-read", "clipboard-write"])
    tab.locator("#table-title").scroll_into_view_if_needed()
    tab.wait_for_selector("table.ablation")
    assert "knn top1 (test)" in tab.locator("table.ablation thead").inner_text()
    tab.get_by_role("button", name="Copy as LaTeX").click()
    until(tab, "document.querySelector('#status').textContent === 'Copied.'")
    copied = tab.evaluate("navigator.clipboard.readText()")
    assert copied == tab.evaluate("fetch('/api/v1/table?sweep=alphas&format=tex').then(answer => answer.text())")
    assert copied.startswith("%") or "\\begin{table" in copied
    with tab.expect_download() as downloaded:
        tab.get_by_role("link", name="CSV").click()
    assert Path(downloaded.value.path()).read_text().startswith("views.overlay_alpha,metric,mean")


def test_sweeps_are_chosen_and_compared(board: Any) -> None:
    tab = board("/")
    tab.wait_for_selector("table.sweeps")
    button = tab.get_by_role("button", name="Compare selected sweeps")
    assert button.is_disabled()
    for name in ("alphas", "many"):
        tab.get_by_label(f"Compare {name}").check()
    tab.evaluate("Board.sources.list.tag = null; Board.sources.list.load()")
    tab.wait_for_timeout(300)
    button.click()
    tab.wait_for_url("**/compare?sweep=*")
    drawn(tab)
    assert {trace["name"] for trace in tab.evaluate("document.getElementById('best-0').data")} == {"alphas", "many"}
    cells = "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    assert ["search.trials", str(CHOICES), "12"] in tab.eval_on_selector_all(".settings tbody tr", cells)
    tab.get_by_label("Over").select_option("trials")
    until(tab, "document.getElementById('best-0').layout.xaxis.title.text === 'complete trials'")


def test_it_is_used_by_keys_and_heard(board: Any, served: Served) -> None:
    tab = board("/sweeps/alphas")
    tab.wait_for_selector(".trials")
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the content"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    tab.locator("#sort-4").focus()
    outline = tab.evaluate("getComputedStyle(document.activeElement).outlineStyle")
    assert outline == "solid"
    tab.keyboard.press("Enter")
    tab.wait_for_selector("th[aria-sort=ascending]:has-text('knn')")
    assert tab.evaluate("document.activeElement.id") == "sort-4"  # still, though the table is another
    tab.keyboard.press("Enter")
    tab.wait_for_selector("th[aria-sort=descending]:has-text('knn')")
    tab.locator(".trials tbody tr").first.get_by_role("checkbox").focus()
    tab.keyboard.press("Space")
    until(tab, "document.querySelector('#status').textContent === 'Of 1 selected trial.'")
    for path in ("/sweeps/alphas", "/", "/compare?sweep=alphas&sweep=many"):
        if path != "/sweeps/alphas":
            tab.goto(served.url + path)
            tab.wait_for_selector("table")
        assert tab.locator("h1").count() == 1
        assert tab.locator("table:not(:has(caption))").count() == 0
        unnamed = (
            "nodes => nodes.filter(n => !(n.labels && n.labels.length) && !n.ariaLabel && !n.textContent.trim()).length"
        )
        assert tab.eval_on_selector_all("input, select, button", unnamed) <= 1  # the dialog's, until it asks
        assert tab.locator("section:not([aria-labelledby]):not([aria-label])").count() == 0
        ids = tab.eval_on_selector_all("[id]:not(svg *)", "nodes => nodes.map(node => node.id)")
        assert len(ids) == len(set(ids))


def test_it_is_dark_where_that_is_liked_or_chosen(board: Any) -> None:
    tab = board("/sweeps/alphas", color_scheme="dark")
    drawn(tab)
    background = "getComputedStyle(document.body).backgroundColor"
    assert luminance(tab.evaluate(background)) < 0.05
    ink = "document.querySelector('#best-0 .xtick text').style.fill"
    assert luminance(tab.evaluate(ink)) > 0.5
    for selector in ("h1", ".links a", ".note", ".trials .sort", ".mark.failed", ".small", ".mark.pruned"):
        assert contrast(tab, selector) >= 4.5, selector
    tab.get_by_role("button", name="Switch to light colours").click()
    assert luminance(tab.evaluate(background)) > 0.9
    until(tab, f"/^rgb\\(2\\d,/.test({ink})")
    for selector in ("h1", ".links a", ".note", ".trials .sort", ".mark.failed", ".small", ".mark.pruned"):
        assert contrast(tab, selector) >= 4.5, selector
    tab.reload()
    assert luminance(tab.evaluate(background)) > 0.9  # it is remembered


def test_narrow_screens_scroll_one_way_only(board: Any, served: Served) -> None:
    tab = board("/", width=390)
    for path in ("/", "/sweeps/alphas", "/compare?sweep=alphas&sweep=many"):
        tab.goto(served.url + path)
        tab.wait_for_selector("table")
        if path != "/":
            drawn(tab)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 390
        heights = tab.evaluate("[...document.querySelectorAll('.brand, #theme')].map((each) => each.offsetHeight)")
        assert max(heights) < 40  # no word is broken in two


def test_what_is_away_is_said_and_comes_back(board: Any, served: Served) -> None:
    tab = board("/sweeps/alphas", expects="ERR_FAILED")
    tab.wait_for_selector(".trials")
    tab.route("**/sweeps/alphas/trials*", lambda route: route.abort())
    tab.get_by_label("Find").fill("adamw")
    says(tab, ".trouble:not([hidden])", "The service does not answer")
    assert tab.locator(".trials").is_visible()  # what was there
    tab.unroute("**/sweeps/alphas/trials*")
    says(tab, "#trials .pager", "found among")
    assert tab.locator(".trouble:visible").count() == 0
