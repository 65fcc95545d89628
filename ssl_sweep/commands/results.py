"""Commands for the results of sweeps: tables, pages, encoders, MLflow."""

import os
import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ssl_sweep.commands.shared import (
    Format,
    Name,
    Plugins,
    StorageFolder,
    app,
    err,
    out,
    remote_client,
    storage_at,
    user_errors,
)


@app.command()
def table(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of the sweeps.")],
    form: Annotated[Format, typer.Option("--format", "-f", help="Output format.")] = "md",
    rows: Annotated[
        str | None, typer.Option(metavar="PARAMETER,...", help="Parameters that name the rows, searched or not.")
    ] = None,
    columns: Annotated[str | None, typer.Option(metavar="METRIC,...", help="Metrics that make the columns.")] = None,
    interval: Annotated[
        Literal["std", "t", "bootstrap"] | None, typer.Option(help="Show ± the standard deviation, or a 95 % interval.")
    ] = None,
    baseline: Annotated[str | None, typer.Option(metavar="ROW", help="Row that all others are tested against.")] = None,
    test: Annotated[Literal["t", "wilcoxon"] | None, typer.Option(help="Significance test, paired by seed.")] = None,
    group_by: Annotated[
        str | None, typer.Option(metavar="PARAMETER,...", help="Only the best row of each group: method.name, sweep.")
    ] = None,
    storage: StorageFolder = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow store.", show_default="the sweeps', else the storage's")
    ] = None,
) -> None:
    """Print the ablation table of one or several sweeps.

    It is made from MLflow alone. Options override those of the spec.
    """
    with user_errors():
        lists = {"rows": rows, "columns": columns, "group_by": group_by}
        chosen = {
            key: None if text is None else [part.strip() for part in text.split(",")] for key, text in lists.items()
        }
        options: dict[str, Any] = {**chosen, "interval": interval, "baseline": baseline, "test": test}
        if client := remote_client(storage=storage):
            sys.stdout.write(client.table(names, form, **options))
            return
        from ssl_sweep.api.table import make_table
        from ssl_sweep.tables.render import render

        ablation = make_table(names, storage_at(storage), tracking_uri=tracking_uri, **options)
        sys.stdout.write(render(ablation, form, caption=", ".join(names)).rstrip("\n") + "\n")


@app.command()
def export(
    name: Name,
    output: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="File to write.")],
    trial: Annotated[
        str | None,
        typer.Option("--trial", metavar="ID", help="Trial by its id or the start of it.", show_default="the best"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
    storage: StorageFolder = None,
    plugins: Plugins = None,
) -> None:
    """Write the encoder of a trial to a file, with torchvision's names of weights."""
    with user_errors():
        from ssl_sweep.api import handle

        sweep = handle.open(name, storage=storage, plugins=plugins)
        chosen = sweep.best if trial is None else sweep.trial(trial)
        written = chosen.export(output, force=force)
        lines = [f"{output}: {written['encoder']} of trial {chosen.id} ({chosen.description})"]
        lines += [f"load: {written['load'].replace('FILE', repr(str(output)))}", f"input: {written['input']}"]
        out.print("\n".join(lines), markup=False, soft_wrap=True)


@app.command()
def report(
    name: Name,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="File to write.", show_default="NAME.html")
    ] = None,
    storage: StorageFolder = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow store.", show_default="the sweep's, else the storage's")
    ] = None,
) -> None:
    """Write the page of a sweep: table, plots, pictures, failures and cost in one HTML file.

    It is made from MLflow alone.
    """
    with user_errors():
        if client := remote_client(storage=storage):
            page = client.report(name)
        else:
            from ssl_sweep.report.page import make_page
            from ssl_sweep.sweep.status import may_be_driven
            from ssl_sweep.sweep.tracking_uri import stored_tracking_uri

            place = storage_at(storage)
            uri = tracking_uri or stored_tracking_uri(place, name)
            page = make_page(name, uri, partial(may_be_driven, place))
        target = output or Path(f"{name}.html")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8", errors="replace")
        out.print(f"wrote {target}", markup=False, soft_wrap=True)


@app.command()
def sync(name: Name, storage: StorageFolder = None) -> None:
    """Send all events of a sweep to MLflow. Those that it already has are not changed."""
    with user_errors():
        from ssl_sweep.sweep.interrupted import end_undriven
        from ssl_sweep.sweep.storage_identity import restore_sweep_id, settle
        from ssl_sweep.sweep.tracking_uri import stored_tracking_uri
        from ssl_sweep.tracking.recorder import sync as deliver

        place = storage_at(storage)
        settle(place, lambda words: err.print(words, markup=False, soft_wrap=True))
        end_undriven(place, name)
        with place.snapshot(name) as copy:
            restore_sweep_id(copy.sweep(name), name, place)
            events = deliver(name, copy.sweep(name), stored_tracking_uri(place, name))
        out.print(f"{events} events of {name} are in MLflow")


@app.command()
def ui(
    storage: StorageFolder = None,
    port: Annotated[int, typer.Option(help="Port on this machine.")] = 5000,
) -> None:
    """Serve MLflow's pages of a storage folder on this machine, until Ctrl-C."""
    with user_errors():
        import subprocess

        from ssl_sweep.storage.urls import redacted

        place = storage_at(storage)
        out.print(
            f"MLflow: [bold]http://127.0.0.1:{port}[/bold]  (store {redacted(place.tracking_uri)}; Ctrl-C ends it)"
        )
        command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
        environment = {**os.environ, "MLFLOW_BACKEND_STORE_URI": place.tracking_uri}  # `ps` must not show a password
        environment["PYTHONSAFEPATH"] = "1"  # nothing is imported from the current directory
        raise typer.Exit(subprocess.run(command, check=False, env=environment).returncode)  # noqa: S603 - our own interpreter
