"""What the board's pages fetch as they are looked at: plots as JSON, the table, ways into MLflow and Ray."""

import json
from collections.abc import Callable, Iterable
from typing import Annotated, Any, Literal, TypeVar

import anyio
from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from ssl_sweep.report.figures import Plot
from ssl_sweep.service.board.assets import if_new
from ssl_sweep.service.board.curves import MAX_TRIALS, courses
from ssl_sweep.service.board.progress import By, best_so_far, course
from ssl_sweep.service.board.snapshot import Snapshot, Snapshots
from ssl_sweep.service.board.trials import best_rows
from ssl_sweep.service.endpoint import Name, Named, Service, Viewer, found, from_mlflow
from ssl_sweep.service.guard import Refused
from ssl_sweep.service.loop import Loop
from ssl_sweep.trialdir.journal import JournalError

MAX_COMPARED = 12  # sweeps
BEST = 5  # trials whose curves are shown until others are chosen
TRIAL = r"^[0-9a-f-]{1,36}$"
MetricNamed = Annotated[str | None, Query(max_length=200)]
Compared = Annotated[list[Named], Query(min_length=1, max_length=MAX_COMPARED)]
router = APIRouter(include_in_schema=False)
_looks = anyio.CapacityLimiter(2)  # of their own: a ledger that is away for minutes holds up no submission
T = TypeVar("T")


async def looked(work: Callable[[], T]) -> T:
    """Do what takes a moment, two at a time, and have the rest of the service answer meanwhile."""
    return await anyio.to_thread.run_sync(work, limiter=_looks)


def snapshot_of(request: Request, service: Loop, name: str) -> Snapshot:
    """A submitted sweep as its ledger has it."""
    snapshots: Snapshots = request.app.state.snapshots
    return snapshots.of(service, found(service, name))


@router.get("/sweeps/{name}/plots")
async def plots(
    name: Name, request: Request, _: Viewer, service: Service, metric: MetricNamed = None, by: By = "time"
) -> Response:
    """The plots of a sweep and its best choice."""

    def made() -> bytes:
        snapshot = snapshot_of(request, service, name)
        shown = snapshot.metric(metric)
        return snapshot.once(("plots", shown, by), lambda: _plots(snapshot, shown, by))

    return if_new(request, await looked(made), "application/json")


@router.get("/sweeps/{name}/curves")
async def curves(
    name: Name,
    request: Request,
    _: Viewer,
    service: Service,
    trial: Annotated[list[Annotated[str, Query(pattern=TRIAL)]] | None, Query(max_length=MAX_TRIALS)] = None,
    metric: MetricNamed = None,
) -> Response:
    """Learning curves of these trials, or of the best."""

    def made() -> bytes:
        snapshot = snapshot_of(request, service, name)
        wanted, objective = set(trial or ()), snapshot.metric(None)
        rows = [row for row in snapshot.rows if row.trial.trial_id in wanted] or best_rows(snapshot, objective, BEST)
        storage = service.settings.storage
        folders = [storage.trial(name, row.trial.trial_id) for row in rows]
        try:
            drawn = courses(rows, folders, metric, objective)
        except JournalError as error:
            raise Refused(409, str(error)) from None
        shown = [_shown("curves", "curves-0", drawn.plot, f"{sorted(wanted)} {drawn.metric}")] if drawn.plot else []
        return _json({"plots": shown, "metrics": drawn.metrics, "metric": drawn.metric, "chosen": bool(wanted)})

    return if_new(request, await looked(made), "application/json")


@router.get("/compare/plots")
async def compared(request: Request, _: Viewer, service: Service, sweep: Compared, by: By = "time") -> Response:
    """The best so far of several sweeps, by the first one's objective."""

    def made() -> bytes:
        snapshots = [snapshot_of(request, service, each) for each in dict.fromkeys(sweep)]
        metric = snapshots[0].metric(None)
        plot = best_so_far([course(each, metric, by) for each in snapshots], by)
        without = [each.name for each in snapshots if metric not in each.metrics]
        return _json({"plots": [_shown("best", "best-0", plot, by)] if plot else [], "without": without})

    return if_new(request, await looked(made), "application/json")


@router.get("/sweeps/{name}/table")
async def table(name: Name, request: Request, _: Viewer, service: Service) -> Response:
    """The ablation table in HTML, of a long one the best rows; from MLflow."""

    def made() -> str:
        from ssl_sweep.report.page import caption_of, shown_rows
        from ssl_sweep.report.sweep import read_sweep
        from ssl_sweep.tables.render import render

        sweep = read_sweep(found(service, name).name, service.settings.storage.tracking_uri)
        return render(shown_rows(sweep), "html", caption=caption_of(sweep))

    return if_new(request, (await from_mlflow(made)).encode(), "text/html")


@router.get("/sweeps/{name}/mlflow")
async def mlflow(
    name: Name, _: Viewer, service: Service, trial: Annotated[str | None, Query(pattern=TRIAL)] = None
) -> RedirectResponse:
    """Lead to the sweep's experiment in MLflow, or to a trial's run."""
    if not (base := service.settings.mlflow_url):
        remedy = "`ssl-sweep ui` shows its store; or start the service with --mlflow-url"
        raise Refused(404, f"the service knows no address of MLflow's pages; {remedy}")

    def place() -> str:
        from ssl_sweep.tracking import store

        uri = service.settings.storage.tracking_uri
        client = store.connect(uri)
        experiment = store.parent_of(client, found(service, name).name, uri).info.experiment_id
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
        "best": [best_so_far([course(snapshot, metric, by)], by)],
        "front": [front_plot(sweep)],
        "knobs": knob_plots(sweep, sweep.knobs[:MAX_KNOBS], [metric]) if metric else [],
        "together": [parallel_coordinates(sweep)],
    }
    shown = [
        _shown(section, f"{section}-{index}", plot, f"{metric} {by if section == 'best' else ''}")
        for section, drawn in sections.items()
        for index, plot in enumerate(drawn)
        if plot is not None
    ]
    said = {"knobs": best.knobs or "the only one", "figure": best.figure} if best else None
    return _json({"plots": shown, "best": said, "metrics": snapshot.metrics, "metric": metric})


def _shown(section: str, number: str, plot: Plot, what: str) -> dict[str, Any]:
    """A plot for the page; as long as it shows the same, a reader's zoom stays."""
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
