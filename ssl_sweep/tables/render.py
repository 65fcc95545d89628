"""An ablation table as Markdown, LaTeX, CSV, JSON, HTML, or as a grid of texts for the console."""

import csv
import html
import io
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ssl_sweep.tables.grid import Grid, count, figure, grid, make_grid
from ssl_sweep.tables.labels import Key
from ssl_sweep.tables.latex import latex
from ssl_sweep.tables.table import Cell, Table

__all__ = ["FORMATS", "grid", "render"]

FIGURES = ("mean", "std", "n", "low", "high", "p", "published", "difference", "best", "collapsed")
CONFIRMED = ("mean", "std", "n", "p", "best", "collapsed")  # figures over fresh seeds


def render(table: Table, form: str, *, caption: str | None = None, label: str | None = None) -> str:
    """The table as md, tex, csv, json or html; caption and label are used where the format has a place for them."""
    if form not in FORMATS:
        raise ValueError(f"format {form!r} is not known; use one of {', '.join(FORMATS)}")
    return FORMATS[form](table, caption, label)


def _markdown(table: Table, caption: str | None, label: str | None) -> str:
    def cell_text(cell: Cell, decimals: int) -> str:
        shown = figure(cell, decimals, bold="**{}**" if cell.best else "{}")
        return f"{shown}{_escaped_markdown(cell.mark)} {count(cell)}"

    texts = make_grid(table, _escaped_markdown, cell_text)
    widths = [max(3, *map(len, column)) for column in zip(texts.full_headers, *texts.lines, strict=True)]
    rules = [f"{'-' * (width - 1)}{':' if right else '-'}" for width, right in zip(widths, texts.numeric, strict=True)]
    aligned = [
        [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, texts.numeric, strict=True)
        ]
        for line in (texts.full_headers, *texts.lines)
    ]
    lines = [f"| {' | '.join(line)} |" for line in (aligned[0], rules, *aligned[1:])]
    notes = [f"- {_escaped_markdown(note)}" for note in table.notes]
    return "\n".join([*lines, *(["", *notes] if notes else [])]) + "\n"


def _escaped_markdown(text: str) -> str:
    text = html.escape(" ".join(text.split()), quote=False)
    text = re.sub(r"([\\`*{}\[\]|~#$!])", r"\\\1", text)
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # an underscore between letters is no markup


def _csv(table: Table, caption: str | None, label: str | None) -> str:
    """One line for each row and metric, for pandas or R: full names, full precision, unknown values empty."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    confirmed = [f"confirmed_{figure}" for figure in CONFIRMED]
    data = ["data"] if table.data else []
    writer.writerow([*table.rows, "metric", *data, *FIGURES, *confirmed, "change", *_flags(table)])
    for row in table.body:
        flags = [row.key in keys for keys in _flags(table).values()]
        for index, (name, cell) in enumerate(zip(table.columns, row.cells, strict=True)):
            figures = [getattr(cell, figure) for figure in FIGURES]
            figures += [getattr(cell.confirmed, figure, None) for figure in CONFIRMED]
            writer.writerow([*row.key, name, *table.data[index : index + 1], *figures, cell.change, *flags])
    return out.getvalue()


def _flags(table: Table) -> dict[str, frozenset[Key]]:
    """The rows that have a sign, by its meaning, where a table has such signs."""
    flags = {"front": table.front, "selected": table.selected or None}
    return {name: keys for name, keys in flags.items() if keys is not None}


def _json(table: Table, caption: str | None, label: str | None) -> str:
    """`rows`, an object for each row with its knobs, and by column the fields of its cell; and `notes`."""
    rows: list[dict[str, Any]] = [
        dict(zip(table.rows, row.key, strict=True))
        | {name: row.key in keys for name, keys in _flags(table).items()}
        | {
            name: {**asdict(cell), "difference": cell.difference, "change": cell.change}
            for name, cell in zip(table.column_names, row.cells, strict=True)
        }
        for row in table.body
    ]
    return json.dumps({"rows": rows, "notes": table.notes}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _html(table: Table, caption: str | None, label: str | None) -> str:
    """A table element without style sheet or script, in ASCII: it fits into any page."""

    def cell_text(cell: Cell, decimals: int) -> str:
        mark = f"<sup>{cell.mark}</sup>" if cell.mark else ""
        return f"{figure(cell, decimals, bold='<strong>{}</strong>' if cell.best else '{}')}{mark} {count(cell)}"

    def line(tag: str, texts: tuple[str, ...]) -> str:
        cells = zip(texts, shown.numeric, strict=True)
        return "".join(
            f'<{tag} style="text-align:{"right" if right else "left"}">{text}</{tag}>' for text, right in cells
        )

    shown = make_grid(table, html.escape, cell_text)
    headers = tuple(text.replace("_", "_<wbr>") for text in shown.headers)  # a long name may take several lines
    body = "\n".join(f"<tr>{line('td', texts)}</tr>" for texts in shown.lines)
    parts = [
        '<table class="ablation">',
        f"<caption>{html.escape(caption)}</caption>" if caption else "",
        f"<thead>\n{_html_spans(shown)}<tr>{line('th', headers)}</tr>\n</thead>",
        f"<tbody>\n{body}\n</tbody>",
        *_html_notes(table, len(shown.headers)),
        "</table>",
    ]
    return "\n".join(filter(None, parts)).encode("ascii", "xmlcharrefreplace").decode() + "\n"


def _html_spans(shown: Grid) -> str:
    """The line over the headers that names the data sets, where there are several."""
    cells = "".join(f'<th colspan="{width}" scope="colgroup">{label}</th>' for label, width in shown.spans)
    return f"<tr>{cells}</tr>\n" if cells else ""


def _html_notes(table: Table, width: int) -> list[str]:
    notes = [f'<tr><td colspan="{width}"><small>{html.escape(note)}</small></td></tr>' for note in table.notes]
    return ["<tfoot>", *notes, "</tfoot>"] if notes else []


FORMATS: dict[str, Callable[[Table, str | None, str | None], str]] = {
    "md": _markdown,
    "tex": latex,
    "csv": _csv,
    "json": _json,
    "html": _html,
}
