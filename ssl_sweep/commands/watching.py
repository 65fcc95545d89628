"""Commands that only read: plan, list, status, logs, schema and doctor."""

import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import RenderableType

from ssl_sweep.commands.shared import (
    Address,
    AsJson,
    Name,
    Plugins,
    Set,
    SpecFile,
    StorageFolder,
    app,
    err,
    next_command,
    out,
    print_json,
    remote_client,
    storage_at,
    use_plugins,
    user_errors,
)
from ssl_sweep.service.states import ACTIVE, WAITING
from ssl_sweep.sweep.exit_codes import ExitCode

if TYPE_CHECKING:
    from ssl_sweep.client.client import Client

WAIT_S = 2.0


@app.command()
def logs(
    name: Name,
    trial: Annotated[
        str | None, typer.Option("--trial", metavar="ID", help="Trial by its id or the start of it.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new output.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Number of lines from the end of a log.")] = 20,
    storage: StorageFolder = None,
) -> None:
    """Show the errors of failed trials, each once, or the output of running ones.

    With --trial, show the log of that trial.
    """
    with user_errors():
        if client := remote_client(storage=storage):
            if not follow:
                _write([client.logs(name, trial=trial, lines=lines)])
                return
            if trial is None:
                _await_trial(client, name)
            _write(client.followed(name, trial=trial, lines=lines))
            return
        from ssl_sweep.ledger.open import load_ledger
        from ssl_sweep.sweep.logs import find_log, follow_log, sweep_logs, trial_log

        place = storage_at(storage)
        ledger = load_ledger(place.ledger_url, name)
        if follow:
            _write(follow_log(place, *find_log(ledger, place, trial), lines))
        else:
            sys.stdout.write(trial_log(ledger, place, trial, lines) if trial else sweep_logs(ledger, place, lines))


def _await_trial(client: "Client", name: str) -> None:
    """Print the state of a sweep until one of its trials runs or it has ended."""
    printed = ""
    while (sweep := client.show(name))["state"] in (*WAITING, *ACTIVE) and not sweep["counts"].get("running"):
        now = ": ".join(part for part in (sweep["state"], sweep["reason"]) if part)
        if now != printed:
            err.print(f"no trial of {name} runs yet, waiting for one; it is {now}", markup=False, soft_wrap=True)
        printed = now
        time.sleep(WAIT_S)


def _write(texts: Iterable[str]) -> None:
    for text in texts:
        sys.stdout.write(text)
        sys.stdout.flush()


@app.command()
def plan(
    spec_file: SpecFile,
    overrides: Set = None,
    storage: StorageFolder = None,
    address: Address = None,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Show what a sweep would cost and whether its trials fit here. Runs nothing."""
    with user_errors():
        from ssl_sweep.commands.terminal import plan_table
        from ssl_sweep.spec.document import file_text

        if client := remote_client(storage=storage, address=address, plugins=plugins):
            planned = client.plan(file_text(spec_file), overrides or (), file=str(spec_file))
        else:
            from ssl_sweep.api import plan as plans

            planned = plans.plan(spec_file, overrides or (), storage=storage, address=address, plugins=plugins)
        if as_json:
            print_json(planned)
        else:
            out.print(plan_table(planned["name"], planned, client.server if client else None))


@app.command("list")
def list_(storage: StorageFolder = None, as_json: AsJson = False) -> None:
    """List the sweeps of a storage folder or a service."""
    with user_errors():
        from ssl_sweep.commands.terminal import overview_table, submitted_table

        make_table: Callable[[Sequence[Mapping[str, Any]]], RenderableType] = overview_table
        if client := remote_client(storage=storage):
            sweeps, make_table = client.sweeps(), submitted_table
        else:
            from ssl_sweep.sweep.status import overview

            sweeps = overview(storage_at(storage))
        if as_json:
            print_json(sweeps)
        elif sweeps:
            out.print(make_table(sweeps))
        else:
            first = next_command("submit SPEC.YAML") if client else "ssl-sweep run experiments/quickstart.yaml"
            out.print(f"no sweeps yet: {first}", markup=False, soft_wrap=True)


@app.command()
def status(
    name: Name,
    storage: StorageFolder = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh until Ctrl-C.")] = False,
) -> None:
    """Show the trials of a sweep: state, stage, epoch, attempts and errors."""
    with user_errors():
        from ssl_sweep.commands.terminal import refresh, status_table

        if client := remote_client(storage=storage):
            read = partial(client.status, name)
        else:
            from ssl_sweep.sweep.status import sweep_status

            read = partial(sweep_status, storage_at(storage), name)
        if as_json:
            print_json(read())
        elif watch:
            refresh(lambda: status_table(read()), out)
        else:
            out.print(status_table(read()))


@app.command()
def schema(
    output: Annotated[Path | None, typer.Argument(help="File to write.", show_default="print")] = None,
    plugins: Plugins = None,
) -> None:
    """Write the JSON schema of spec files, which editors use to complete and check them."""
    with user_errors():
        from ssl_sweep.knobs import listing
        from ssl_sweep.spec.schema import json_schema

        use_plugins(plugins)
        for broken in (plugin for plugin in listing.plugins() if plugin.error):
            err.print(f"left out: {broken.error}", style="yellow", markup=False, soft_wrap=True)
        text = json.dumps(json_schema(), indent=2) + "\n"
        if output is None:
            sys.stdout.write(text)
        else:
            output.write_text(text)
            out.print(f"wrote {output}; first line of a spec: # yaml-language-server: $schema={output}")


@app.command()
def doctor(
    storage: StorageFolder = None,
    mend: Annotated[
        bool, typer.Option("--mend", help="Set damaged files of the storage aside, and rebuild them from the others.")
    ] = False,
    plugins: Plugins = None,
    as_json: AsJson = False,
) -> None:
    """Check versions, devices and plugins, and all of a storage: databases, files, and the runs in MLflow.

    Of each damaged file it says what it can be rebuilt from.
    """
    with user_errors():
        from ssl_sweep.commands.doctor import check_installation, check_place
        from ssl_sweep.commands.terminal import checks_table

        use_plugins(plugins)
        place = storage_at(storage)
        with err.status("") as status:
            checks = [*check_installation(place), *check_place(place, mend=mend, tell=status.update)]
        if as_json:
            print_json(checks)
        else:
            out.print(checks_table(checks))
            if not mend and any(check["mendable"] for check in checks):
                out.print(f"rebuild: {next_command('doctor --mend', storage)}", markup=False, soft_wrap=True)
    raise typer.Exit(0 if all(check["ok"] for check in checks) else ExitCode.USER_ERROR)
