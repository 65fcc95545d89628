"""The page in a real browser: what it shows, and that it asks nobody for anything."""

import shutil
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ssl_sweep.report.page import make_page
from ssl_sweep.tables.options import table_of
from ssl_sweep.tables.render import grid

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium or Chrome on the PATH")
NASTY = '<script>alert("1")</script> & <b>bold</b> {{ 7 * 7 }} $x$ "quoted" é 漢'
BUTTONS = {"Download plot", "Zoom", "Pan", "Zoom in", "Zoom out", "Reset axes"}


class Opened(NamedTuple):
    """A page in a browser tab, and what the browser noted of it."""

    tab: Any
    console: list[str]
    requests: list[str]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM)
        yield started
        started.close()


@pytest.fixture(scope="module")
def page_file(full: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("page") / "demo.html"
    path.write_text(make_page(full.name, full.uri), encoding="utf-8")
    return path


def open_page(browser: Any, path: Path, width: int = 1400, **options: Any) -> Opened:
    """The page with its plots drawn."""
    tab = browser.new_context(viewport={"width": width, "height": 900}, **options).new_page()
    opened = Opened(tab, [], [])
    tab.on("console", lambda message: opened.console.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: opened.console.append(str(error)))
    tab.on("dialog", lambda dialog: opened.console.append(f"dialog: {dialog.message}"))
    tab.on("request", lambda request: opened.requests.append(request.url))
    tab.goto(path.as_uri())
    if options.get("java_script_enabled", True):
        tab.wait_for_selector("html[data-drawn]", timeout=120_000)
    return opened


@pytest.fixture
def opened(browser: Any, page_file: Path) -> Iterator[Opened]:
    page = open_page(browser, page_file)
    yield page
    page.tab.context.close()


def luminance(color: str) -> float:
    """Relative luminance of `rgb(r, g, b)` (WCAG 2)."""
    channels = [int(part) / 255 for part in color.removeprefix("rgb(").removesuffix(")").split(",")]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def style(tab: Any, selector: str, name: str) -> str:
    value: str = tab.eval_on_selector(selector, f"node => getComputedStyle(node)['{name}']")
    return value


def test_it_is_drawn_without_a_word_on_the_console_or_to_the_network(opened: Opened, page_file: Path) -> None:
    assert opened.console == []
    assert opened.requests == [page_file.as_uri()]
    assert opened.tab.locator(".plot").count() >= 12
    empty = "nodes => nodes.filter(node => !node.querySelector('.trace, .bars')).map(node => node.id)"
    assert opened.tab.eval_on_selector_all(".plot", empty) == []
    broken = "nodes => nodes.filter(node => !node.complete || !node.naturalWidth).length"
    assert opened.tab.eval_on_selector_all("img", broken) == 0


def test_no_button_of_a_plot_sends_its_data_anywhere(opened: Opened, page_file: Path) -> None:
    buttons = opened.tab.locator(".plot .modebar-btn")
    titles = set(buttons.evaluate_all("nodes => nodes.map(node => node.dataset.title)"))
    assert titles == BUTTONS
    for number in range(buttons.count()):
        buttons.nth(number).dispatch_event("click")
    opened.tab.wait_for_timeout(500)
    assert opened.tab.locator("[class*=plotly-cloud]").count() == 0
    assert [url for url in opened.requests if not url.startswith(("blob:", "data:"))] == [page_file.as_uri()]
    assert len(opened.tab.context.pages) == 1


def test_its_numbers_are_the_tables(opened: Opened, full: Any) -> None:
    table = table_of({full.name: full.uri})
    cells = "rows => rows.map(row => [...row.cells].map(cell => cell.textContent))"
    assert opened.tab.eval_on_selector_all("table.ablation tbody tr", cells) == [
        list(line) for line in grid(table).lines
    ]
    assert opened.tab.locator("ul.notes li").all_inner_texts() == list(table.notes)
    assert opened.tab.locator("table.ablation caption").inner_text() == "demo by overlay_alpha; all figures in %"
    # the first plot is of the table's only row knob, by the table's first column
    drawn = opened.tab.evaluate(
        "[...document.getElementById('plot-0').data].map(trace => [trace.name, trace.x, trace.y])"
    )
    by_name = {name: (x, y) for name, x, y in drawn}
    x, y = by_name["this sweep"]
    assert x == [row.key[0] for row in table.body]
    assert y == pytest.approx([row.cells[0].mean for row in table.body], rel=1e-4)
    published = [(row.key[0], row.cells[0].published) for row in table.body if row.cells[0].published is not None]
    assert list(zip(*by_name["published"], strict=True)) == published
    figures = opened.tab.locator("ul.states").inner_text()
    assert opened.tab.locator("#together ~ .warning").inner_text().endswith("shares are uncertain.")
    assert [" ".join(line.split()) for line in figures.splitlines()] == [
        "✓ 22 complete", "◐ 2 running", "✂ 2 pruned", "✕ 2 failed",
    ]  # fmt: skip


def test_names_and_messages_are_texts(opened: Opened) -> None:
    assert opened.tab.locator(".description").inner_text() == NASTY
    assert NASTY in opened.tab.locator(".best").inner_text()
    assert opened.tab.locator(".failure .message").inner_text() == NASTY
    opened.tab.locator("details", has_text="Spec").locator("summary").click()
    assert "7 * 7" in opened.tab.locator("details pre").first.inner_text()
    hovered = opened.tab.evaluate("document.querySelector('#together ~ .plots .plot').data.at(-1).text[0]")
    assert "&lt;script&gt;" in hovered  # as plotly wants it
    shown = opened.tab.evaluate("[...document.querySelectorAll('.xtick text')].map(node => node.textContent)")
    assert '<script>alert("1"…' in shown
    assert opened.tab.locator("main b, main script").count() == 0


def test_a_script_that_got_in_would_not_run(opened: Opened) -> None:
    opened.tab.evaluate(
        "() => { const node = document.createElement('script'); node.textContent = 'got = 1';"
        " document.body.append(node);"
        " document.body.insertAdjacentHTML('beforeend', '<img src=x onerror=\"got = 1\">'); }"
    )
    opened.tab.wait_for_timeout(200)
    assert opened.tab.evaluate("window.got === undefined")
    assert "Content Security Policy" in opened.console[0]


@pytest.mark.parametrize("width", [400, 1400])
def test_nothing_is_wider_than_the_window(browser: Any, page_file: Path, width: int) -> None:
    tab = open_page(browser, page_file, width).tab
    tab.evaluate("document.querySelectorAll('details').forEach(node => { node.open = true; })")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    boxes = "nodes => nodes.map(node => node.getBoundingClientRect()).map(box => [box.left, box.right, box.width])"
    for left, right, size in tab.eval_on_selector_all(".plot .main-svg, img, pre, h2", boxes):
        assert left >= 0
        assert right <= width
        assert size > 0
    tab.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_both_schemes_can_be_read(browser: Any, page_file: Path, scheme: str) -> None:
    opened = open_page(browser, page_file, color_scheme=scheme)
    tab, paper = opened.tab, style(opened.tab, "body", "backgroundColor")
    assert (luminance(paper) > 0.5) == (scheme == "light")
    for selector in ("body", ".note", "figcaption", "a[href]", ".state.failed", ".state.complete", "dt"):
        assert contrast(style(tab, selector, "color"), paper) >= 4.5, selector
    assert contrast(style(tab, ".plot .xtick text", "fill"), paper) >= 4.5
    lines = tab.eval_on_selector_all("#plot-0 .lines path", "nodes => nodes.map(node => getComputedStyle(node).stroke)")
    assert lines
    assert all(contrast(line, paper) >= 3 for line in lines)
    assert opened.console == []
    tab.context.close()


def test_plots_follow_a_change_of_the_scheme(browser: Any, page_file: Path) -> None:
    tab = open_page(browser, page_file, color_scheme="light").tab
    before = style(tab, ".plot .xtick text", "fill")
    tab.emulate_media(color_scheme="dark")
    tab.wait_for_function(
        "before => getComputedStyle(document.querySelector('.plot .xtick text')).fill !== before", arg=before
    )
    assert luminance(style(tab, ".plot .xtick text", "fill")) > 0.5
    tab.context.close()


def test_it_prints_in_the_light_scheme_within_the_sheet(browser: Any, page_file: Path) -> None:
    opened = open_page(browser, page_file, color_scheme="dark")
    printed = opened.tab.pdf(format="A4")
    assert printed.startswith(b"%PDF-")
    assert 4 <= printed.count(b"/Type /Page\n") <= 20
    assert luminance(style(opened.tab, ".plot .xtick text", "fill")) > 0.5  # dark again
    opened.tab.emulate_media(media="print")
    opened.tab.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    widest = "Math.max(...[...document.querySelectorAll('.plot .main-svg')].map(node => node.clientWidth))"
    opened.tab.wait_for_function(f"{widest} <= 660")
    assert contrast(style(opened.tab, ".plot .xtick text", "fill"), "rgb(255,255,255)") >= 4.5
    assert style(opened.tab, "nav", "display") == "none"
    assert style(opened.tab, ".scroll", "overflow") == "visible"  # paper does not scroll
    assert opened.console == []
    opened.tab.context.close()


def test_it_can_be_heard_and_reached_by_keys(opened: Opened) -> None:
    tab = opened.tab
    assert tab.evaluate("document.documentElement.lang") == "en"
    assert tab.title() == "demo"
    levels = tab.eval_on_selector_all("h1, h2, h3", "nodes => nodes.map(node => Number(node.tagName[1]))")
    assert levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert tab.locator("img:not([alt]), img[alt='']").count() == 0
    assert tab.locator("table:not(:has(caption))").count() == 0
    assert tab.locator("section:not([aria-labelledby])").count() == 0
    described = (
        "nodes => nodes.filter(node => node.getAttribute('role') !== 'img' || !document.getElementById("
        "node.getAttribute('aria-labelledby')).textContent || !document.getElementById("
        "node.getAttribute('aria-describedby')).textContent).length"
    )
    assert tab.eval_on_selector_all(".plot", described) == 0
    ids = tab.eval_on_selector_all("body > * [id]:not(svg *)", "nodes => nodes.map(node => node.id)")
    assert len(ids) == len(set(ids))
    targets = "nodes => nodes.filter(node => !document.getElementById(node.hash.slice(1))).map(node => node.hash)"
    assert tab.eval_on_selector_all("a[href^='#']", targets) == []
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.textContent") == "Skip to the results"


def test_without_scripts_the_tables_and_pictures_are_there(browser: Any, page_file: Path) -> None:
    tab = open_page(browser, page_file, java_script_enabled=False).tab
    assert tab.locator("noscript p").is_visible()
    assert tab.locator("table.ablation").is_visible()
    assert tab.locator(".pictures img").first.is_visible()
    tab.context.close()


def _nothing(_: Any) -> None:
    """No trial has begun."""


def _running(sweep: Any) -> None:
    sweep.trial(0, 0, {"views.overlay_alpha": 0.0}, state=None, epochs=1)


def _failed(sweep: Any) -> None:
    for choice in range(3):
        sweep.trial(
            choice, 0, {"views.overlay_alpha": choice / 10}, state="FAILED", epochs=0, reason="oom", message="m"
        )


def _single(sweep: Any) -> None:
    sweep.trial(0, 0, {})


@pytest.mark.parametrize(
    ("fill", "search", "said"),
    [
        (_nothing, {}, ["no trials yet", "ssl-sweep resume demo"]),
        (_running, {}, ["1 running", "5 not begun", "ssl-sweep status demo --watch"]),
        (_failed, {}, ["3 failed", "3 × oom", "ssl-sweep resume demo"]),
        (_single, {"space": {}, "seeds": [0]}, ["1 complete", "the only one", "ssl-sweep table demo --format tex"]),
    ],
)
def test_there_is_a_page_of_whatever_there_is(
    browser: Any, write: Callable[..., Any], fill: Callable[[Any], None], search: dict[str, Any], said: list[str]
) -> None:
    base = {"space": {"views.overlay_alpha": [0.0, 0.1, 0.2]}, "seeds": [0, 1], "sampler": "grid",
            "objective": "maximize finetune/top1_val"}  # fmt: skip
    rows = ["views.overlay_alpha"] if not search else []
    sweep = write(search=base | search, table={"rows": rows, "columns": ["finetune/top1_test"], "published": {}})
    fill(sweep)
    sweep.deliver()
    path = sweep.folder / "page.html"
    path.write_text(make_page(sweep.name, sweep.uri), encoding="utf-8")
    opened = open_page(browser, path, 400)
    shown = " ".join(opened.tab.locator("body").inner_text().split())
    for text in said:
        assert text in shown
    assert opened.console == []
    assert opened.tab.evaluate("document.documentElement.scrollWidth") <= 400
    opened.tab.context.close()
