"""Commands for what a sweep has found: tables, pages, encoders, MLflow."""

import os
import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from ssl_sweep.commands.shared import (
    Format,
    Name,
    StorageFolder,
    app,
    out,
    remote,
    storage_at,
    tracking_uri_of,
    user_errors,
)


@app.command()
def table(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="the sweeps' names")],
    form: Annotated[Format, typer.Option("--format", "-f", help="for a page, a paper or a script")] = "md",
    rows: Annotated[str | None, typer.Option(metavar="PARAMETER,...", help="parameters, searched or not")] = None,
    columns: Annotated[str | None, typer.Option(metavar="METRIC,...", help="metrics, side by side")] = None,
    interval: Annotated[
        Literal["std", "t", "bootstrap"] | None, typer.Option(help="± standard deviation, or a 95 % interval")
    ] = None,
    baseline: Annotated[str | None, typer.Option(metavar="ROW", help="row that the others are tested against")] = None,
    test: Annotated[Literal["t", "wilcoxon"] | None, typer.Option(help="paired, seed by seed")] = None,
    group_by: Annotated[
        str | None, typer.Option(metavar="PARAMETER,...", help="only the best row of each: method.name, sweep")
    ] = None,
    storage: StorageFolder = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow store [default: the sweeps', or the storage's]")
    ] = None,
) -> None:
    """Print the ablation table of a sweep, or of several in one, from MLflow alone; options rule over the spec's."""
    with user_errors():
        listed = {"rows": rows, "columns": columns, "group_by": group_by}
        asked = {
            key: None if text is None else [part.strip() for part in text.split(",")] for key, text in listed.items()
        }
        if client := remote(storage=storage):
            sys.stdout.write(client.table(names, form, **asked, interval=interval, baseline=baseline, test=test))
            return
        from ssl_sweep.tables.options import table_of
        from ssl_sweep.tables.render import render

        stores = {name: tracking_uri or tracking_uri_of(storage_at(storage), name) for name in names}
        made = table_of(stores, **asked, interval=interval, baseline=baseline, test=test)
        sys.stdout.write(render(made, form, caption=", ".join(stores)).rstrip("\n") + "\n")


@app.command()
def export(
    name: Name,
    output: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="file to write")],
    trial: Annotated[
        str | None, typer.Option("--trial", metavar="ID", help="a trial's id, or how it begins [default: the best]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
    storage: StorageFolder = None,
) -> None:
    """Write a trial's encoder to a file, its weights under torchvision's names."""
    with user_errors():
        from ssl_sweep.ledger.open import load_ledger
        from ssl_sweep.storage import mirror
        from ssl_sweep.sweep.best import select_trial
        from ssl_sweep.trial.export import check_target, read_trial, write

        check_target(output, force=force)
        place = storage_at(storage)
        ledger = load_ledger(place.ledger_url, name)
        chosen, why = select_trial(ledger, place, trial)
        folder = place.trial(name, chosen.trial_id)
        mirror.fetch(place, *(folder / each for each in ("config.yaml", "stages.json", "encoder.pt")))
        trained = read_trial(folder)
        written = write(trained, output, chosen.results or {}, force=force)
        lines = [f"{output}: {written['encoder']} of trial {chosen.trial_id} ({why})"]
        lines += [f"load: {written['load'].replace('FILE', repr(str(output)))}", f"input: {written['input']}"]
        out.print("\n".join(lines), markup=False, soft_wrap=True)


@app.command()
def report(
    name: Name,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="file to write [default: NAME.html]")
    ] = None,
    storage: StorageFolder = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow store [default: the sweep's, or the storage's]")
    ] = None,
) -> None:
    """Write a sweep's page, from MLflow alone: table, plots, pictures, failures and cost in one HTML file."""
    with user_errors():
        if client := remote(storage=storage):
            page = client.report(name)
        else:
            from ssl_sweep.report.page import make_page

            page = make_page(name, tracking_uri or tracking_uri_of(storage_at(storage), name))
        target = output or Path(f"{name}.html")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
        out.print(f"wrote {target}", markup=False, soft_wrap=True)


@app.command()
def sync(name: Name, storage: StorageFolder = None) -> None:
    """Send a sweep's events to MLflow again, all of them; what is there already stays as it is."""
    with user_errors():
        from ssl_sweep.storage import mirror
        from ssl_sweep.tracking.recorder import sync as deliver

        place = storage_at(storage)
        with mirror.snapshot(place, name) as there:
            events = deliver(name, there.sweep(name), tracking_uri_of(place, name))
        out.print(f"{events} events of {name} are in MLflow")


@app.command()
def ui(
    storage: StorageFolder = None,
    port: Annotated[int, typer.Option(help="port on this machine")] = 5000,
) -> None:
    """Open MLflow's pages on a storage folder, until Ctrl-C."""
    with user_errors():
        import subprocess

        from ssl_sweep.storage.urls import redacted

        place = storage_at(storage)
        out.print(
            f"MLflow: [bold]http://127.0.0.1:{port}[/bold]  (store {redacted(place.tracking_uri)}; Ctrl-C ends it)"
        )
        command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
        own = {**os.environ, "MLFLOW_BACKEND_STORE_URI": place.tracking_uri}  # a list of processes shows no password
        raise typer.Exit(subprocess.run(command, check=False, env=own).returncode)  # noqa: S603 - our own interpreter
