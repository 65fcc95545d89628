"""Commands of who runs the service for others."""

from pathlib import Path
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


@app.command()
def serve(
    data_root: Annotated[
        list[Path],
        typer.Option(
            "--data-root",
            metavar="DIR",
            envvar="SSL_SWEEP_DATA",
            help="specs may name data below it, relative data starts there; repeat it for more",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="address to listen at; elsewhere than on loopback everybody needs a token")
    ] = ("127.0.0.1"),
    port: Annotated[int, typer.Option(help="port to listen at")] = 8300,
    ray: Annotated[
        str,
        typer.Option("--ray", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="dashboard of the cluster's head"),
    ] = "http://127.0.0.1:8265",
    max_sweeps: Annotated[int | None, typer.Option(min=1, help="of one user at a time")] = None,
    max_gpus: Annotated[float | None, typer.Option(min=0, help="of one user at a time")] = None,
    grows_to_cpus: Annotated[float, typer.Option(min=0, help="of workers, where the cluster scales itself")] = 0,
    grows_to_gpus: Annotated[float, typer.Option(min=0, help="the same")] = 0,
    tls_cert: Annotated[Path | None, typer.Option(exists=True, help="certificate, with --tls-key")] = None,
    tls_key: Annotated[Path | None, typer.Option(exists=True, help="private key of the certificate")] = None,
    mlflow_url: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="SSL_SWEEP_MLFLOW_URL", help="MLflow's pages as a browser reaches them"),
    ] = None,
    ray_url: Annotated[
        str | None,
        typer.Option(metavar="URL", envvar="SSL_SWEEP_RAY_URL", help="Ray's dashboard as a browser reaches it"),
    ] = None,
    trusted_proxy: Annotated[
        str | None, typer.Option(metavar="ADDRESS", help="proxy that is believed whom it speaks for")
    ] = None,
    storage: StorageFolder = None,
) -> None:
    """Take sweeps over HTTP, queue them and run them on a Ray cluster as jobs, until Ctrl-C; sweeps then go on."""
    with user_errors():
        from ssl_sweep.service.guard import is_loopback
        from ssl_sweep.service.queue import Limits, Room
        from ssl_sweep.service.server import serve as run
        from ssl_sweep.service.settings import Settings
        from ssl_sweep.storage import NoFolder, redacted

        here = is_loopback(host) and trusted_proxy is None
        roots = tuple(folder.expanduser().resolve() for folder in data_root)
        limits, most = Limits(max_sweeps, max_gpus), Room(grows_to_cpus, grows_to_gpus)
        place = storage_at(storage)
        if place.url is not None:
            raise NoFolder(
                f"serve: {place.url} is no folder, and jobs read their specs from one; run sweeps there one by one"
            )
        uri = place.tracking_uri if place.tracking_uri.startswith("http") else ""
        pages = mlflow_url or redacted(uri)
        settings = Settings(place, roots, limits, grows_to=most, open=here, mlflow_url=pages, ray_url=ray_url or ray)
        scheme = "https" if tls_cert else "http"
        err.print(
            f"{scheme}://{host}:{port} before the cluster of {ray}; Ctrl-C ends it, sweeps go on",
            markup=False,
            soft_wrap=True,
        )
        if not here and tls_cert is None and trusted_proxy is None:
            err.print(
                "tokens cross the network unencrypted: give --tls-cert and --tls-key", style="yellow", markup=False
            )
        run(settings, ray, host, port, certificate=tls_cert, key=tls_key, trusted_proxy=trusted_proxy)


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
