"""What the board's pages fetch while they are open: plots as JSON, the table, links into MLflow."""

import json
from collections.abc import Callable, Iterable
from functools import partial
from typing import Annotated, Any, Literal, TypeVar

import anyio
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from ssl_sweep.report.figures import Plot
from ssl_sweep.service.board.assets import if_new
from ssl_sweep.service.board.curves import MAX_TRIALS, learning_curves
from ssl_sweep.service.board.progress import By, best_so_far, history
from ssl_sweep.service.board.snapshot import Snapshot, Snapshots
from ssl_sweep.service.board.trials import best_rows
from ssl_sweep.service.dependencies import Name, Named, Service, Viewer, from_mlflow, get_submission, is_driven
from ssl_sweep.service.dispatcher import Dispatcher
from ssl_sweep.service.middleware import ApiError
from ssl_sweep.trialdir.damage import DamagedFileError

MAX_COMPARED = 12  # sweeps
BEST = 5  # trials whose curves are shown until others are selected
TRIAL = r"^[0-9a-f-]{1,36}$"
MetricNamed = Annotated[str | None, Query(max_length=200)]
Compared = Annotated[list[Named], Query(min_length=1, max_length=MAX_COMPARED)]
router = APIRouter(include_in_schema=False)
_read_threads = anyio.CapacityLimiter(2)  # of their own: an unavailable ledger must not hold up submissions
T = TypeVar("T")


async def run_read(work: Callable[[], T]) -> T:
    """Read a ledger or journals in one of two threads, so that other requests are answered meanwhile."""
    return await anyio.to_thread.run_sync(work, limiter=_read_threads)


def snapshot_of(request: Request, service: Dispatcher, name: str) -> Snapshot:
    """A snapshot of a submitted sweep."""
    snapshots: Snapshots = request.app.state.snapshots
    return snapshots.of(service, get_submission(service, name))


@router.get("/sweeps/{name}/plots")
async def plots(
    name: Name, request: Request, _: Viewer, service: Service, metric: MetricNamed = None, by: By = "time"
) -> Response:
    """The plots of a sweep and its best choice."""

    def make() -> bytes:
        snapshot = snapshot_of(request, service, name)
        shown = snapshot.metric(metric)
        return snapshot.once(("plots", shown, by), lambda: _plots(snapshot, shown, by))

    return if_new(request, await run_read(make), "application/json")


@router.get("/sweeps/{name}/curves")
async def curves(
    name: Name,
    request: Request,
    _: Viewer,
    service: Service,
    trial: Annotated[list[Annotated[str, Query(pattern=TRIAL)]] | None, Query(max_length=MAX_TRIALS)] = None,
    metric: MetricNamed = None,
) -> Response:
    """Learning curves of the selected trials, or of the best ones."""

    def make() -> bytes:
        snapshot = snapshot_of(request, service, name)
        wanted, objective = set(trial or ()), snapshot.metric(None)
        rows = [row for row in snapshot.rows if row.trial.trial_id in wanted] or best_rows(snapshot, objective, BEST)
        storage = service.settings.storage
        folders = [storage.trial(name, row.trial.trial_id) for row in rows]
        try:
            drawn = learning_curves(rows, folders, metric, objective)
        except DamagedFileError as error:
            raise ApiError(409, str(error)) from None
        shown = [_plot_json("curves", "curves-0", drawn.plot, f"{sorted(wanted)} {drawn.metric}")] if drawn.plot else []
        return _json({"plots": shown, "metrics": drawn.metrics, "metric": drawn.metric, "chosen": bool(wanted)})

    return if_new(request, await run_read(make), "application/json")


@router.get("/compare/plots")
async def compared(request: Request, _: Viewer, service: Service, sweep: Compared, by: By = "time") -> Response:
    """The best value so far of several sweeps, by the objective of the first."""

    def make() -> bytes:
        snapshots = [snapshot_of(request, service, each) for each in dict.fromkeys(sweep)]
        metric = snapshots[0].metric(None)
        plot = best_so_far([history(each, metric, by) for each in snapshots], by)
        without = [each.name for each in snapshots if metric not in each.metrics]
        return _json({"plots": [_plot_json("best", "best-0", plot, by)] if plot else [], "without": without})

    return if_new(request, await run_read(make), "application/json")


