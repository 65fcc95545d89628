"""The page: its sections in one HTML file that loads nothing from the network."""

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from markupsafe import Markup

from ssl_sweep.knobs.best import best_first
from ssl_sweep.report import summary
from ssl_sweep.report.curves import ENDS, Curves, health_plots, learning_plots, read_curves
from ssl_sweep.report.figures import DASHES, Plot
from ssl_sweep.report.front import front_plot
from ssl_sweep.report.knob_plots import MAX_POINTS, has_intervals, interval_of, knob_plots
from ssl_sweep.report.pictures import Gallery, read_gallery
from ssl_sweep.report.relations import importance, parallel_coordinates
from ssl_sweep.report.sweep import Sweep, read_sweep
from ssl_sweep.tables.labels import display_name, duration, in_percent
from ssl_sweep.tables.pivot import pivot, scores_of
from ssl_sweep.tables.render import render
from ssl_sweep.tables.table import Table

HERE = Path(__file__).parent
MAX_ROWS = 60  # of the table
MAX_KNOBS, MAX_METRICS = 8, 4  # with plots
MAX_COLLAPSED = 20  # that are named
DASHARRAY = dict(zip(DASHES, ("none", "9 5", "2 4", "9 4 2 4", "14 5", "14 4 2 4", "5 2 1 2"), strict=True))
INTERVALS = {"t": "Student's t", "bootstrap": "bootstrap"}


def make_page(name: str, tracking_uri: str, is_driven: Callable[[str], bool] = lambda name: True) -> str:
    """The page of a sweep as HTML, also of an unfinished one. Raises NotTrackedError for an unknown sweep.

    is_driven: see `with_interrupted`.
    """
    sweep = read_sweep(name, tracking_uri, is_driven)
    return render_page(
        sweep,
        read_curves(sweep, tracking_uri),
        read_gallery(sweep, tracking_uri),
        summary.failures(sweep, tracking_uri),
    )


class _Plots:
    """The plots of the page by their HTML ids."""

    def __init__(self) -> None:
        self.by_id: dict[str, Plot] = {}

    def add(self, plots: Sequence[Plot]) -> dict[str, Plot]:
        added = {f"plot-{len(self.by_id) + index}": plot for index, plot in enumerate(plots)}
        self.by_id |= added
        return added


def render_page(sweep: Sweep, curves: Curves, gallery: Gallery | None, failures: Sequence[summary.Failure]) -> str:
    """Render the page from what was read."""
    plots = _Plots()
    context = {
        "sweep": sweep,
        "version": version("ssl-sweep"),
        **_head(sweep),
        **_results(sweep, plots),
        **_by_epoch(sweep, curves, plots),
        "gallery": gallery,
        "map": plots.add([gallery.map] if gallery and gallery.map else []),
        "failures": failures,
        "kinds_left_out": summary.kinds_left_out(sweep, len(failures)),
        "costs": summary.costs(sweep),
        "duration": duration,
        "dasharray": DASHARRAY,
        "plots": {key: {"data": plot.data, "layout": plot.layout} for key, plot in plots.by_id.items()},
    }
    return _template().render(context | _files())


def _head(sweep: Sweep) -> dict[str, Any]:
    return {
        "description": sweep.spec.get("description"),
        "spec": yaml.safe_dump(dict(sweep.spec), sort_keys=False, allow_unicode=True),
        "states": summary.states(sweep),
        "facts": summary.facts(sweep),
        "best": summary.best(sweep),
        "next": summary.next_step(sweep),
    }


