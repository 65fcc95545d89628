"""Commands of who runs the service for others."""

from typing import Annotated, Literal

import typer

from ssl_sweep.commands.shared import (
    USER_MISTAKE,
    AsJson,
    StorageFolder,
    app,
    err,
    out,
    print_json,
    storage_at,
    user_errors,
)

token = typer.Typer(help="Tokens that let people use the service.", no_args_is_help=True)
app.add_typer(token, name="token")


@token.command()
def create(
    user: Annotated[str, typer.Argument(metavar="USER", help="whose it is")],
    role: Annotated[
        Literal["viewer", "submitter", "admin"],
        typer.Option(help="see everything; and submit and change own sweeps; and change everybody's"),
    ] = "submitter",
    storage: StorageFolder = None,
) -> None:
    """Make a token of a user's and print it, once: only its hash is kept."""
    with user_errors():
        from ssl_sweep.service.store import Store

        made, number = Store(storage_at(storage).service_url).create_token(user, role)
        err.print(f"token {number} of {user} ({role}); keep it, it cannot be shown again:", markup=False)
        typer.echo(made)


@token.command("list")
def list_(storage: StorageFolder = None, as_json: AsJson = False) -> None:
    """List the tokens by their ids, not themselves."""
    with user_errors():
        from rich.table import Table

        from ssl_sweep.service.store import Store

        found = Store(storage_at(storage).service_url).tokens()
        if as_json:
            print_json(found)
            return
        shown = Table("id", "user", "role", box=None, header_style="dim")
        for each in found:
            shown.add_row(each["id"], each["user"], each["role"])
        out.print(shown)


@token.command()
def revoke(number: Annotated[str, typer.Argument(metavar="ID")], storage: StorageFolder = None) -> None:
    """Make a token useless at once, by its id."""
    with user_errors():
        from ssl_sweep.service.store import Store

        if not Store(storage_at(storage).service_url).revoke_token(number):
            err.print(f"there is no token {number}; `ssl-sweep token list` names them", style="red", markup=False)
            raise typer.Exit(USER_MISTAKE)
