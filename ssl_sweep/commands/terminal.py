"""Rich tables and texts that the commands print.

Commands against a service import this file, so it must not import torch or pandas, which take seconds.
"""

import shlex
import shutil
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ssl_sweep.knobs.objective import parse_objectives
from ssl_sweep.service.states import SweepState
from ssl_sweep.storage.layout import Storage
from ssl_sweep.storage.open import is_default
from ssl_sweep.tables.labels import duration, views_text
from ssl_sweep.trialdir.processes import Process
from ssl_sweep.trialdir.states import TrialState

if TYPE_CHECKING:
    from ssl_sweep.spec.sweep import SweepSpec
    from ssl_sweep.sweep.drive import Summary
    from ssl_sweep.sweep.housekeeping import Removable
    from ssl_sweep.tables.table import Table as Ablation

STYLES = {
    TrialState.COMPLETE: "green", TrialState.RUNNING: "cyan", TrialState.FAILED: "red", TrialState.CREATED: "dim",
    TrialState.INTERRUPTED: "yellow",
    TrialState.STOPPED: "yellow", TrialState.PAUSED: "yellow", SweepState.QUEUED: "dim", SweepState.LAUNCHING: "cyan",
}  # fmt: skip


def summary(spec: "SweepSpec", storage: Storage, result: "Summary") -> Group:
    """The result of a driver: table, failures, and commands to try next."""
    from ssl_sweep.sweep.outcome import outcome

    parts: list[RenderableType] = []
    if result.table is not None and result.complete:
        parts += [_ablation(spec, result.table), Text()]
    is_bad = result.failed or result.ending.halted is not None
    parts.append(Text(outcome(spec.name, result), "red" if is_bad else ""))
    if result.unrecorded:
        parts.append(Text(f"MLflow lacks {result.unrecorded} events; send them: ssl-sweep sync {spec.name}", "yellow"))
    parts += [Text(), _next_commands(spec, storage, result)]
    return Group(*parts)


def plan_table(name: str, plan: Mapping[str, Any], server: str | None = None) -> Group:
    """The numbers of a plan and its problems, here or at a service."""
    upper = "at most " if plan["at_most"] else ""
    rows = Table.grid(padding=(0, 2))
    confirm = f", and {plan['confirming']} to confirm the best" if plan["confirming"] else ""
    choices = f"({plan['choices']} choices x {plan['seeds']} seeds{confirm})"
    rows.add_row("trials", f"{upper}{plan['trials']}  {choices}")
    lengths = {"epochs": plan["pretrain_epochs"], "steps": plan.get("pretrain_steps", 0)}  # a service may be older
    length = " or ".join(f"{count:,} {unit}" for unit, count in lengths.items() if count) or "0 epochs"
    rows.add_row("pretrains", f"{upper}{plan['pretrains']}  ({length})")
    for evaluation, epochs in plan["evaluation_epochs"].items():
        rows.add_row(evaluation, f"{upper}{epochs:,} epochs")
    for names, knobs in plan["views"].items():
        rows.add_row("views", Text(f"{names}: {views_text(knobs)}"))
    for names, share in plan.get("enlarged", {}).items():  # a service does not know the images
        rows.add_row("crops", Text(f"{names}: {share:.0f} % are enlarged, having fewer pixels than a view"))
    at_once = "unknown: the service's cluster does not answer" if plan["concurrent"] is None else plan["concurrent"]
    rows.add_row("at once", str(at_once) if server else f"{at_once} here")
    remedy = "or the sweep waits until the cluster has grown" if server else "or give a cluster's --address"
    problems = [Text(f"does not fit: {problem}; lower it, {remedy}", "red") for problem in plan["problems"]]
    problems += [Text(warning, "yellow") for warning in plan["warnings"]]
    data = plan.get("data", {})  # a service does not look at it
    if "problem" in data:
        problems.append(Text(f"run would refuse this, as its images are not here: {data['problem']}", "yellow"))
    elif data:
        rows.add_row("images", _images(data))
        if data["pretrained_on"] not in ([], [data["train_images"]]):
            rows.add_row("pretrained on", f"{' or '.join(f'{count:,}' for count in data['pretrained_on'])} of these")
        for names, knobs in plan["sizes"].items():
            told = f"{names}: " if len(plan["sizes"]) > 1 or ";" in names else ""
            rows.add_row("sizes", Text(f"{told}{_sizes(knobs)}, of {data['train_images']} training images"))
        problems += [Text(f"data: {warning}", "yellow") for warning in data["warnings"]]
        if data["labelled"]:
            rows.add_row("evaluated on", _images(data["labelled"]))
            problems += [Text(f"data.labelled: {warning}", "yellow") for warning in data["labelled"]["warnings"]]
    return Group(Text(name, "bold"), rows, *problems)


