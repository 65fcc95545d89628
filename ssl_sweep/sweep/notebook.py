"""A live display in the output of a notebook's running cell."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import StringIO

from rich.console import Console, RenderableType

REFRESH_S = 1.0
WIDTH = 130  # columns
PRE = '<pre style="white-space:pre;line-height:normal">{code}</pre>'


@contextmanager
def live_output(render: Callable[[], RenderableType]) -> Iterator[None]:
    """Draw in one place, anew each second while the block runs; Rich's own display would need ipywidgets."""
    from IPython.display import display

    def drawn() -> dict[str, str]:
        recorder = Console(record=True, file=StringIO(), width=WIDTH, force_jupyter=False)
        recorder.print(render())
        text = recorder.export_text(clear=False)
        return {"text/plain": text, "text/html": recorder.export_html(inline_styles=True, code_format=PRE)}

    def refresh() -> None:
        while not ended.wait(REFRESH_S):
            shown.update(drawn(), raw=True)

    shown = display(drawn(), raw=True, display_id=True)  # type: ignore[no-untyped-call,unused-ignore]
    ended = threading.Event()
    thread = threading.Thread(target=refresh, name="live output", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        shown.update(drawn(), raw=True)
