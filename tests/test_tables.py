import csv
import io
import json
import math
import shutil
import statistics
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest

from ssl_sweep.render import grid, render
from ssl_sweep.tables import Table, ablation, display_name

TOP1 = "finetune/top1_test"
LOSS = "pretrain/loss"
SCORES = {0.0: [36.0, 38.0], 0.3: [41.25, 42.75], 0.1: [40.0, 40.5]}
NASTY = r'a_b & 50% #1 $x$ {y} ~ ^ \cmd <script>alert("1")</script> | **bold** `code` αβ é 漢'


def make_runs(scores: dict[object, list[float]] = SCORES, knob: str = "views.overlay_alpha") -> pd.DataFrame:
    rows = [
        {
            "trial_id": f"{choice}-{seed}",
            "sweep": "demo",
            "choice": choice,
            "seed": seed,
            "state": "COMPLETE",
            knob: value,
            "pretrain.lr": 0.1,
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


def test_rows_are_means_over_seeds_in_numeric_order() -> None:
    table = make_table()
    assert [row.key for row in table.body] == [(0.0,), (0.1,), (0.3,)]
    for row in table.body:
        scores = SCORES[row.key[0]]
        assert row.cells[0].mean == pytest.approx(statistics.mean(scores))
        assert row.cells[0].std == pytest.approx(statistics.stdev(scores))
        assert row.cells[0].n == 2


def test_best_is_highest_accuracy_and_lowest_loss() -> None:
    best = [[cell.best for cell in row.cells] for row in make_table().body]
    assert best == [[False, True], [False, False], [True, False]]


def test_what_rounds_to_the_best_figure_is_best_too() -> None:
    table = make_table(make_runs({0.0: [40.01], 0.1: [40.04], 0.2: [39.9]}))
    assert [row.cells[0].best for row in table.body] == [True, True, False]


def test_one_seed_has_no_spread() -> None:
    table = make_table(make_runs({0.0: [40.0], 0.1: [41.0]}))
    assert table.body[0].cells[0].std is None
    assert grid(table).lines[0] == ("0", "40.0 (1)", "0.0400 (1)")


def test_only_complete_trials_count_and_the_others_are_named() -> None:
    runs = make_runs()
    runs.loc[runs["trial_id"] == "1-1", "state"] = "FAILED"
    runs.loc[runs["trial_id"].str.startswith("0-"), "state"] = "RUNNING"
    table = make_table(runs)
    assert grid(table).lines[0] == ("0", "–", "–")
    assert table.body[2].cells[0].n == 1
    assert "not in the means: 1 FAILED, 2 RUNNING of 6 trials" in table.notes
    assert "fewer than 2 seeds: overlay_alpha=0 (0); overlay_alpha=0.3 (1)" in table.notes


def test_nan_and_inf_of_a_complete_trial_are_left_out() -> None:
    table = make_table(make_runs({0.0: [math.nan, 40.0], 0.1: [math.inf, 41.0]}))
    assert [(row.cells[0].mean, row.cells[0].n) for row in table.body] == [(40.0, 1), (41.0, 1)]


@pytest.mark.parametrize("keys", [(0.0, 0.1, 0.3), ("0.0", "0.10", "0.3"), (0, "0.1", 0.30)])
def test_published_figures_match_by_number_or_text(keys: tuple[object, ...]) -> None:
    published = {TOP1: dict(zip(keys, (37.1, 37.0, 38.12), strict=True))}
    for knob in (SCORES, {str(value): scores for value, scores in SCORES.items()}):
        table = make_table(make_runs(knob), published=published)
        assert [row.cells[0].published for row in table.body] == [37.1, 37.0, 38.12]
        assert [line[2] for line in grid(table).lines] == ["37.1", "37.0", "38.12"]
        assert table.has_published == (True, False)


def test_published_without_a_row_is_said() -> None:
    assert "published, but no row here: 0.5" in make_table(published={TOP1: {0.0: 1.0, 0.5: 2.0}}).notes


def test_texts_keep_the_order_of_the_runs_and_several_knobs_make_one_row() -> None:
    runs = pd.concat([make_runs().assign(method="moco"), make_runs().assign(method="byol")])
    table = make_table(runs, rows=["method", "views.overlay_alpha"], published={TOP1: {"byol, 0.1": 5.0}})
    assert [row.key for row in table.body] == [(m, a) for m in ("moco", "byol") for a in (0.0, 0.1, 0.3)]
    assert [row.cells[0].published for row in table.body] == [None, None, None, None, 5.0, None]


def test_absent_value_is_a_row_of_its_own_at_the_end() -> None:
    table = make_table(make_runs({None: [1.0], 3: [2.0], 2: [3.0]}))
    assert [row.key for row in table.body] == [(2,), (3,), (None,)]
    assert grid(table).lines[2][0] == "–"


def test_means_over_other_choices_are_said() -> None:
    runs = make_runs()
    other = make_runs().assign(choice=runs["choice"] + 3, **{"pretrain.lr": 0.2})
    note = "3 rows are means over several choices, which differ in pretrain.lr"
    assert note in make_table(pd.concat([runs, other])).notes
    assert not any("choices" in note for note in make_table().notes)


def test_unknown_row_is_refused_and_unknown_column_is_said() -> None:
    with pytest.raises(ValueError, match=r"table\.rows: 'views\.overlay_alhpa' .* did you mean 'views\.overlay_alpha'"):
        make_table(rows=["views.overlay_alhpa"])
    table = make_table(columns=["finetune/top1_tset"])
    assert "no trial has reported finetune/top1_tset; did you mean finetune/top1_test?" in table.notes
    assert {line[1] for line in grid(table).lines} == {"–"}


@pytest.mark.parametrize("form", ["md", "tex", "csv", "json", "html"])
def test_no_trials_yet_renders(form: str) -> None:
    table = make_table(pd.DataFrame(columns=["trial_id", "sweep", "choice", "seed", "state"]))
    assert table.body == ()
    assert table.notes == ("no trials yet",)
    assert render(table, form)


def test_display_names() -> None:
    assert display_name("views.overlay_alpha") == "overlay_alpha"
    assert display_name("pretrain.lr", ["pretrain.lr", "evaluate.finetune.lr"]) == "pretrain.lr"
    assert display_name("method.name") == "method"
    assert display_name("finetune/top1_test") == "finetune top1 (test)"
    assert display_name("knn/top1_best_val") == "knn top1 best (val)"
    assert display_name("pretrain/loss") == "pretrain loss"


def test_grid_for_the_console() -> None:
    shown = grid(make_table(published={TOP1: {0.3: 38.1}}))
    assert shown.headers == ("overlay_alpha", "finetune top1 (test)", "published", "pretrain loss")
    assert shown.lines[2] == ("0.3", "42.0 ± 1.1 (2)", "38.1", "0.0420 ± 0.0011 (2)")
    assert shown.lines[0][2] == "–"
    assert shown.best == {(2, 1), (0, 3)}


def test_markdown() -> None:
    lines = render(make_table(published={TOP1: {0.3: 38.1}}), "md").splitlines()
    assert [cell.strip() for cell in lines[0].split("|")] == [
        "",
        "overlay_alpha",
        "finetune top1 (test)",
        "published",
        "pretrain loss",
        "",
    ]
    assert {len(line) for line in lines[:5]} == {len(lines[0])}
    assert " **42.0 ± 1.1** (2) |" in lines[4]
    assert lines[-1] == "- mean ± standard deviation over seeds (number of seeds)"


def test_markdown_cells_hold_no_markup() -> None:
    table = make_table(make_runs({NASTY: [1.0], "x": [2.0]}))
    line = render(table, "md").splitlines()[2]
    assert "<" not in line
    assert r"\*\*bold\*\* \`code\`" in line
    assert line.replace(r"\|", "").count("|") == 4


def test_csv_has_full_precision() -> None:
    text = render(make_table(published={TOP1: {"0.3": 38.1}}), "csv")
    rows = list(csv.DictReader(io.StringIO(text)))
    assert list(rows[0])[:5] == ["views.overlay_alpha", f"{TOP1} mean", f"{TOP1} std", f"{TOP1} n", f"{TOP1} published"]
    assert float(rows[2][f"{TOP1} std"]) == statistics.stdev(SCORES[0.3])
    assert (rows[0][f"{TOP1} published"], rows[2][f"{TOP1} published"]) == ("", "38.1")


def test_json_records() -> None:
    found = json.loads(render(make_table(make_runs({"a": [1.0], "b": [2.0]})), "json"), parse_constant=pytest.fail)
    assert found["rows"][1]["views.overlay_alpha"] == "b"
    assert found["rows"][1][TOP1] == {"mean": 2.0, "std": None, "n": 1, "published": None, "best": True}


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


def test_latex_is_a_booktabs_table() -> None:
    text = render(make_table(published={TOP1: {0.3: 38.1}}), "tex", caption="50% of all", label="tab:overlay")
    assert r"overlay\_alpha & finetune top1 (test) & published & pretrain loss \\" in text
    assert r"0.3 & $\mathbf{42.0 \pm 1.1}$ (2) & 38.1 & $0.0420 \pm 0.0011$ (2) \\" in text
    assert r"\caption{50\% of all}" in text
    assert r"\label{tab:overlay}" in text
    assert text.count(r"\toprule") == text.count(r"\midrule") == text.count(r"\bottomrule") == 1


def test_latex_escapes_every_special_character() -> None:
    text = render(make_table(make_runs({NASTY: [1.0], "[x]*": [2.0]})), "tex")
    line = next(line for line in text.splitlines() if line.startswith("a"))
    assert r"a\_b \& 50\% \#1 \$x\$ \{y\} \textasciitilde{} \textasciicircum{} \textbackslash{}cmd" in line
    assert r"\textless{}script\textgreater{}" in line
    assert r"$\alpha$$\beta$ é {[}U+6F22]" in line


def _has_booktabs() -> bool:
    found = shutil.which("pdflatex") and shutil.which("kpsewhich")
    return bool(found and subprocess.run(["kpsewhich", "booktabs.sty"], capture_output=True, check=False).stdout)


@pytest.mark.skipif(
    not _has_booktabs(), reason="pdflatex with booktabs is not installed; the structure is tested above"
)
def test_latex_compiles(tmp_path: Path) -> None:
    runs = make_runs({NASTY: [1.0, 2.0], "[x]*": [2.0, 3.0], "* star": [3.0, 1.0]})
    text = render(make_table(runs, published={TOP1: {"[x]*": 1}}), "tex", caption=NASTY, label="tab:a_b")
    document = f"\\documentclass{{article}}\n\\usepackage{{booktabs}}\n\\begin{{document}}\n{text}\\end{{document}}\n"
    (tmp_path / "table.tex").write_text(document, encoding="utf-8")
    command = ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "table.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout[-2000:]
    assert "LaTeX Warning: Command" not in done.stdout


def test_unknown_format_is_refused() -> None:
    with pytest.raises(ValueError, match="format 'pdf' is not known; use one of md, tex, csv, json, html"):
        render(make_table(), "pdf")


@pytest.mark.parametrize("form", ["md", "tex", "csv", "json", "html"])
def test_a_sweep_that_searches_nothing_is_one_row(form: str) -> None:
    table = ablation(make_runs(), rows=[], columns=[TOP1])
    assert [row.cells[0].n for row in table.body] == [6]
    assert any(mean in render(table, form) for mean in ("39.75", "39.8"))
