import csv
import io
import json
import shutil
import statistics
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from ssl_sweep.tables.ablation import ablation
from ssl_sweep.tables.render import FORMATS, grid, render
from ssl_sweep.tables.table import Table

TOP1 = "finetune/top1_test"
LOSS = "pretrain/loss"
SCORES = {0.0: [36.0, 38.0], 0.3: [41.25, 42.75], 0.1: [40.0, 40.5]}
PAIRED = {0.0: [50.0, 52.0, 51.0, 49.5], 0.1: [50.2, 51.9, 51.3, 49.4], None: [55.0, 56.9, 56.1, 54.4]}
NASTY = r'a_b & 50% #1 $x$ {y} ~ ^ \cmd <script>alert("1")</script> | **bold** `code` αβ é − 漢'


def make_runs(scores: dict[object, list[float]] = SCORES) -> pd.DataFrame:
    rows = [
        {
            "trial_id": f"{choice}-{seed}",
            "sweep": "demo",
            "choice": choice,
            "seed": seed,
            "state": "COMPLETE",
            "views.overlay_alpha": value,
            TOP1: score,
            LOSS: score / 1000,
        }
        for choice, (value, by_seed) in enumerate(scores.items())
        for seed, score in enumerate(by_seed)
    ]
    return pd.DataFrame(rows)


def make_table(runs: pd.DataFrame | None = None, **options: object) -> Table:
    chosen = {"rows": ["views.overlay_alpha"], "columns": [TOP1, LOSS]} | options
    return ablation(make_runs() if runs is None else runs, **chosen)


def everything(interval: str = "std") -> Table:
    """A table with everything in it; its notes, which are tested elsewhere, cut short."""
    options = {"columns": [TOP1], "published": {TOP1: {0.0: 51.0, None: 54.93}}, "baseline": 0.0, "interval": interval}
    return replace(make_table(make_runs(PAIRED), **options), notes=("* p < 0.05",))


MARKDOWN = r"""
| overlay_alpha |   finetune top1 (test) | published | difference |
| ------------: | ---------------------: | --------: | ---------: |
|             0 |         50.6 ± 1.1 (4) |      51.0 |       -0.4 |
|           0.1 |         50.7 ± 1.1 (4) |         – |          – |
|             – | **55.6 ± 1.1**\*\* (4) |     54.93 |       +0.7 |

- \* p &lt; 0.05
""".lstrip()

LATEX = r"""
\begin{table}[t]
\centering
\caption{demo}
\label{tab:demo}
\begin{tabular}{rrrr}
\toprule
overlay\_alpha & finetune top1 (test) & published & difference \\
\midrule
0 & $50.6\ [48.9, 52.4]$ (4) & 51.0 & $-$0.4 \\
0.1 & $50.7\ [48.9, 52.5]$ (4) & -- & -- \\
-- & $\mathbf{55.6}\ [53.8, 57.4]^{**}$ (4) & 54.93 & $+$0.7 \\
\bottomrule
\end{tabular}

\smallskip\footnotesize {*} p \textless{} 0.05
\end{table}
""".lstrip()

HTML = """
<table class="ablation">
<caption>demo</caption>
<thead>
<tr><th>overlay_<wbr>alpha</th><th>finetune top1 (test)</th><th>published</th><th>difference</th></tr>
</thead>
<tbody>
<tr><td>0</td><td>50.6 &#177; 1.1 (4)</td><td>51.0</td><td>-0.4</td></tr>
<tr><td>0.1</td><td>50.7 &#177; 1.1 (4)</td><td>&#8211;</td><td>&#8211;</td></tr>
<tr><td>&#8211;</td><td><strong>55.6 &#177; 1.1</strong><sup>**</sup> (4)</td><td>54.93</td><td>+0.7</td></tr>
</tbody>
<tfoot>
<tr><td colspan="4"><small>* p &lt; 0.05</small></td></tr>
</tfoot>
</table>
""".lstrip()


def test_golden_markdown() -> None:
    assert render(everything(), "md") == MARKDOWN


def test_golden_latex_with_intervals() -> None:
    assert render(everything("t"), "tex", caption="demo", label="tab:demo") == LATEX


def test_golden_html() -> None:
    assert render(everything(), "html", caption="demo").replace(' style="text-align:right"', "") == HTML


def test_csv_is_a_line_a_row_and_metric_in_full_precision() -> None:
    table = make_table(make_runs(PAIRED), published={TOP1: {None: 54.93}}, baseline=0.0, interval="t")
    lines = list(csv.DictReader(io.StringIO(render(table, "csv"))))
    assert [(line["views.overlay_alpha"], line["metric"]) for line in lines] == [
        (value, metric) for value in ("0.0", "0.1", "") for metric in (TOP1, LOSS)
    ]
    last, first = lines[4], lines[0]
    assert float(last["mean"]) == statistics.fmean(PAIRED[None])
    assert float(last["std"]) == statistics.stdev(PAIRED[None])
    assert (last["n"], last["published"], last["best"], first["best"]) == ("4", "54.93", "True", "False")
    assert float(last["difference"]) == pytest.approx(55.6 - 54.93)
    assert float(last["low"]) < 55.6 < float(last["high"])
    assert float(last["p"]) < 0.01
    assert (first["p"], first["published"], first["difference"]) == ("", "", "")


