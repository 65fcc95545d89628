"""A sweep in a notebook, on a real kernel: the live display, an interrupt, a second run in the same process."""

import asyncio
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

SPEC = """
import signal
import ssl_sweep

SPEC = {
    "name": "live",
    "data": {"source": "digits", "image_size": 8},
    "encoder": {"name": "resnet18", "width": 8},
    "method": "autoencoder",
    "pretrain": {"epochs": 8, "batch_size": 256},
    "evaluate": {"knn": {}},
    "precision": "fp32",
    "search": {"space": {"views.overlay_alpha": [0.0, 0.2]}},
}
handler = signal.getsignal(signal.SIGINT)
"""
INTERRUPTED = """
print(sweep.state, list(sweep.trials["state"]))
print(signal.getsignal(signal.SIGINT) == handler)
"""


class Notebook:
    """Cells, and what each of them gave."""

    def __init__(self, *cells: str) -> None:
        self.content = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])

    async def run(self, folder: Path, interrupt_at: str) -> None:
        """Run all cells, and interrupt the kernel once a file of this pattern exists."""
        place = {"metadata": {"path": str(folder)}}
        client = NotebookClient(self.content, timeout=200, iopub_timeout=60, allow_errors=True, resources=place)
        running = asyncio.create_task(client.async_execute())
        while not running.done() and not any(folder.glob(interrupt_at)):
            await asyncio.sleep(0.05)
        await client.km.interrupt_kernel()
        await running

    def outputs(self, cell: int, kind: str) -> list[Any]:
        return [output for output in self.content.cells[cell].outputs if output.output_type == kind]

    def text(self, cell: int) -> str:
        return "".join(output.text for output in self.outputs(cell, "stream"))


@pytest.mark.slow
def test_an_interrupted_run_leaves_a_kernel_that_resumes_it(tmp_path: Path) -> None:
    """Slow: a kernel, and two starts of Ray in it."""
    notebook = Notebook(
        SPEC,
        "sweep = ssl_sweep.run(SPEC)",
        INTERRUPTED,
        "sweep.resume()",
        "ssl_sweep.run(SPEC, ['pretrain.lr=fast'])",
    )
    asyncio.run(notebook.run(tmp_path, "runs/live/**/checkpoint.pt"))
    display, said = (output.data["text/plain"] for output in notebook.outputs(1, "display_data"))
    assert display.startswith("live  done 0/2  running ")
    assert "\nchoice 0  seed 0  attempt 1  " in display
    assert said.splitlines() == [
        "0 of 2 trials complete",
        "interrupted; a resume continues from the last checkpoints",
        "next: ssl_sweep.open('live').resume()  # continue from the last checkpoints",
    ]
    assert notebook.text(1) == ""  # neither Ray, Tune nor tqdm writes beside the display
    state, _, rest = notebook.text(2).partition(" ")
    assert (state, "RUNNING" in rest, "INTERRUPTED" in rest, rest.split()[-1]) == ("INTERRUPTED", False, True, "True")
    assert [output.data["text/plain"].split("\n")[0] for output in notebook.outputs(3, "display_data")][1:] == [
        "2 of 2 trials complete"
    ]
    (handle,) = notebook.outputs(3, "execute_result")
    assert "<strong>live</strong> COMPLETE" in handle.data["text/html"]
    (error,) = notebook.outputs(4, "error")
    assert error.traceback == [f"SpecError: {error.evalue}"]
    assert "must be a valid number" in error.evalue
