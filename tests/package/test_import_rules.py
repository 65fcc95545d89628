"""One door for each heavy dependency: what a module brings in, seen in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ssl_sweep

HEAVY = {"ray", "mlflow", "optuna", "pandas", "torch", "boto3"}
# modules by what they may bring in, each set in one process; with torch alone the core runs on a bare GPU box
CORE = [
    "trial.run",
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
            "storage.mirror",
            "client.client",
            "service.store",
            "service.queue",
            "service.jobs",
        ],
    ),
    ({"torch"}, [*CORE, "trial.export", "spec.plan", "cluster.carried"]),
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


def test_only_the_service_knows_fastapi() -> None:
    package = Path(ssl_sweep.__file__).parent
    said = re.compile(r"^\s*(?:import|from) (?:fastapi|starlette|uvicorn)\b", flags=re.MULTILINE)
    known = {path.relative_to(package).parts[0] for path in package.rglob("*.py") if said.search(path.read_text())}
    assert known == {"service"}
