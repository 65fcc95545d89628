"""A sweep as a notebook shows it: state, progress, table, and what to do next."""

from collections.abc import Mapping
from html import escape
from typing import Any

from ssl_sweep.sweep.status import State

COUNTS = ("running", "interrupted", "failed", "pruned", "stopped", "paused", "waiting")  # shown where there are any
CONTINUE = (".resume()", "continue from the last checkpoints")
NEXT: dict[State, tuple[str, str]] = {
    "RUNNING": (".stop()", "trials end at their next report, with a checkpoint"),
    "COMPLETE": (".table().to_latex()", "the table for the paper"),
    "FAILED": (".resume(failed=True)", "run failed trials again"),
    "STOPPED": CONTINUE,
    "PAUSED": CONTINUE,
    "INTERRUPTED": CONTINUE,
}


def next_step(name: str, state: State, place: str | None) -> str:
    """What to do next, in Python: `next: ssl_sweep.open('alphas').resume()  # continue from the last checkpoints`.

    place: what `storage=` takes; None: the default.
    """
    call, why = NEXT[state]
    where = "" if place is None else f", storage={place!r}"
    return f"next: ssl_sweep.open({name!r}{where}){call}  # {why}"


def sweep_html(state: State, counts: Mapping[str, Any], table: str, step: str) -> str:
    """State, progress, table and next step of a sweep; `counts` as of `sweep.status.counts`, `table` is HTML."""
    total = counts["total"]
    ended = counts["complete"] + counts["failed"] + counts["pruned"] + counts["stopped"]
    words = [f"{counts['complete']} of {total} trials complete"]
    running = "running" if state == "RUNNING" else "interrupted"
    words += [f"{counts[name]} {running if name == 'running' else name}" for name in COUNTS if counts[name]]
    if counts["best"] is not None:
        words += [f"best {counts['objective'].partition(',')[0].partition(' ')[2]} {counts['best']:.4g}"]
    bar = f'<progress value="{ended}" max="{total}"></progress>'
    head = f"<p><strong>{escape(counts['name'])}</strong> {state} {bar} {escape(', '.join(words))}</p>"
    return "\n".join((head, table, f"<pre>{escape(step)}</pre>"))