def test_json_records() -> None:
    table = make_table(make_runs({"a": [1.0], "b": [2.0]}), published={TOP1: {"b": 1.5}})
    found = json.loads(render(table, "json"), parse_constant=pytest.fail)
    assert found["rows"][1]["views.overlay_alpha"] == "b"
    unknown = dict.fromkeys(("std", "low", "high", "p", "confirmed", "found", "change"))
    figures = {"mean": 2.0, "n": 1, "pairs": 0, "published": 1.5, "difference": 0.5, "best": True, "collapsed": 0}
    assert found["rows"][1][TOP1] == figures | unknown
    assert found["notes"][2:] == ["difference: our mean minus the published figure"]


def test_grid_for_the_console() -> None:
    shown = grid(make_table(published={TOP1: {0.3: 38.1}}, baseline=0.0))
    assert shown.headers == ("overlay_alpha", "finetune top1 (test)", "published", "difference", "pretrain loss")
    assert shown.lines[2] == ("0.3", "42.0 ± 1.1 (2)", "38.1", "+3.9", "0.0420 ± 0.0011 (2)")
    assert shown.lines[0][2:4] == ("–", "–")
    assert shown.best == {(2, 1), (0, 4)}


def test_one_seed_and_no_seed() -> None:
    runs = make_runs({0.0: [40.0], 0.1: [41.0], 0.2: [float("nan")]})
    lines = grid(make_table(runs, columns=[TOP1], interval="t")).lines
    assert lines == (("0", "40.0 (1)"), ("0.1", "41.0 (1)"), ("0.2", "–"))


def test_a_difference_that_rounds_to_zero_has_no_minus() -> None:
    table = make_table(make_runs({0.0: [40.0]}), columns=[TOP1], published={TOP1: {0.0: 40.01}})
    assert grid(table).lines[0] == ("0", "40.0 (1)", "40.01", "+0.0")


@pytest.mark.parametrize("form", FORMATS)
def test_no_trials_yet_renders(form: str) -> None:
    table = make_table(pd.DataFrame(columns=["trial_id", "sweep", "choice", "seed", "state"]))
    assert "no trials yet" in render(table, form) or form == "csv"


@pytest.mark.parametrize("form", FORMATS)
def test_a_sweep_that_searches_nothing_is_one_row(form: str) -> None:
    table = make_table(make_runs({0.0: [39.5, 40.0]}), rows=[], columns=[TOP1])
    assert any(mean in render(table, form) for mean in ("39.75", "39.8"))


def test_markdown_lines_are_aligned() -> None:
    lines = render(make_table(make_runs({"text": [1.0], "longer text": [2.0]})), "md").splitlines()[:4]
    assert {len(line) for line in lines} == {len(lines[0])}
    assert lines[2].startswith("| text          |")


def test_markdown_cells_hold_no_markup() -> None:
    table = make_table(make_runs({NASTY: [1.0], "x": [2.0]}))
    line = render(table, "md").splitlines()[2]
    assert "<" not in line
    assert r"\*\*bold\*\* \`code\`" in line
    assert line.replace(r"\|", "").count("|") == 4


class _Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_holds_texts_not_markup() -> None:
    page = render(make_table(make_runs({NASTY: [1.0], "x": [2.0]})), "html", caption="a <b> & c")
    parser = _Texts()
    parser.feed(page)
    assert page.isascii()
    assert NASTY in parser.texts
    assert "a <b> & c" in parser.texts
    assert {"script", "b"}.isdisjoint(parser.tags)
    assert parser.tags.count("strong") == 2


def test_latex_escapes_every_special_character() -> None:
    text = render(make_table(make_runs({NASTY: [1.0], "[x]*": [2.0]})), "tex")
    line = next(line for line in text.splitlines() if line.startswith("a"))
    assert r"a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}cmd" in line
    assert r"\textless{}script\textgreater{}" in line
    assert r"$\alpha$$\beta$ é $-$ {[}U+6F22]" in line


def _has_booktabs() -> bool:
    found = shutil.which("pdflatex") and shutil.which("kpsewhich")
    return bool(found and subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, check=False).stdout)


@pytest.mark.skipif(
    not _has_booktabs(), reason="pdflatex with booktabs is not installed; the structure is tested above"
)
def test_latex_compiles(tmp_path: Path) -> None:
    runs = make_runs({NASTY: [1.0, 2.0, 3.2], "[x]*": [2.0, 3.0, 4.0], "* star": [13.0, 14.1, 15.2]})
    options = {"published": {TOP1: {"[x]*": 4}}, "baseline": "[x]*"}
    tables = [
        make_table(runs, **options),
        make_table(runs, **options, interval="bootstrap"),
        make_table(runs, **options, group_by={NASTY: ["[x]*", "* star"]}, objective=f"maximize {LOSS}"),
    ]
    text = "".join(render(table, "tex", caption=NASTY, label="tab:a_b") for table in tables[:1])
    text += "".join(render(table, "tex") for table in tables[1:])
    assert "^{*" in text
    document = f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{text}\\end{{document}}\n"
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "LaTeX Warning: Command" not in done.stdout


def test_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format 'pdf' is not known; use one of md, tex, csv, json, html"):
        render(make_table(), "pdf")
