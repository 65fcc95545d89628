"""Commands that say what there is, what it would cost and how it goes."""

import json
import os
import sys
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_sweep.commands.shared import (
    Address,
    AsJson,
    Name,
    Set,
    SpecFile,
    StorageFolder,
    app,
    err,
    out,
    print_json,
    remote,
    storage_at,
    to_type,
    user_errors,
)

if TYPE_CHECKING:
    from ssl_sweep.client.client import Client

AHEAD = ("QUEUED", "LAUNCHING", "RUNNING")  # states of a sweep of a service whose trials run, or are to
WAIT_S = 2.0


@app.command()
def logs(
    name: Name,
    trial: Annotated[str | None, typer.Option("--trial", metavar="ID", help="a trial's id, or how it begins")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="keep showing what is written")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="of the end of a log")] = 20,
    storage: StorageFolder = None,
) -> None:
    """Show why trials failed, each error once, or what running ones write; with --trial that trial's log."""
    with user_errors():
        if client := remote(storage=storage):
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
    """Say how a sweep stands until one of its trials runs, or it has ended."""
    told = ""
    while (sweep := client.show(name))["state"] in AHEAD and not sweep["counts"].get("running"):
        now = ": ".join(part for part in (sweep["state"], sweep["reason"]) if part)
        if now != told:
            err.print(f"no trial of {name} runs yet, waiting for one; it is {now}", markup=False, soft_wrap=True)
        told = now
        time.sleep(WAIT_S)


def _write(texts: Iterable[str]) -> None:
    for text in texts:
        sys.stdout.write(text)
        sys.stdout.flush()


@app.command()
def plan(spec_file: SpecFile, overrides: Set = None, address: Address = None, as_json: AsJson = False) -> None:
    """Say what a sweep would cost, and whether its trials fit here; runs nothing."""
    with user_errors():
        from ssl_sweep.commands.terminal import plan_table
        from ssl_sweep.spec.document import file_text

        if client := remote(address=address):
            planned = client.plan(file_text(spec_file), overrides or (), file=str(spec_file))
        else:
            planned = _planned(spec_file, overrides or (), address)
        if as_json:
            print_json(planned)
        else:
            out.print(plan_table(planned["name"], planned, client.server if client else None))


def _planned(spec_file: Path, overrides: Sequence[str], address: str | None) -> dict[str, Any]:
    from dataclasses import asdict

    from ssl_sweep.spec.file import load_spec
    from ssl_sweep.spec.plan import make_plan

    spec = load_spec(spec_file, overrides)
    nodes = None
    if address or os.environ.get("RAY_ADDRESS"):
        from ssl_sweep.cluster.run import cluster_nodes

        nodes = cluster_nodes(address)
    return {"name": spec.name, **asdict(make_plan(spec, nodes))}


@app.command("list")
def list_(storage: StorageFolder = None, as_json: AsJson = False) -> None:
    """List the sweeps of a storage folder."""
    with user_errors():
        from ssl_sweep.commands.terminal import overview_table, submitted_table

        if client := remote(storage=storage):
            found, shown = client.sweeps(), submitted_table
        else:
            from ssl_sweep.sweep.status import overview

            found, shown = overview(storage_at(storage)), overview_table
        if as_json:
            print_json(found)
        elif found:
            out.print(shown(found))
        else:
            first = to_type("submit SPEC.YAML") if client else "ssl-sweep run experiments/quickstart.yaml"
            out.print(f"no sweeps yet: {first}", markup=False, soft_wrap=True)


@app.command()
def status(
    name: Name,
    storage: StorageFolder = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="keep showing it, until Ctrl-C")] = False,
) -> None:
    """Show a sweep's trials: state, stage, epoch, attempts, and what failed."""
    with user_errors():
        from ssl_sweep.commands.terminal import status_table, watched

        if client := remote(storage=storage):
            read = partial(client.status, name)
        else:
            from ssl_sweep.sweep.status import sweep_status

            read = partial(sweep_status, storage_at(storage), name)
        if as_json:
            print_json(read())
        elif watch:
            watched(lambda: status_table(read()), out)
        else:
            out.print(status_table(read()))


@app.command()
def schema(
    output: Annotated[Path | None, typer.Argument(help="file to write [default: print]")] = None,
) -> None:
    """Write the JSON schema of spec files, with which editors complete and check them."""
    with user_errors():
        from ssl_sweep.spec.schema import json_schema

        text = json.dumps(json_schema(), indent=2) + "\n"
        if output is None:
            sys.stdout.write(text)
        else:
            output.write_text(text)
            out.print(f"wrote {output}; first line of a spec: # yaml-language-server: $schema={output}")


@app.command()
def doctor(storage: StorageFolder = None, as_json: AsJson = False) -> None:
    """Check this installation: versions, devices, and whether the stores can be reached."""
    with user_errors():
        from ssl_sweep.commands.doctor import examine
        from ssl_sweep.commands.terminal import checks_table

        checks = examine(storage_at(storage))
        if as_json:
            print_json(checks)
        else:
            out.print(checks_table(checks))
    raise typer.Exit(0 if all(check["ok"] for check in checks) else 1)
