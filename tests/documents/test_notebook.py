"""The notebook that comes with the experiments runs, and is stored without outputs."""

import shutil
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

EXPERIMENTS = Path(__file__).parents[2] / "experiments"
FILE = EXPERIMENTS / "quickstart.ipynb"
TINY = ["pretrain.epochs=1", "evaluate.finetune.epochs=1", "evaluate.linear.epochs=2", "search.seeds=1"]
TINY += ["search.space={views.overlay_alpha: [0.0, 0.2]}"]


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
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}}).execute()
    shown = {cell.source.splitlines()[-1]: cell.outputs for cell in code_cells(notebook)}
    assert "<strong>quickstart</strong> COMPLETE" in shown["sweep"][-1].data["text/html"]
    assert "torch.Size([4, 128])" in shown["encoder(torch.rand(4, 3, 8, 8)).shape"][-1].data["text/plain"]
    reasons = shown['damaged_sweep.trials[["method.temperature", "state", "reason", "message"]]'][-1].data["text/plain"]
    assert reasons.count("FAILED") == 2
    assert "<strong>damaged</strong> COMPLETE" in shown["damaged_sweep.resume(failed=True)"][-1].data["text/html"]
    written = [output for outputs in shown.values() for output in outputs if output.output_type == "stream"]
    assert {output.name for output in written} == {"stdout"}
