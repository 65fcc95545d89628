"""Each mistake in an evaluation fails the check that is about it, and no other."""

import re

import pytest

from .conftest import Checked, changed, failures
from .right import EVALUATION

KNOBS, RUN = "its knobs have types and defaults and texts", "it reports and returns the metrics that it declares"
DECLARED, FOLLOW = "its declarations take their arguments", "its declarations follow from its settings"
PRUNED, RESUMED = "it reports the metrics of pruners after each epoch", "a resumed run gives the same metrics"
REPORT = "stage.report(results, epoch + 1)"
METRICS = 'METRICS = ("top1_val", "top1_test")'

MISTAKES: dict[str, tuple[list[tuple[str, str]], str, str]] = {
    "no text": ([(', description="reports"', "")], KNOBS, "knob epochs has no text"),
    "wiring": ([("encoder, splits, stage, *", "encoder, splits, *")], KNOBS, "takes first encoder, splits"),
    "no metrics": ([(METRICS, "NAMES = ()")], DECLARED, "the file declares no metrics; write METRICS"),
    "arguments of a declaration": (
        [(METRICS, f"{METRICS}\n\n\ndef planned_epochs():\n    return 1\n")],
        DECLARED,
        r"planned_epochs takes \[\]; let it take \['settings'\]",
    ),
    "pruned by tests": (
        [(METRICS, f"{METRICS}\n\n\ndef epoch_metrics(settings):\n    return METRICS\n")],
        FOLLOW,
        "epoch_metrics has local/mine/top1_test; a pruner judges on validation images",
    ),
    "more than declared": (
        [("    return results", '    return {**results, "loss": 1.0}')],
        RUN,
        r"returns \['loss', 'top1_test', 'top1_val'\] and declares \['top1_test', 'top1_val'\]; let METRICS",
    ),
    "not finite": (
        [("    return results", "    return dict.fromkeys(results, float('nan'))")],
        RUN,
        "top1_val is nan; return a finite number",
    ),
    "no report": ([(REPORT, "pass")], RUN, "it reports nothing; end with"),
    "steps from 0": ([(REPORT, "stage.report(results, epoch)")], RUN, r"steps \[0, 1\]; number them 1, 2, 3"),
    "another report": ([(REPORT, "stage.report({}, epoch + 1)")], RUN, r"its last report lacks \['top1_test', 'top1_v"),
    "an exception": ([(".mean(0)", ".mean(7)")], RUN, "the plugin raises IndexError: Dimension out of range"),
    "pruned once": (
        [(REPORT, "stage.report(results if epoch else {}, epoch + 1)")],
        PRUNED,
        r"\['top1_val'\] are reported at the steps \[2\], not at 1 to 2; report them after each epoch, or let",
    ),
    "begins again": (
        [('    (stage.folder / "done").write_text', '    (stage.folder / "other").write_text')],
        RESUMED,
        "after a stop at report 1 it goes on with report 1; .*which saves and resumes",
    ),
    "other numbers": (
        [("100 * float", "(100 - 0.1 * done) * float")],
        RESUMED,
        "stopped at report 1 and run again it returns .*unbroken",
    ),
    "chance": (
        [("argmin(1) == labels", "argmax(1) == labels")],
        "separable features have a high top1",
        "it should be above 95: give CHECK knobs that suit 160 images",
    ),
    "cheats": (
        [("argmin(1) == labels", "argmin(1) >= 0")],
        "meaningless labels have a top1 at chance",
        "top1_test is 100.0 % of labels that say nothing; 25 is chance",
    ),
    "needs labels": (
        [(METRICS, f"{METRICS}\nNEEDS_LABELS = False")],
        "it runs on images without labels",
        "the plugin raises RuntimeError",
    ),
}


def test_a_right_evaluation_keeps_its_contract(checked: Checked) -> None:
    findings = checked("evaluations", EVALUATION)
    assert {finding.result for finding in findings} == {"holds"}, failures(findings)
    assert len(findings) == 9


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_fails_its_check_alone(checked: Checked, mistake: str) -> None:
    changes, check, message = MISTAKES[mistake]
    findings = checked("evaluations", changed(EVALUATION, *changes))
    assert list(failures(findings)) == [check], failures(findings)
    [failure] = (finding for finding in findings if finding.result == "fails")
    assert re.search(message, failure.message), failure.message
    assert failure.place is not None
    assert "/evaluations/mine.py:" in failure.place


def test_one_that_needs_other_data_is_not_run(checked: Checked) -> None:
    findings = checked("evaluations", changed(EVALUATION, (METRICS, f'{METRICS}\nCHECK = {{"needs": "masks"}}')))
    assert {finding.result for finding in findings[:-1]} == {"holds"}
    assert (findings[-1].result, findings[-1].message) == ("not checked", "it needs masks")