def _images(data: Mapping[str, Any]) -> str:
    """`1,294 to train on, 144 for validation, 359 for testing, of 10 classes`"""
    counts = {"to train on": "train_images", "for validation": "val_images", "for testing": "test_images"}
    words = [f"{data[key]:,} {purpose}" for purpose, key in counts.items() if data[key]]
    if data["classes"]:
        words.append(f"of {data['classes']:,} {'class' if data['classes'] == 1 else 'classes'}")
    if data["unlabelled"] == sum(data[key] for key in counts.values()):
        words.append("without labels")
    elif data["unlabelled"]:
        words.append(f"{data['unlabelled']:,} without a label")
    return ", ".join(words)


def _sizes(knobs: Mapping[str, Sequence[Any]]) -> str:
    """`queue_size 1280 or 1152`"""
    return ", ".join(f"{knob} {' or '.join(map(str, values))}" for knob, values in knobs.items())


def submitted_table(sweeps: Sequence[Mapping[str, Any]]) -> Table:
    """One line for each sweep of a service."""
    table = Table("name", "owner", "state", "done", "failed", "best", "why", box=None, header_style="dim")
    for sweep in sweeps:
        counts = sweep["counts"]
        done = f"{counts['complete'] + counts['pruned']}/{counts['total']}"
        state = Text(sweep["state"], STYLES.get(sweep["state"], ""))
        cells = (done, _cell(counts["failed"]), _cell(counts["best"]))
        table.add_row(sweep["name"], sweep["owner"], state, *cells, Text(sweep["reason"].partition("\n")[0]))
    return table


def overview_table(sweeps: Sequence[Mapping[str, Any]]) -> Group:
    """One line for each sweep of a storage folder."""
    columns = ("name", "state", "total", "complete", "running", "failed", "pruned", "objective", "best")
    table = Table(*columns, box=None, header_style="dim")
    for sweep in sweeps:
        table.add_row(*(_cell(sweep.get(column)) for column in columns))
    damaged = [sweep for sweep in sweeps if sweep.get("damage")]
    return Group(table, *(Text(f"{sweep['name']} cannot be read: {sweep['damage']}", "red") for sweep in damaged))


def status_table(status: Mapping[str, Any]) -> Group:
    """Counts, one line for each trial, and each error once."""
    table = Table("trial", "knobs", "seed", "state", "stage", "epoch", "attempts", "last sign", box=None)
    metric = parse_objectives(status["objective"])[0].metric
    table.add_column(metric, justify="right")
    table.columns[1].overflow = "fold"
    for trial in status["trials"]:
        table.add_row(
            trial["trial_id"][:8],
            " ".join(f"{knob.split('.')[-1]}={_cell(value)}" for knob, value in trial["knobs"].items()),
            f"{trial['seed']} fresh" if trial["confirms"] else str(trial["seed"]),
            _state(trial),
            _cell(trial["stage"]),
            _cell(trial["epoch"]),
            _attempts(trial),
            f"{duration(trial['last_sign_seconds'])} ago" if trial["last_sign_seconds"] is not None else "-",
            _cell((trial["results"] or {}).get(metric)),
        )
    states = [
        "complete",
        "running",
        "failed",
        *(state for state in ("interrupted", "stopped", "paused", "pruned") if status.get(state)),
    ]
    counts = "  ".join(f"{state} {status[state]}" for state in (*states, "waiting"))
    phase = "  confirming" if status["phase"] == "confirming" else ""
    headline = Text.assemble((status["name"], "bold"), f"{phase}  {counts}  of {status['total']}")
    failures = Counter(trial["message"] for trial in status["trials"] if trial["state"] == TrialState.FAILED)
    messages = [Text(f"{count} failed with: {message}", "red") for message, count in failures.items()]
    retried = Counter(
        f"after {trial['reason']}: {trial['message']}"
        for trial in status["trials"]
        # paused and stopped trials have no reason
        if trial["state"] in (TrialState.CREATED, TrialState.RUNNING) and trial["reason"]
    )
    messages += [Text(f"{count} tried again {message}", "yellow") for message, count in retried.items()]
    messages += [
        Text(f"trial {trial['trial_id'][:8]} {trial['waits']}", "yellow")
        for trial in status["trials"]
        if trial.get("waits")  # a service of an earlier version does not tell
    ]
    if collapsed := sum(bool(trial.get("collapsed")) for trial in status["trials"]):
        words = f"{collapsed} collapsed: all images have nearly the same features; means that hold such a trial say so"
        messages.append(Text(words, "yellow"))
    damaged = [trial for trial in status["trials"] if trial.get("damage")]
    messages += [Text(f"trial {trial['trial_id'][:8]}: {trial['damage']}", "red") for trial in damaged]
    return Group(headline, *_driver_lines(status), table, *messages)