@router.get("/sweeps/{name}/table")
async def table(name: Name, request: Request, _: Viewer, service: Service) -> Response:
    """The ablation table in HTML, from MLflow; a long one is cut to its best rows."""

    def make() -> str:
        from ssl_sweep.report.page import caption_of, shown_rows
        from ssl_sweep.report.sweep import read_sweep
        from ssl_sweep.tables.render import render

        uri = service.settings.storage.tracking_uri
        sweep = read_sweep(get_submission(service, name).name, uri, partial(is_driven, service))
        return render(shown_rows(sweep), "html", caption=caption_of(sweep))

    return if_new(request, (await from_mlflow(make)).encode(), "text/html")


@router.get("/sweeps/{name}/mlflow")
async def mlflow(
    name: Name, _: Viewer, service: Service, trial: Annotated[str | None, Query(pattern=TRIAL)] = None
) -> RedirectResponse:
    """Redirect to the sweep's experiment in MLflow, or to a trial's run."""
    if not (base := service.settings.mlflow_url):
        remedy = "`ssl-sweep ui` shows its store; or start the service with --mlflow-url"
        raise ApiError(404, f"the service has no address of MLflow's pages; {remedy}")

    def place() -> str:
        from ssl_sweep.tracking import store

        uri = service.settings.storage.tracking_uri
        client = store.connect(uri)
        experiment = store.parent_run(client, get_submission(service, name).name, uri).info.experiment_id
        run = f"/runs/{store.trial_run(client, name, trial, uri)}" if trial else ""
        return f"{base.rstrip('/')}/#/experiments/{experiment}{run}"

    return RedirectResponse(await from_mlflow(place), 303)


def _plots(snapshot: Snapshot, metric: str, by: Literal["time", "trials"]) -> bytes:
    if not snapshot.rows:
        return _json({"plots": [], "best": None, "metrics": snapshot.metrics, "metric": metric})
    from ssl_sweep.report import summary  # with pandas and MLflow
    from ssl_sweep.report.front import front_plot
    from ssl_sweep.report.knob_plots import knob_plots
    from ssl_sweep.report.page import MAX_KNOBS
    from ssl_sweep.report.relations import parallel_coordinates
    from ssl_sweep.service.board.frames import as_sweep

    sweep = snapshot.once("sweep", lambda: as_sweep(snapshot))
    best = summary.best(sweep)
    sections: dict[str, Iterable[Plot | None]] = {
        "best": [best_so_far([history(snapshot, metric, by)], by)],
        "front": [front_plot(sweep)],
        "knobs": knob_plots(sweep, sweep.knobs[:MAX_KNOBS], [metric]) if metric else [],
        "together": [parallel_coordinates(sweep)],
    }
    shown = [
        _plot_json(section, f"{section}-{index}", plot, f"{metric} {by if section == 'best' else ''}")
        for section, drawn in sections.items()
        for index, plot in enumerate(drawn)
        if plot is not None
    ]
    best_choice = {"knobs": best.knobs or "the only one", "figure": best.figure} if best else None
    return _json({"plots": shown, "best": best_choice, "metrics": snapshot.metrics, "metric": metric})


def _plot_json(section: str, number: str, plot: Plot, what: str) -> dict[str, Any]:
    """A plot for the page; `what` identifies its content: while that is the same, the zoom stays."""
    return {
        "id": number,
        "section": section,
        "title": plot.title,
        "alt": plot.alt,
        "min_width": plot.min_width,
        "data": plot.data,
        "layout": {**plot.layout, "uirevision": f"{number} {what}"},
    }


def _json(content: Any) -> bytes:
    return json.dumps(content, allow_nan=False, separators=(",", ":")).encode()
