"""The document and the notebook about sweeps in Python: what they name exists, and the notebook runs."""

import inspect
import re
import shutil
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbclient import NotebookClient

import ssl_sweep
from ssl_sweep.api.table import AblationFrame
from ssl_sweep.api.trial import TrialHandle
from ssl_sweep.spec.file import check_spec

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FILE = EXPERIMENTS / "quickstart.ipynb"
TINY = ["pretrain.epochs=1", "evaluate.finetune.epochs=1", "evaluate.linear.epochs=2", "search.seeds=1"]
TINY += ["search.space={views.overlay_alpha: [0.0, 0.2]}"]


def test_every_name_in_the_document_exists() -> None:
    page = (EXPERIMENTS / "PYTHON.md").read_text()
    owners = {"sweep": ssl_sweep.Sweep, "best": TrialHandle, "table": AblationFrame}
    found = re.findall(r"\b(sweep|best|table)\.((?!safetensors)[a-z_]+)", page)
    assert len(found) > 20
    for owner, name in found:
        known = owners[owner]
        fields = {"name", "storage", *TrialHandle.__annotations__}  # of an object, not of its class
        assert hasattr(known, name) or name in fields, f"{owner}.{name}"
    arguments = [
        name for name, what in inspect.signature(ssl_sweep.run).parameters.items() if what.kind == what.KEYWORD_ONLY
    ]
    assert re.findall(r"^\| `(\w+)=`", page, flags=re.MULTILINE) == arguments
    arguments.remove("data_changed")  # to open a sweep is not to go on with it
    assert list(inspect.signature(ssl_sweep.open).parameters) == ["name", *arguments]


def test_the_dict_of_the_document_is_a_spec() -> None:
    page = (EXPERIMENTS / "PYTHON.md").read_text()
    code = re.search(r"spec = \{.*?\n\}", page, flags=re.DOTALL)
    assert code is not None
    scope: dict[str, Any] = {"np": np}
    exec(code[0], scope)
    assert check_spec(scope["spec"]).name == "temperatures"


def code_cells(notebook: Any) -> list[Any]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def test_notebooks_are_stored_without_outputs() -> None:
    for path in EXPERIMENTS.rglob("*.ipynb"):
        for cell in code_cells(nbformat.read(path, as_version=4)):
            assert (cell.outputs, cell.execution_count) == ([], None), path


@pytest.mark.slow
def test_the_quickstart_runs_compares_and_resumes(tmp_path: Path) -> None:
    """Slow: a kernel, and three starts of Ray in it."""
    shutil.copy(EXPERIMENTS / "quickstart.yaml", tmp_path)
    notebook = nbformat.read(FILE, as_version=4)
    first = next(cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ()))
    first.source += f"\noverrides = {TINY}"
    NotebookClient(notebook, timeout=300, iopub_timeout=60, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {cell.source.splitlines()[-1]: cell.outputs for cell in code_cells(notebook)}
    assert "<strong>quickstart</strong> COMPLETE" in shown["sweep"][-1].data["text/html"]
    assert "torch.Size([4, 128])" in shown["encoder(torch.rand(4, 3, 8, 8)).shape"][-1].data["text/plain"]
    reasons = shown['damaged_sweep.trials[["method.temperature", "state", "reason", "message"]]'][-1].data["text/plain"]
    assert reasons.count("FAILED") == 2
    resumed = shown['damaged_sweep.resume(failed=True, data_changed="keep")'][-1].data["text/html"]
    assert "<strong>damaged</strong> COMPLETE" in resumed
    written = [output for outputs in shown.values() for output in outputs if output.output_type == "stream"]
    assert {output.name for output in written} == {"stdout"}