def _state(trial: Mapping[str, Any]) -> Text:
    """`COMPLETE`, `COMPLETE, collapsed` or `FAILED (crash)`"""
    state = Text(trial["state"] + (f" ({trial['reason']})" if trial["reason"] else ""), STYLES.get(trial["state"], ""))
    if trial.get("collapsed") and trial["reason"] != "collapsed":
        state.append(", collapsed", "yellow")
    return state


def _attempts(trial: Mapping[str, Any]) -> str:
    """`4 (2 crashed, 1 lost)`"""
    spent = [f"{trial[budget]} {budget}" for budget in ("crashed", "lost") if trial[budget]]
    return f"{trial['attempts']} ({', '.join(spent)})" if spent else str(trial["attempts"])


def _driver_lines(status: Mapping[str, Any]) -> list[Text]:
    """The driver of the sweep, and requests to stop or pause it."""
    driver, asked = status["driver"], status["asked"]
    if "owner" in status:  # the sweep is a service's
        why = f": {status['reason']}" if status["reason"] else ""
        return [Text(f"{status['owner']}'s, {status['state']}{why}" + (f"; asked to {asked['ask']}" if asked else ""))]
    lines = []
    if driver:
        process = Process(driver["host"], driver["pid"])
        lines.append(
            Text(f"driver: {process.described(driver['state'])}", "yellow" if driver["state"] == "stopped" else "dim")
        )
    if status["state"] == "INTERRUPTED":
        lines.append(Text(f"interrupted, no driver runs it; continue it: ssl-sweep resume {status['name']}", "yellow"))
    if asked:
        lines.append(Text(f"{asked['ask']} ({asked['why']}); continue it: ssl-sweep resume {status['name']}", "yellow"))
    return lines


def checks_table(checks: Sequence[Mapping[str, Any]]) -> Table:
    """One line for each check of `ssl-sweep doctor`."""
    table = Table.grid(padding=(0, 2))
    for check in checks:
        mark = Text("ok", "green") if check["ok"] else Text("failed", "red")
        source = f"from {check['source']}" if check["source"] else ""
        table.add_row(mark, Text(check["check"], overflow="fold"), Text(check["found"], overflow="fold"), source)
    return table


def removable_table(removable: Sequence["Removable"], freed: Mapping[str, int]) -> Table:
    """One line for each kind of removable files, and their sum."""
    table = Table("can be removed", "files", "MB", box=None, header_style="dim")
    lines = [(kind.kind, len(kind.files), freed[kind.kind]) for kind in removable]
    for kind, files, size in [*lines, ("total", sum(line[1] for line in lines), sum(freed.values()))]:
        table.add_row(kind, str(files), f"{size / 1e6:,.1f}")
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def refresh(draw: Callable[[], RenderableType], console: Console) -> None:
    """Draw every two seconds until Ctrl-C."""
    with Live(draw(), console=console, auto_refresh=False) as live:
        while True:
            time.sleep(2)
            live.update(draw(), refresh=True)


def _ablation(spec: "SweepSpec", ablation: "Ablation") -> Group:
    from ssl_sweep.tables.render import grid

    cells_grid = grid(ablation)
    table = Table(title=spec.description or spec.name, title_justify="left", box=None, header_style="dim")
    for header, numeric in zip(cells_grid.headers, cells_grid.numeric, strict=True):
        table.add_column(header, justify="right" if numeric else "left")
    for line, cells in enumerate(cells_grid.lines):
        styles = ("bold" if (line, column) in cells_grid.best else "" for column in range(len(cells)))
        table.add_row(*(Text(cell, style) for cell, style in zip(cells, styles, strict=True)))
    return Group(table, *(Text(note, "dim") for note in ablation.notes))


def _next_commands(spec: "SweepSpec", storage: Storage, result: "Summary") -> Table:
    place = "" if is_default(storage) else f" --storage {shlex.quote(storage.place)}"
    is_open = len(result.complete) + len(result.pruned) < result.total
    rows = Table.grid(padding=(0, 2))
    for words, meaning in (
        ("ui", "browse the trials in MLflow"),
        (f"table {spec.name} --format tex", "the table for the paper"),
        (f"status {spec.name}", "all trials"),
        (
            f"resume {spec.name}",
            "continue, failed trials included" if is_open else "continue after a failure or an interruption",
        ),
    ):
        rows.add_row(Text(f"{_program()} {words}{place}", "bold"), meaning)
    return rows


def _program() -> str:
    """How the user calls this program: `ssl-sweep` if it is on the PATH, else by its path."""
    program = Path(sys.argv[0])
    return "ssl-sweep" if program.name != "ssl-sweep" or shutil.which("ssl-sweep") else str(program)


def _cell(value: Any) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
