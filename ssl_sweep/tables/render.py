"""An ablation table as Markdown, LaTeX, CSV, JSON, HTML, or as a grid of texts for the console."""

import csv
import html
import io
import json
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from ssl_sweep.tables.grid import figure, grid, make_grid
from ssl_sweep.tables.latex import latex
from ssl_sweep.tables.table import Cell, Table

__all__ = ["FORMATS", "grid", "render"]

FIGURES = ("mean", "std", "n", "low", "high", "p", "published", "difference", "best")
CONFIRMED = ("mean", "std", "n", "best")  # figures over fresh seeds


def render(table: Table, form: str, *, caption: str | None = None, label: str | None = None) -> str:
    """The table as md, tex, csv, json or html; caption and label are used where the format has a place for them."""
    if form not in FORMATS:
        raise ValueError(f"format {form!r} is not known; use one of {', '.join(FORMATS)}")
    return FORMATS[form](table, caption, label)


def _markdown(table: Table, caption: str | None, label: str | None) -> str:
    def cell_text(cell: Cell, decimals: int) -> str:
        shown = figure(cell, decimals, bold="**{}**" if cell.best else "{}")
        return f"{shown}{_escaped_markdown(cell.mark)} ({cell.n})"

    texts = make_grid(table, _escaped_markdown, cell_text)
    widths = [max(3, *map(len, column)) for column in zip(texts.headers, *texts.lines, strict=True)]
    rules = [f"{'-' * (width - 1)}{':' if right else '-'}" for width, right in zip(widths, texts.numeric, strict=True)]
    aligned = [
        [
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(line, widths, texts.numeric, strict=True)
        ]
        for line in (texts.headers, *texts.lines)
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
    front = ["front"] if table.front is not None else []
    writer.writerow([*table.rows, "metric", *FIGURES, *confirmed, "change", *front])
    for row in table.body:
        for name, cell in zip(table.columns, row.cells, strict=True):
            figures = [getattr(cell, figure) for figure in FIGURES]
            figures += [getattr(cell.confirmed, figure, None) for figure in CONFIRMED]
            figures += [cell.change, *([row.key in table.front] if table.front is not None else [])]
            writer.writerow([*row.key, name, *figures])
    return out.getvalue()


def _json(table: Table, caption: str | None, label: str | None) -> str:
    """`rows`, an object for each row with its knobs, and by metric the fields of its cell; and `notes`."""
    rows: list[dict[str, Any]] = [
        dict(zip(table.rows, row.key, strict=True))
        | ({"front": row.key in table.front} if table.front is not None else {})
        | {
            name: {**asdict(cell), "difference": cell.difference, "change": cell.change}
            for name, cell in zip(table.columns, row.cells, strict=True)
        }
        for row in table.body
    ]
    return json.dumps({"rows": rows, "notes": table.notes}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _html(table: Table, caption: str | None, label: str | None) -> str:
    """A table element without style sheet or script, in ASCII: it fits into any page."""

    def cell_text(cell: Cell, decimals: int) -> str:
        mark = f"<sup>{cell.mark}</sup>" if cell.mark else ""
        return f"{figure(cell, decimals, bold='<strong>{}</strong>' if cell.best else '{}')}{mark} ({cell.n})"

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
        f"<thead>\n<tr>{line('th', headers)}</tr>\n</thead>",
        f"<tbody>\n{body}\n</tbody>",
        *_html_notes(table, len(shown.headers)),
        "</table>",
    ]
    return "\n".join(filter(None, parts)).encode("ascii", "xmlcharrefreplace").decode() + "\n"


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
