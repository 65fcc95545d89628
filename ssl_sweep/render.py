"""An ablation table as Markdown, LaTeX, CSV, JSON, HTML, or as a grid of texts for the console."""

import csv
import html
import io
import json
import re
import unicodedata
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from ssl_sweep.tables import Cell, Table, display_name, value_text

NOTHING = "–"


@dataclass(frozen=True)
class Grid:
    """A table as texts; `best` has the (line, column) of the best figures, `numeric` says which columns stand right."""

    headers: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    best: frozenset[tuple[int, int]]
    numeric: tuple[bool, ...]


def render(table: Table, form: str, *, caption: str | None = None, label: str | None = None) -> str:
    """The table as md, tex, csv, json or html; caption and label stand where the format has a place for them."""
    if form not in FORMATS:
        raise ValueError(f"format {form!r} is not known; use one of {', '.join(FORMATS)}")
    return FORMATS[form](table, caption, label)


def grid(table: Table) -> Grid:
    """The table for the console: `37.1 ± 0.4 (3)`."""
    return _grid(table, str, _plain_cell)


def _grid(table: Table, escaped: Callable[[str], str], cell_text: Callable[[Cell, int], str]) -> Grid:
    headers = [escaped(display_name(name, table.rows)) for name in table.rows]
    numeric = [all(isinstance(row.key[i], (int, float)) for row in table.body) for i in range(len(table.rows))]
    for name, published in zip(table.columns, table.has_published, strict=True):
        headers += [escaped(display_name(name)), *(["published"] * published)]
    lines: list[tuple[str, ...]] = []
    best: set[tuple[int, int]] = set()
    for row in table.body:
        line = [escaped(value_text(part)) for part in row.key]
        for cell, decimals, published in zip(row.cells, table.decimals, table.has_published, strict=True):
            if cell.best:
                best.add((len(lines), len(line)))
            line += [cell_text(cell, decimals), *([_published(cell, decimals)] * published)]
        lines.append(tuple(line))
    numeric += [True] * (len(headers) - len(numeric))
    return Grid(tuple(headers), tuple(lines), frozenset(best), tuple(numeric))


def _figure(cell: Cell, decimals: int, plus_minus: str) -> str:
    spread = "" if cell.std is None else f"{plus_minus}{cell.std:.{decimals}f}"
    return f"{cell.mean:.{decimals}f}{spread}"


def _published(cell: Cell, decimals: int) -> str:
    if cell.published is None:
        return NOTHING
    given = len(repr(float(cell.published)).partition(".")[2])  # others' figures are not rounded
    return f"{cell.published:.{max(decimals, given)}f}"


def _plain_cell(cell: Cell, decimals: int) -> str:
    return NOTHING if cell.mean is None else f"{_figure(cell, decimals, ' ± ')} ({cell.n})"


def _markdown(table: Table, caption: str | None, label: str | None) -> str:
    def cell_text(cell: Cell, decimals: int) -> str:
        if cell.mean is None:
            return NOTHING
        bold = "**" if cell.best else ""
        return f"{bold}{_figure(cell, decimals, ' ± ')}{bold} ({cell.n})"

    texts = _grid(table, _escaped_markdown, cell_text)
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
    return re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)  # between letters an underscore means nothing


def _latex(table: Table, caption: str | None, label: str | None) -> str:
    def cell_text(cell: Cell, decimals: int) -> str:
        if cell.mean is None:
            return "--"
        figure = _figure(cell, decimals, r" \pm ")
        bold = rf"\mathbf{{{figure}}}" if cell.best else figure
        return f"${bold}$ ({cell.n})"

    texts = _grid(table, _escaped_latex, cell_text)
    lines = [r"\begin{table}[t]", r"\centering"]
    lines += [rf"\caption{{{_escaped_latex(caption)}}}"] if caption else []
    lines += [rf"\label{{{label}}}"] if label else []
    align = "".join("r" if right else "l" for right in texts.numeric)
    lines += [rf"\begin{{tabular}}{{{align}}}", r"\toprule", " & ".join(texts.headers) + r" \\", r"\midrule"]
    lines += [" & ".join(line).replace(NOTHING, "--") + r" \\" for line in texts.lines]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += ["", r"\smallskip\footnotesize " + "; ".join(map(_escaped_latex, table.notes))] if table.notes else []
    return "\n".join([*lines, r"\end{table}"]) + "\n"


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # at the start of a line it would be an argument of the line break before it, and so would the star
    "*": "{*}",
    "±": r"$\pm$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "∞": r"$\infty$",
    "–": "--",
    "—": "---",
} | {each: f"\\{each}" for each in "&%$#_{}"}
_GREEK = (
    "ALPHA BETA GAMMA DELTA EPSILON ZETA ETA THETA IOTA KAPPA LAMDA MU NU XI PI RHO SIGMA TAU UPSILON PHI CHI PSI OMEGA"
)


def _escaped_latex(text: str) -> str:
    return "".join(map(_escaped_character, " ".join(text.split())))


def _escaped_character(character: str) -> str:
    if character in _TEX or " " <= character <= "~":
        return _TEX.get(character, character)
    name = unicodedata.name(character, "")
    greek = name.removeprefix("GREEK SMALL LETTER ")
    if greek in _GREEK.split():
        return rf"$\{greek.lower().replace('lamda', 'lambda')}$"
    if "À" <= character <= "ÿ" and character not in "ÐÞðþ":
        return character
    return f"{{[}}U+{ord(character):04X}]"  # pdflatex stops at a character that it has no glyph for


def _csv(table: Table, caption: str | None, label: str | None) -> str:
    """Full names and full precision: a column each for mean, std, n and, where there is one, the published figure."""
    headers = list(table.rows)
    for name, published in zip(table.columns, table.has_published, strict=True):
        headers += [f"{name} mean", f"{name} std", f"{name} n", *([f"{name} published"] * published)]
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(headers)
    for row in table.body:
        line = list(row.key)
        for cell, published in zip(row.cells, table.has_published, strict=True):
            line += [cell.mean, cell.std, cell.n, *([cell.published] * published)]
        writer.writerow(line)
    return out.getvalue()


def _json(table: Table, caption: str | None, label: str | None) -> str:
    """`rows`, one object each: its knobs, and by metric mean, std, n, published and best; `notes`."""
    rows: list[dict[str, Any]] = [
        dict(zip(table.rows, row.key, strict=True))
        | {name: asdict(cell) for name, cell in zip(table.columns, row.cells, strict=True)}
        for row in table.body
    ]
    return json.dumps({"rows": rows, "notes": table.notes}, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _html(table: Table, caption: str | None, label: str | None) -> str:
    """A table element without style sheet or script, in ASCII: it stands in any page."""

    def cell_text(cell: Cell, decimals: int) -> str:
        text = _plain_cell(cell, decimals)
        return f"<strong>{text}</strong>" if cell.best else text

    def line(tag: str, texts: tuple[str, ...]) -> str:
        cells = zip(texts, shown.numeric, strict=True)
        return "".join(
            f'<{tag} style="text-align:{"right" if right else "left"}">{text}</{tag}>' for text, right in cells
        )

    shown = _grid(table, html.escape, cell_text)
    body = "\n".join(f"<tr>{line('td', texts)}</tr>" for texts in shown.lines)
    parts = [
        '<table class="ablation">',
        f"<caption>{html.escape(caption)}</caption>" if caption else "",
        f"<thead>\n<tr>{line('th', shown.headers)}</tr>\n</thead>",
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
    "tex": _latex,
    "csv": _csv,
    "json": _json,
    "html": _html,
}
