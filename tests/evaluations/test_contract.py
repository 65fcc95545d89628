"""Every file of evaluations/: it returns what it declares, goes on where it stopped, and its top-1 means something."""

from dataclasses import replace
from typing import Any

import pytest

from ssl_sweep.contracts.contract import Check, NotChecked
from ssl_sweep.contracts.evaluations import DECLARATION_CHECKS, EVALUATIONS, TOP1_CHECKS, EvaluationPlugin
from ssl_sweep.knobs import knobs

BRIEF = {"epochs": 12, "batch_size": 32}
# beside those of the file's own CHECK
FURTHER: dict[str, list[dict[str, Any]]] = {
    "finetune": [
        {**BRIEF, "lr": 0.1, "augment": "crop_flip"}
        | {"mixup": 0.2, "cutmix": 0.2, "label_smoothing": 0.1, "ema": 0.9, "warmup_epochs": 1, "final_lr": 0.1},
    ],
    "linear": [{**BRIEF, "lr": [0.5, 1.0], "weight_decay": [0.0, 1e-3], "augment": "crop_flip"}],
    "knn": [{"k": [1, 20]}],
    "transfer": [
        {**BRIEF, "sources": ["imagefolder:flowers", "digits"], "lr": [0.5, 1.0]},
        {**BRIEF, "sources": ["digits"], "protocol": "finetune", "lr": 0.1},
        {"sources": ["digits"], "protocol": "knn"},
    ],
    "robustness": [{**BRIEF, "changes": ["crop", "flip"]}],
}
PLUGINS = [
    (f"{name}-{number}", replace(plugin, settings=settings))
    for name in knobs.own_names("evaluations")
    for plugin in (EVALUATIONS.load(name),)
    for number, settings in enumerate([plugin.settings, *FURTHER.get(name, [])])
]
CASES = [
    pytest.param(plugin, check, id=f"{check.run.__name__}-{number}")
    for number, plugin in PLUGINS
    for check in EVALUATIONS.checks_of(plugin)
    if plugin.needs is None or check in DECLARATION_CHECKS
]


def test_the_usual_evaluations_measure_top1() -> None:
    measured = {plugin.evaluation.name for _, plugin in PLUGINS if {*TOP1_CHECKS} <= {*EVALUATIONS.checks_of(plugin)}}
    assert {"finetune", "knn", "linear", "semi_supervised"} <= measured


@pytest.mark.parametrize(("plugin", "check"), CASES)
def test_an_evaluation_keeps_its_contract(plugin: EvaluationPlugin, check: Check) -> None:
    check.run(plugin)


def test_what_needs_boxes_is_not_run() -> None:
    detection = EVALUATIONS.load("detection")
    with pytest.raises(NotChecked, match="photos with boxes"):
        EVALUATIONS.checks_of(detection)[-1].run(detection)
