"""The display of a running sweep: counts, best result, time left, and the stage of each running trial."""

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from threading import Event, Thread

from rich.console import Console, Group
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ssl_sweep.ledger.best import ranked
from ssl_sweep.ledger.entries import Trial
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.sweep.notebook import live_output
from ssl_sweep.sweep.status import has_collapsed, waits_of
from ssl_sweep.tables.labels import display_name, duration
from ssl_sweep.training.health import health_of
from ssl_sweep.trialdir.damage import DamagedFileError
from ssl_sweep.trialdir.events import MetricsReported
from ssl_sweep.trialdir.states import TrialState

MAX_ROWS = 12
LOOK_EVERY_S = 5.0  # whether trials wait for others
WAIT_TOLD_S = 30.0  # a wait of so long gets a line where the display cannot be drawn
LINE_EVERY_S = 60.0  # reports in between print no line where the display cannot be drawn


class Progress:
    """An `Observer` that shows the progress of one driver.

    On a terminal and in a notebook it draws a live display; elsewhere it prints a line when a trial ends, and about one
    a minute.
    """

    def __init__(
        self,
        spec: SweepSpec,
        known: list[Trial],
        total: Callable[[], int],
        console: Console,
        folder_of: Callable[[str], Path],
    ) -> None:
        """total: returns the number of trials, as far as it is known yet. folder_of: a trial's, by its id."""
        self._spec, self._total, self._console, self._folder_of = spec, total, console, folder_of
        self._ended = {trial.trial_id: trial for trial in known if trial.ended}
        self._before = len(self._ended)
        self._running: dict[str, tuple[Trial, str]] = {}
        self._waits: dict[str, tuple[str, float]] = {}  # of running trials: in words, and since when they are known
        self._told: set[str] = set()
        self._collapsed: set[str] = set()
        self._health = health_of({"health": spec.health})
        self._started = self._last_line = time.monotonic()

    @contextmanager
    def shown(self) -> Iterator[None]:
        """Keep the display up to date while the block runs."""
        display: AbstractContextManager[object] = nullcontext()
        if self._console.is_jupyter and not self._console.quiet:
            display = live_output(self._render)
        elif self._console.is_terminal:
            display = Live(console=self._console, get_renderable=self._render, refresh_per_second=4, transient=True)
        ended = Event()
        thread = Thread(target=self._look_regularly, args=(ended,), name="waits", daemon=True)
        thread.start()
        try:
            with display:
                yield
        finally:
            ended.set()
            thread.join()

    def _look_regularly(self, ended: Event) -> None:
        while not ended.wait(LOOK_EVERY_S):
            self.look()

    def look(self) -> None:
        """See which running trials wait for another process, or are stopped, and tell those that do so for long."""
        before, now = self._waits, time.monotonic()
        self._waits = {
            trial_id: (words, before[trial_id][1] if before.get(trial_id, ("",))[0] == words else now)
            for trial_id in list(self._running)
            if (words := waits_of(self._folder_of(trial_id))) is not None
        }
        for trial, _ in list(self._running.values()):
            words, since = self._waits.get(trial.trial_id, ("", now))
            if now - since >= WAIT_TOLD_S and words not in self._told:
                self._told.add(words)
                self._print(trial, words)

    def started(self, trial: Trial) -> None:
        self._running[trial.trial_id] = (trial, "starting")

    def reported(self, trial: Trial, report: MetricsReported) -> None:
        stage, metrics = report.stage, report.metrics
        spreads = {name.removeprefix("pretrain/"): value for name, value in metrics.items()}
        if stage == "pretrain" and self._health.collapsed(spreads) is not None:
            self._collapsed.add(trial.trial_id)
        shown = next((name for name in (f"{stage}/top1_val", f"{stage}/loss") if name in metrics), None)
        value = f"  {shown} {metrics[shown]:.4g}" if shown else ""
        where = f"{stage} epoch {report.step}{value}"
        self._running[trial.trial_id] = (trial, where)
        if time.monotonic() - self._last_line >= LINE_EVERY_S:
            self._print(trial, where)

    def ended(self, trial: Trial) -> None:
        self._running.pop(trial.trial_id, None)
        with suppress(DamagedFileError):  # which `status` shows
            # another trial may have reported a shared pretraining
            if has_collapsed(self._folder_of(trial.trial_id)):
                self._collapsed.add(trial.trial_id)
        if trial.ended:  # a paused trial has not
            self._ended[trial.trial_id] = trial
        self._print(trial, self._end_of(trial))

    def _print(self, trial: Trial, text: str) -> None:
        """Print a line, unless the display is drawn."""
        if self._console.is_terminal or self._console.is_jupyter:
            return
        seed = f"{'fresh ' if trial.confirms else ''}seed {trial.seed}"
        line = f"[{len(self._ended)}/{self._total()}] choice {trial.choice} {seed}: {text}"
        self._console.print(Text(line), highlight=False, soft_wrap=True)
        self._last_line = time.monotonic()

    def _end_of(self, trial: Trial) -> str:
        value = (trial.results or {}).get(self._spec.search.primary.metric)
        end = (
            f"{self._spec.search.primary.metric} {value:.4g}"
            if value is not None
            else ": ".join(filter(None, (trial.reason, trial.message)))
        )
        collapsed = ", collapsed" if trial.trial_id in self._collapsed and trial.reason != "collapsed" else ""
        return f"{trial.state}{collapsed}, {end}; about {self._left()} left"

    def _render(self) -> Group:
        rows = Table.grid(padding=(0, 2))
        for trial, where in list(self._running.values())[:MAX_ROWS]:
            where = self._waits.get(trial.trial_id, (where, 0.0))[0]
            rows.add_row(f"choice {trial.choice}", f"seed {trial.seed}", f"attempt {trial.attempts}", where)
        bar = Padding(ProgressBar(self._total(), len(self._ended), width=60), 0)  # gives the bar a line of its own
        return Group(self._header(), bar, rows)

    def _header(self) -> Text:
        states = Counter(trial.state for trial in self._ended.values())
        failed, pruned = states[TrialState.FAILED], states[TrialState.PRUNED]
        elapsed = duration(time.monotonic() - self._started)
        return Text.assemble(
            (self._spec.name, "bold"),
            "  confirming" if any(trial.confirms for trial, _ in self._running.values()) else "",
            f"  done {len(self._ended) - failed}/{self._total()}  running {len(self._running)}  ",
            (f"failed {failed}", "red" if failed else "dim"),
            f"  pruned {pruned}" if pruned else "",
            (f"  collapsed {len(self._collapsed)}", "yellow") if self._collapsed else "",
            f"  best {self._best()}  {elapsed} elapsed, about {self._left()} left",
        )

    def _best(self) -> str:
        objective = self._spec.search.primary
        best = ranked(self._ended.values(), objective)
        if not best:
            return "-"
        number, scores = best[0]
        seeds = f"{len(scores.fresh)} fresh seeds" if scores.fresh else f"mean of {len(scores.searched)} seeds"
        seeds = f", {seeds}" if len(scores.fresh or scores.searched) > 1 or scores.fresh else ""
        return f"{display_name(objective.metric)} {scores.value:.4g} (choice {number}{seeds})"

    def _left(self) -> str:
        done = len(self._ended) - self._before
        if done == 0:
            return "?"
        return duration((time.monotonic() - self._started) / done * (self._total() - len(self._ended)))
