"""One door for each heavy dependency: what a module brings in, seen in a process of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import ssl_sweep

HEAVY = {"ray", "mlflow", "optuna", "pandas", "torch", "boto3"}
CORE = ["trial", "attempt", "training", "pretrain", "features", "classifier", "spec_file", "knobs", "data.splits"]
CORE += ["export"]


def brought_in(module: str) -> set[str]:
    code = f"import sys, ssl_sweep.{module}; print(*{HEAVY!r} & set(sys.modules))"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(ran.stdout.split())


@pytest.mark.parametrize("module", CORE)
def test_the_training_core_runs_on_a_bare_gpu_box(module: str) -> None:
    assert brought_in(module) <= {"torch"}


@pytest.mark.parametrize(
    ("module", "allowed"),
    [
        ("cli", set()),
        ("journal", set()),
        ("storage", set()),
        ("mirror", set()),
        ("carried", {"torch"}),
        ("ledger", {"optuna", "torch"}),
        ("plan", {"torch"}),
        ("tables", {"pandas"}),
        ("render", {"pandas"}),
        ("record", {"mlflow", "pandas"}),
        ("record_write", {"mlflow", "pandas"}),
        ("best", {"optuna", "torch"}),
        ("client", set()),
        ("service.store", set()),
        ("service.queue", set()),
        ("service.jobs", set()),
        ("service.app", {"optuna", "torch"}),
    ],
)
def test_a_door_opens_to_one_room(module: str, allowed: set[str]) -> None:
    assert brought_in(module) <= allowed


def test_every_method_and_evaluation_stays_in_the_core() -> None:
    code = (
        "import sys; from ssl_sweep import knobs\n"
        "[knobs.load(kind, name) for kind in ('methods', 'evaluations') for name in knobs.names(kind)]\n"
        "print(*{'ray', 'mlflow', 'optuna', 'pandas'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.split() == []


def test_only_the_service_knows_fastapi() -> None:
    package = Path(ssl_sweep.__file__).parent
    said = re.compile(r"^\s*(?:import|from) (?:fastapi|starlette|uvicorn)\b", flags=re.MULTILINE)
    known = {path.relative_to(package).parts[0] for path in package.rglob("*.py") if said.search(path.read_text())}
    assert known == {"service"}
