"""A sweep as a Python object: run it, resume it, and read its results as pandas."""

from collections.abc import Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import pandas as pd
from rich.console import Console

from ssl_sweep.api.frames import trials_frame
from ssl_sweep.api.html import next_step, sweep_html
from ssl_sweep.api.plan import Source, read_spec
from ssl_sweep.api.table import AblationFrame, Names, make_table
from ssl_sweep.api.trial import TrialHandle
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.plugins import catalog
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage.layout import Storage
from ssl_sweep.storage.open import find_storage, is_default
from ssl_sweep.sweep.best import select_trial
from ssl_sweep.sweep.extension import extend_spec
from ssl_sweep.sweep.resumed_settings import changes_of
from ssl_sweep.sweep.status import State, counts, may_be_driven, state_of
from ssl_sweep.sweep.steering import ResumeSelection, stop_or_pause
from ssl_sweep.sweep.tracking_uri import stored_tracking_uri
from ssl_sweep.tables.ablation import Test
from ssl_sweep.tables.table import Interval

if TYPE_CHECKING:
    from ssl_sweep.sweep.data_check import DataChanged
    from ssl_sweep.sweep.drive import Summary

Place = str | Path | None


class Sweep:
    """A sweep in a storage. It is read anew at each access, so that a handle shows what another process has done.

    `run`, `resume` and `extend` return when no trial is left to run, or when an interrupt, a stop or a pause has ended
    the work; `state` says which. Every error that a user can do something about is a `UserError`.
    """

    summary: "Summary"  # what the last run through this handle ended with; not set before

    def __init__(
        self,
        name: str,
        storage: Storage,
        *,
        address: str | None = None,
        plugins: Place = None,
        console: Console | None = None,
    ) -> None:
        """
        Args:
            name: the sweep's.
            storage: where it lies.
            address: the Ray cluster that runs its trials; None: RAY_ADDRESS, else this machine.
            plugins: folder of your own methods, encoders, evaluations and sources, whose code is run; None:
                SSL_SWEEP_PLUGINS.
            console: where progress is shown; the caller then shows the result. None: the notebook's output or stderr,
                where the result follows.
        """
        self.name, self.storage, self.address, self.plugins = name, storage, address, plugins
        self._console = console

    @property
    def spec(self) -> SweepSpec:
        """The spec that it began with, as extended since."""
        return self._ledger().spec

    @property
    def state(self) -> State:
        """RUNNING, COMPLETE, FAILED, STOPPED, PAUSED, or INTERRUPTED: it is not over, and no driver runs it."""
        return state_of(self._ledger())

    @property
    def counts(self) -> dict[str, Any]:
        """The number of trials in each state, `total`, and the `best` objective so far."""
        return counts(self._ledger())

    @property
    def trials(self) -> pd.DataFrame:
        """One row a trial, failed and pruned ones too, by choice and seed.

        Columns: trial_id, choice, seed, state, the knobs (`views.overlay_alpha`), the metrics (`knn/top1_test`; of a
        trial without results what it reported last), reason and message of a failure, collapsed, attempts, stage,
        epoch, confirms (a fresh seed of one of the best choices), folder.
        """
        ledger = self._ledger()
        self.storage.pull(self.name)
        return trials_frame(ledger, self.storage)

    @property
    def best(self) -> TrialHandle:
        """The best trial of the best choice by the objective. Raises NoSuchTrial: no complete trial has an encoder."""
        return self._trial(None)

    def trial(self, trial_id: str) -> TrialHandle:
        """A trial by its id or the start of it. Raises NoSuchTrial."""
        return self._trial(trial_id)

    def history(self, *metrics: str) -> pd.DataFrame:
        """The learning curves in MLflow: one row a value that a trial reported, `metrics` only (all without any).

        Columns: trial_id, name, step, value, time (UTC).
        """
        from ssl_sweep.tracking.reader import histories  # MLflow takes seconds to import

        return histories(self.name, stored_tracking_uri(self.storage, self.name), metrics or None)

    def table(
        self,
        *others: "str | Sweep",
        rows: Names = None,
        columns: Names = None,
        interval: Interval | None = None,
        baseline: Any = None,
        test: Test | None = None,
        group_by: Names = None,
    ) -> AblationFrame:
        """The ablation table of this sweep and `others`, from MLflow; each option overrides the spec's.

        Args:
            others: more sweeps of the same storage, by name or handle.
            rows: parameters that name the rows, searched or not.
            columns: metrics.
            interval: what stands beside a mean: its standard deviation, or a 95 % interval.
            baseline: the row that all others are tested against: a value, or several as a tuple.
            test: the significance test, paired by seed.
            group_by: parameters; only the best row of each group is shown.
        """
        names = [self.name, *(other if isinstance(other, str) else other.name for other in others)]
        table = make_table(
            names,
            self.storage,
            rows=rows,
            columns=columns,
            interval=interval,
            baseline=baseline,
            test=test,
            group_by=group_by,
        )
        return AblationFrame(table, caption=", ".join(names))

    def report(self, path: str | Path | None = None) -> Path:
        """Write the sweep's page, one HTML file, by default NAME.html in the current folder; returns its path."""
        from ssl_sweep.report.page import make_page

        target = Path(path or f"{self.name}.html")
        target.parent.mkdir(parents=True, exist_ok=True)
        page = make_page(self.name, stored_tracking_uri(self.storage, self.name), partial(may_be_driven, self.storage))
        target.write_text(page, encoding="utf-8", errors="replace")
        return target

    def resume(
        self,
        *,
        failed: bool = False,
        trials: Sequence[str] = (),
        overrides: Sequence[str] = (),
        retries: int | None = None,
        max_concurrent: int | None = None,
        data_changed: "DataChanged | None" = None,
    ) -> Self:
        """Continue the sweep, and run its failed and stopped trials again.

        Args:
            overrides: keys that change no result, `data.on_error=skip`; or knobs that are not searched,
                `pretrain.clip_norm=1`: the choices with failed trials run again with these as new choices.
            failed: run only trials that failed.
            trials: run only these, by id or the start of it.
            retries: new limit of retries of a crashed trial.
            max_concurrent: new limit of trials at a time.
            data_changed: see `run`.
        """
        catalog.use(self.plugins)  # files may have been edited
        changes = changes_of(self.spec, _listed(overrides))
        spec = changes.spec
        if retries is not None:
            spec = spec.model_copy(update={"retries": retries})
        if max_concurrent is not None:
            resources = spec.resources.model_copy(update={"max_concurrent": max_concurrent})
            spec = spec.model_copy(update={"resources": resources})
        selection = ResumeSelection(failed, _listed(trials), changes.settings)
        return self._drive(spec, resume=selection, data_changed=data_changed)

    def extend(
        self, choices: str | int, overrides: Sequence[str] = (), *, data_changed: "DataChanged | None" = None
    ) -> Self:
        """Run more choices in the same study.

        Args:
            choices: `"+20"` adds 20; `40` makes 40 in all.
            overrides: `search.space.KNOB=...` may widen numeric ranges.
            data_changed: see `run`.
        """
        from ssl_sweep.cluster.errors import ClusterError

        catalog.use(self.plugins)
        spec = extend_spec(self.spec, str(choices), _listed(overrides))
        try:
            return self._drive(spec, extends=True, data_changed=data_changed)
        except ClusterError as error:
            remedy = f"{self.name} is extended already, continue it: ssl-sweep resume {self.name}"
            raise type(error)(f"{error}; {remedy}") from None

    def stop(self, trials: Sequence[str] = ()) -> str:
        """Ask the process that runs the sweep to stop it, or these trials; returns what happens next, in words."""
        return stop_or_pause(self.storage, self.name, "stop", _listed(trials))

    def pause(self) -> str:
        """Ask the process that runs the sweep to pause it; returns what happens next, in words."""
        return stop_or_pause(self.storage, self.name, "pause")

    def __repr__(self) -> str:
        now = self.counts
        return f"<Sweep {self.name}: {self.state}, {now['complete']} of {now['total']} trials complete>"

    def _repr_html_(self) -> str:
        now, shown = self.counts, ""
        if now["complete"]:
            try:
                shown = str(self.table()._repr_html_())
            except Exception as error:  # the rest is to be shown while MLflow cannot be read
                shown = f"<p>no table: {escape(str(error))}</p>"
        return sweep_html(self.state, now, shown, self._next_step())

    def _next_step(self) -> str:
        return next_step(self.name, self.state, None if is_default(self.storage) else self.storage.place)

    def _ledger(self) -> LedgerReader:
        return load_ledger(self.storage.ledger_url, self.name)

    def _trial(self, prefix: str | None) -> TrialHandle:
        catalog.use(self.plugins)
        ledger = self._ledger()
        trial, why = select_trial(ledger, self.storage, prefix)
        return TrialHandle.of(trial, ledger, self.storage, why)

    def _drive(self, spec: SweepSpec, **how: Any) -> Self:
        from ssl_sweep.sweep import drive  # Ray takes seconds to import
        from ssl_sweep.sweep.outcome import outcome
        from ssl_sweep.sweep.output import LastingOutput

        console = self._console or Console(stderr=True, highlight=False)
        if self._console is None and not console.is_jupyter:
            console.file = LastingOutput(console.file)  # type: ignore[assignment]  # it has all that Rich uses
        self.summary = drive.drive(spec, self.storage, console, address=self.address, **how)
        if self._console is None:
            words = f"{outcome(self.name, self.summary)}\n{self._next_step()}"
            console.print(words, markup=False, soft_wrap=True)
        return self


