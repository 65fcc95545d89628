"""An ablation table in LaTeX, with booktabs."""

import re
import unicodedata

from ssl_sweep.tables.grid import Grid, count, figure, make_grid
from ssl_sweep.tables.table import Cell, Table


def latex(table: Table, caption: str | None, label: str | None) -> str:
    """A table environment; the document needs `\\usepackage{booktabs}`."""

    def cell_text(cell: Cell, decimals: int) -> str:
        bold = r"\mathbf{{{}}}" if cell.best else "{}"
        mark = f"^{{{cell.mark}}}" if cell.mark else ""
        shown = figure(cell, decimals, bold=bold, plus_minus=r" \pm ", gap=r"\ ")
        return f"${shown}{mark}$ {count(cell)}"

    texts = make_grid(table, _escaped, cell_text)
    lines = [r"\begin{table}[t]", r"\centering"]
    lines += [rf"\caption{{{_escaped(caption)}}}"] if caption else []
    lines += [rf"\label{{{label}}}"] if label else []
    align = "".join("r" if right else "l" for right in texts.numeric)
    lines += [
        rf"\begin{{tabular}}{{{align}}}",
        r"\toprule",
        *_spans(texts),
        " & ".join(texts.headers) + r" \\",
        r"\midrule",
    ]
    lines += [" & ".join(re.sub(r"^[+-](?=\d)", r"$\g<0>$", text) for text in line) + r" \\" for line in texts.lines]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += ["", r"\smallskip\footnotesize " + "; ".join(map(_escaped, table.notes))] if table.notes else []
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _spans(texts: Grid) -> list[str]:
    """The lines over the headers that name the data sets, where there are several."""
    if not texts.spans:
        return []
    cells = [rf"\multicolumn{{{width}}}{{c}}{{{label}}}" for label, width in texts.spans]
    first, rules = 1, []
    for label, width in texts.spans:
        rules += [rf"\cmidrule(lr){{{first}-{first + width - 1}}}"] if label else []
        first += width
    return [" & ".join(cells) + r" \\", " ".join(rules)]


_TEX = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': "''",
    "[": "{[}",  # at the start of a line, `[` and `*` would be arguments of the line break before it
    "*": "{*}",
    "−": r"$-$",
    "±": r"$\pm$",
    "●": r"$\bullet$",
    "†": r"$\dagger$",
    "×": r"$\times$",
    "≤": r"$\leq$",
    "≥": r"$\geq$",
    "∞": r"$\infty$",
    "–": "--",
    "—": "---",
} | {character: f"\\{character}" for character in "&%$#_{}"}
_GREEK = (
    "ALPHA BETA GAMMA DELTA EPSILON ZETA ETA THETA IOTA KAPPA LAMDA MU NU XI PI RHO SIGMA TAU UPSILON PHI CHI PSI OMEGA"
)


def _escaped(text: str) -> str:
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
    return f"{{[}}U+{ord(character):04X}]"  # pdflatex stops at a character without a glyph
