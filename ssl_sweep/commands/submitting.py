"""Commands that need a service: submit, priority and delete."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_sweep.commands.shared import (
    Name,
    Set,
    SpecFile,
    app,
    err,
    next_command,
    out,
    remote_client,
    user_errors,
)
from ssl_sweep.service.states import SweepState
from ssl_sweep.sweep.exit_codes import ExitCode

if TYPE_CHECKING:
    from ssl_sweep.client.client import Client

NEXT = {
    "status {name} --watch": "all trials",
    "logs {name} -f": "the log of a trial",
    "table {name}": "the table so far",
    "stop {name}": "stop it; `resume` continues it",
}


@app.command()
def submit(
    spec_file: SpecFile,
    overrides: Set = None,
    priority: Annotated[int, typer.Option(min=-10, max=10, help="Higher runs first; above 0 only for admins.")] = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show state changes until the sweep ends.")] = False,
) -> None:
    """Show the plan of a sweep and submit it to the service that `--server` names."""
    with user_errors():
        from ssl_sweep.commands.terminal import plan_table
        from ssl_sweep.spec.document import file_text

        client, text = _service(), file_text(spec_file)
        planned = client.plan(text, overrides or (), file=str(spec_file))
        out.print(plan_table(planned["name"], planned, client.server))
        if not yes and not _confirmed(client.server):
            err.print("not submitted; -y submits without asking", style="yellow", markup=False)
            raise typer.Exit(ExitCode.INTERRUPTED)
        sweep = client.submit(text, overrides or (), priority=priority, file=str(spec_file))
        name = sweep["name"]
        out.print(f"{name} is {sweep['state']} at {client.server}", markup=False, soft_wrap=True)
        out.print(f"  {client.server.rstrip('/')}/sweeps/{name}   its page on the board", markup=False, soft_wrap=True)
        for words, meaning in NEXT.items():
            out.print(f"  {next_command(words.format(name=name))}   {meaning}", markup=False, soft_wrap=True)
        if follow:
            raise typer.Exit(_follow(client, name))


@app.command()
def priority(
    name: Name,
    value: Annotated[int, typer.Argument(min=-10, max=10, metavar="N", help="-10 to 10; above 0 only for admins.")],
) -> None:
    """Change the priority of a sweep in the service's queue."""
    with user_errors():
        sweep = _service().priority(name, value)
        out.print(f"{name} has priority {sweep['priority']}", markup=False)


@app.command()
def delete(name: Name) -> None:
    """Delete a sweep that does not run from the service. Its results stay in storage and MLflow."""
    with user_errors():
        _service().delete(name)
        out.print(f"{name} is deleted; its results stay", markup=False)


def _service() -> "Client":
    client = remote_client()
    if client is None:
        err.print(
            "this command needs a service: ssl-sweep --server URL ..., or set SSL_SWEEP_SERVER",
            style="red",
            markup=False,
        )
        raise typer.Exit(ExitCode.USER_ERROR)
    return client


def _confirmed(server: str) -> bool:
    try:
        return typer.confirm(f"submit it to {server}?", default=True, err=True)
    except typer.Abort:  # Ctrl-C, or no terminal
        err.print()
        return False


def _follow(client: "Client", name: str) -> int:
    """Print the state changes of a sweep until it ends; the exit code is that of `run`."""
    try:
        for event in client.events(name):
            out.print(_event_line(event), markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        message = f"{name} continues in the background: {next_command(f'status {name}')}"
        out.print(message, markup=False, soft_wrap=True)
        return ExitCode.INTERRUPTED
    codes = {SweepState.COMPLETE: ExitCode.COMPLETE, SweepState.FAILED: ExitCode.INCOMPLETE}
    return codes.get(client.show(name)["state"], ExitCode.INTERRUPTED)


def _event_line(event: Mapping[str, Any]) -> str:
    if event["kind"] == "state":
        what, why = event["state"], event["reason"]
    else:
        what, why = f"trial {event['trial_id'][:8]} {event['trial_state']}", event["message"]
    return f"{what}: {why}" if why else str(what)