def _results(sweep: Sweep, plots: _Plots) -> dict[str, Any]:
    """The table, plots of each knob, and plots of all knobs."""
    knobs, metrics = sweep.knobs[:MAX_KNOBS], sweep.columns[:MAX_METRICS]
    parallel, shares = parallel_coordinates(sweep), importance(sweep)
    table, by_knob = shown_rows(sweep), knob_plots(sweep, knobs, metrics)
    in_html = render(replace(table, notes=()), "html", caption=caption_of(sweep))  # the page lists the notes below
    left_out = [knob.name for knob in sweep.knobs[MAX_KNOBS:]]
    left_out += [display_name(name) for name in sweep.columns[MAX_METRICS:]]
    return {
        "table": Markup(in_html),  # noqa: S704 - render escapes
        "notes": table.notes,
        "front": plots.add([front] if (front := front_plot(sweep)) else []),
        "knob_plots": plots.add(by_knob),
        "interval": INTERVALS[interval_of(sweep)] if has_intervals(by_knob) else "",
        "left_out": ", ".join(left_out),
        "thinned": MAX_POINTS if any(len(knob.values) > MAX_POINTS for knob in knobs) else None,
        "parallel": plots.add([parallel] if parallel else []),
        "importance": plots.add([shares.plot] if shares.plot else []),
        "importance_note": shares.note,
        "importance_warning": shares.warning,
    }


def _by_epoch(sweep: Sweep, curves: Curves, plots: _Plots) -> dict[str, Any]:
    """Plots by epoch, and the trials that collapsed."""
    collapsed = summary.collapsed(sweep)
    return {
        "curves": curves,
        "learning": plots.add(learning_plots(sweep, curves)),
        "health": plots.add(health_plots(sweep, curves)),
        "ends": [end for state, end in ENDS.items() if state in set(curves.shown["state"])],
        "collapsed": collapsed[:MAX_COLLAPSED],
        "num_collapsed": len(collapsed),
        "objective": display_name(sweep.metric) if sweep.metric else "objective",
    }


def caption_of(sweep: Sweep) -> str:
    """The table's caption: sweep, row knobs and unit."""
    rows = ", ".join(display_name(row, sweep.table.rows) for row in sweep.table.rows)
    columns = list(dict.fromkeys(sweep.table.columns))  # several data sets have the same
    shares = [display_name(name) for name in columns if in_percent(name)]
    units = f"; in %: {', '.join(shares)}" if shares else ""
    units = "; all figures in %" if shares and len(shares) == len(columns) else units
    return sweep.name + (f" by {rows}" if rows else "") + units


def shown_rows(sweep: Sweep) -> Table:
    """The table; a long one is cut to the best rows by the objective, in the table's order."""
    table = sweep.table
    if len(table.body) <= MAX_ROWS or list(table.rows) != sweep.rows:  # a grouped table is short
        return table
    found = pivot(sweep.runs, table.rows, (), [sweep.metric], None)
    scores = scores_of(sweep.runs, sweep.metric, found.trials, found.fresh)
    kept = {*best_first(scores, sweep.sign)[:MAX_ROWS]} & {row.key for row in table.body}
    note = (
        f"{len(kept)} of {len(table.body)} rows, the best by {display_name(sweep.metric)}; "
        f"for all of them: ssl-sweep table {sweep.name}"
    )
    return replace(table, body=tuple(row for row in table.body if row.key in kept), notes=(note, *table.notes))


@cache
def _template() -> Template:
    environment = Environment(
        loader=FileSystemLoader(HERE), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.policies["json.dumps_kwargs"] = {"allow_nan": False, "separators": (",", ":")}
    return environment.get_template("page.html")


@cache
def _files() -> dict[str, str]:
    """Style sheet, scripts, and a policy by which a browser runs only these scripts and loads nothing."""
    from plotly.offline.offline import get_plotlyjs

    plotly = str(get_plotlyjs())  # type: ignore[no-untyped-call]
    script = "".join((HERE / name).read_text() for name in ("plots.js", "page.js"))
    light, dark, rest = ((HERE / name).read_text() for name in ("light.css", "dark.css", "page.css"))
    style = f"{light}@media screen and (prefers-color-scheme: dark) {{\n{dark}}}\n{rest}"
    policy = (
        "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; "
        f"script-src {_hash(plotly)} {_hash(script)}; base-uri 'none'; form-action 'none'"
    )
    ours = {"plotly": plotly, "script": script, "style": style, "policy": policy}
    return {name: Markup(text) for name, text in ours.items()}  # noqa: S704 - files of packages


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
