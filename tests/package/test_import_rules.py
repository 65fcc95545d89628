"""What modules import: no circles, and what each brings in when it runs, seen in a process of its own.

Which package may import which, and which heavy library, is import-linter's to hold: `pyproject.toml`, `make check`.
"""

import subprocess
import sys
from graphlib import TopologicalSorter

import grimp
import pytest

HEAVY = {"ray", "mlflow", "optuna", "pandas", "torch", "boto3"}
# modules by what they may bring in, each set in one process; with torch alone the core runs on a bare GPU box
CORE = [
    "trial.run",
    "contracts.find",
    "trial.attempt",
    "training.loop",
    "training.pretrain",
    "training.features",
    "training.classifier",
    "spec.file",
    "knobs.knobs",
    "data.splits",
]
DOORS = [
    (
        set(),
        [
            "cli",
            "trialdir.journal",
            "storage.layout",
            "storage.bucket_storage",
            "client.client",
            "knobs.problems",
            "spec.document",
            "service.store",
            "service.queue",
            "service.jobs",
        ],
    ),
    ({"torch"}, [*CORE, "trial.export", "spec.plan", "cluster.trial_sync"]),
    ({"pandas"}, ["tables.ablation", "tables.render"]),
    ({"mlflow", "pandas"}, ["tracking.reader", "tracking.writer"]),
    ({"optuna", "torch"}, ["ledger.open", "sweep.best", "service.app"]),
]


def said_by(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize(("allowed", "modules"), DOORS, ids=lambda part: " ".join(sorted(part)) or "none")
def test_a_door_opens_to_one_room(allowed: set[str], modules: list[str]) -> None:
    code = (
        "import importlib, sys\n"
        f"for module in {modules}:\n"
        "    importlib.import_module(f'ssl_sweep.{module}')\n"
        f"    print(module, *{HEAVY!r} & set(sys.modules))"
    )
    brought_in = {module: {*found} for module, *found in map(str.split, said_by(code).splitlines())}
    assert [module for module in modules if not brought_in[module] <= allowed] == []


def test_every_method_and_evaluation_stays_in_the_core() -> None:
    code = (
        "import sys; from ssl_sweep.knobs import knobs\n"
        "[knobs.load(kind, name) for kind in ('methods', 'evaluations') for name in knobs.names(kind)]\n"
        "print(*{'ray', 'mlflow', 'optuna', 'pandas'} & set(sys.modules))"
    )
    assert said_by(code).split() == []


def test_no_modules_import_one_another_in_a_circle() -> None:
    graph = grimp.build_graph("ssl_sweep")
    TopologicalSorter({module: graph.find_modules_directly_imported_by(module) for module in graph.modules}).prepare()
