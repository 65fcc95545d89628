"""Commands for a service only: submit a sweep, and what else it knows of one."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_sweep.commands.shared import (
    INTERRUPTED,
    USER_MISTAKE,
    Name,
    Set,
    SpecFile,
    app,
    err,
    out,
    remote,
    to_type,
    user_errors,
)

if TYPE_CHECKING:
    from ssl_sweep.client.client import Client

NEXT = {
    "status {name} --watch": "every trial",
    "logs {name} -f": "what a trial writes",
    "table {name}": "the table, as far as it is",
    "stop {name}": "stop it; `resume` goes on",
}


@app.command()
def submit(
    spec_file: SpecFile,
    overrides: Set = None,
    priority: Annotated[int, typer.Option(min=-10, max=10, help="higher goes first; above 0 only an admin's")] = 0,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="show what happens until it ends")] = False,
) -> None:
    """Show what a sweep would cost, and put it into the queue of the service that `--server` names."""
    with user_errors():
        from ssl_sweep.commands.terminal import plan_table
        from ssl_sweep.spec.document import file_text

        client, text = _service(), file_text(spec_file)
        planned = client.plan(text, overrides or (), file=str(spec_file))
        out.print(plan_table(planned["name"], planned, client.server))
        if not yes and not _sure(client.server):
            err.print("not submitted; -y submits without asking", style="yellow", markup=False)
            raise typer.Exit(INTERRUPTED)
        sweep = client.submit(text, overrides or (), priority=priority, file=str(spec_file))
        name = sweep["name"]
        out.print(f"{name} is {sweep['state']} at {client.server}", markup=False, soft_wrap=True)
        out.print(f"  {client.server.rstrip('/')}/sweeps/{name}   its page on the board", markup=False, soft_wrap=True)
        for words, meaning in NEXT.items():
            out.print(f"  {to_type(words.format(name=name))}   {meaning}", markup=False, soft_wrap=True)
        if follow:
            raise typer.Exit(_follow(client, name))


@app.command()
def priority(
    name: Name,
    value: Annotated[int, typer.Argument(min=-10, max=10, metavar="N", help="-10 to 10; above 0 only an admin's")],
) -> None:
    """Change the priority of a sweep that waits in the service's queue."""
    with user_errors():
        told = _service().priority(name, value)
        out.print(f"{name} has priority {told['priority']}", markup=False)


@app.command()
def delete(name: Name) -> None:
    """Take a sweep that does not run out of the service; its results stay in storage and in MLflow."""
    with user_errors():
        _service().delete(name)
        out.print(f"{name} is deleted; its results stay", markup=False)


def _service() -> "Client":
    client = remote()
    if client is None:
        err.print("this is for a service: ssl-sweep --server URL ..., or SSL_SWEEP_SERVER", style="red", markup=False)
        raise typer.Exit(USER_MISTAKE)
    return client


def _sure(server: str) -> bool:
    try:
        return typer.confirm(f"submit it to {server}?", default=True, err=True)
    except typer.Abort:  # Ctrl-C, or nobody there to answer
        err.print()
        return False


def _follow(client: "Client", name: str) -> int:
    """Tell what happens to a sweep until it ends; the exit code that `run` would have."""
    try:
        for event in client.events(name):
            out.print(_told(event), markup=False, soft_wrap=True)
    except KeyboardInterrupt:
        told = f"{name} goes on without you: {to_type(f'status {name}')}"
        out.print(told, markup=False, soft_wrap=True)
        return INTERRUPTED
    return {"COMPLETE": 0, "FAILED": 1}.get(client.show(name)["state"], INTERRUPTED)


def _told(event: Mapping[str, Any]) -> str:
    if event["kind"] == "state":
        what, why = event["state"], event["reason"]
    else:
        what, why = f"trial {event['trial_id'][:8]} {event['trial_state']}", event["message"]
    return f"{what}: {why}" if why else str(what)