def run(
    spec: Source,
    overrides: Sequence[str] = (),
    *,
    storage: Place = None,
    address: str | None = None,
    plugins: Place = None,
    data_changed: "DataChanged | None" = None,
    console: Console | None = None,
) -> Sweep:
    """Run a sweep, or continue it. Finished trials are not run again.

    Args:
        spec: a YAML file, or its content as a dict; `experiments/SPEC.md` lists every key.
        overrides: keys to set, `pretrain.epochs=2`, as `--set` on the command line.
        storage: folder or `s3://BUCKET/PREFIX`; None: SSL_SWEEP_STORAGE, or `./runs`.
        address: Ray cluster; None: RAY_ADDRESS, else this machine.
        plugins: folder of your own methods, encoders, evaluations and sources, as `local/NAME` in the spec; its code is
            run. None: SSL_SWEEP_PLUGINS.
        data_changed: what to do where the data is not what the sweep began with. None refuses to go on; "keep":
            finished trials keep their results, and the others use the new data; "restart": finished trials run again.
        console: see `Sweep`.

    Raises:
        SpecError: the spec is invalid; the message has every problem.
        UserError: of another class: the sweep cannot be run now, and the message says why.
    """
    catalog.use(plugins)
    checked = read_spec(spec, overrides)
    sweep = Sweep(checked.name, find_storage(storage), address=address, plugins=plugins, console=console)
    return sweep._drive(checked, data_changed=data_changed)


def open(  # noqa: A001 - users read `ssl_sweep.open`
    name: str,
    *,
    storage: Place = None,
    address: str | None = None,
    plugins: Place = None,
    console: Console | None = None,
) -> Sweep:
    """An existing sweep by its name; the arguments are those of `run`. Raises LedgerError: there is none."""
    sweep = Sweep(name, find_storage(storage), address=address, plugins=plugins, console=console)
    sweep._ledger()
    return sweep


def _listed(values: Sequence[str]) -> tuple[str, ...]:
    """A text alone stands for a list of it."""
    return (values,) if isinstance(values, str) else tuple(values)
