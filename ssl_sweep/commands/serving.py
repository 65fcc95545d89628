"""Commands of who runs the service for others."""

import re
import ssl
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

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

if TYPE_CHECKING:
    from ssl_sweep.service.store import Store
    from ssl_sweep.storage.layout import Storage

USER_NAME = r"[^\W_][\w.@+-]{0,99}"


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
    port: Annotated[int, typer.Option(min=1, max=65535, help="port to listen at")] = 8300,
    ray: Annotated[
        str,
        typer.Option("--ray", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="dashboard of the cluster's head"),
    ] = "http://127.0.0.1:8265",
    max_sweeps: Annotated[
        int | None, typer.Option(min=1, envvar="SSL_SWEEP_MAX_SWEEPS", help="of one user at a time")
    ] = None,
    max_gpus: Annotated[
        float | None, typer.Option(min=0, envvar="SSL_SWEEP_MAX_GPUS", help="of one user at a time")
    ] = None,
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
        from ssl_sweep.storage.layout import NoFolder
        from ssl_sweep.storage.urls import redacted

        _check_options(data_root, ray, tls_cert, tls_key)
        here = is_loopback(host) and trusted_proxy is None
        roots = tuple(folder.expanduser().resolve() for folder in data_root)
        limits, most = Limits(max_sweeps, max_gpus), Room(grows_to_cpus, grows_to_gpus)
        place = storage_at(storage)
        if place.url is not None:
            raise NoFolder(
                f"serve: {place.url} is no folder, and jobs read their specs from one; run sweeps there one by one"
            )
        _store(place).close()  # what is wrong with its address is said here, not in a trace
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


def _check_options(roots: Sequence[Path], ray: str, certificate: Path | None, key: Path | None) -> None:
    for root in roots:
        if not root.expanduser().is_dir():
            raise typer.BadParameter(
                f"{root} is no folder; make it, or name the one with images", param_hint="--data-root"
            )
    if not ray.startswith(("http://", "https://")):
        raise typer.BadParameter(
            f"{ray!r} is no address; give the head's dashboard, http://HOST:8265", param_hint="--ray"
        )
    if key is not None and certificate is None:
        raise typer.BadParameter("goes with --tls-cert, the certificate's file", param_hint="--tls-key")
    if certificate is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            told = f"{certificate} and {key or 'no --tls-key'} are no certificate with its key, both PEM ({error})"
            raise typer.BadParameter(told, param_hint="--tls-cert") from None


def _store(place: "Storage") -> "Store":
    """The service's database. Raises StoreError."""
    from sqlalchemy.exc import ArgumentError, OperationalError

    from ssl_sweep.service.store import Store, StoreError
    from ssl_sweep.storage.urls import redacted

    url = place.service_url
    try:
        return Store(url)
    except ImportError as error:
        why, remedy = f"lacks its driver ({error})", "for PostgreSQL: pip install 'ssl-sweep[postgres]'"
    except ArgumentError as error:
        why, remedy = f"is no database's URL ({error})", "give one such as postgresql://USER@HOST/DATABASE, or unset it"
    except OperationalError as error:
        told = str(error.orig).partition("\n")[0]
        why, remedy = f"cannot be reached ({told})", "check that it is up, and PGPASSWORD for PostgreSQL"
    raise StoreError(f"the service's database SSL_SWEEP_SERVICE_DB, {redacted(url)}, {redacted(why)}; {remedy}")


@app.command()
def audit(
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="how many, the newest")] = 50,
    storage: StorageFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show who changed what at the service, and what was refused: the newest last."""
    with user_errors():
        from rich.table import Table

        found = _store(storage_at(storage)).audited(lines)[::-1]
        if as_json:
            print_json(found)
            return
        shown = Table("time", "user", "address", "status", "what", box=None, header_style="dim")
        for each in found:
            cells = (each["user"], each["address"], str(each["status"]), each["action"])
            shown.add_row(_when(each["time"]), *(Text(cell) for cell in cells))
        out.print(shown)


def _when(seconds: float) -> str:
    """A time on this machine's clock."""
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"


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
        if not re.fullmatch(USER_NAME, user):
            told = (
                f"{user!r} is no user's name; use letters, digits and . _ @ + -, a letter or digit first, at most 100"
            )
            raise typer.BadParameter(told, param_hint="USER")
        made, number = _store(storage_at(storage)).create_token(user, role)
        err.print(f"token {number} of {user} ({role}); keep it, it cannot be shown again:", markup=False)
        typer.echo(made)


@token.command("list")
def list_(storage: StorageFolder = None, as_json: AsJson = False) -> None:
    """List the tokens by their ids, not themselves."""
    with user_errors():
        from rich.table import Table

        found = _store(storage_at(storage)).tokens()
        if as_json:
            print_json(found)
            return
        shown = Table("id", "user", "role", "made", box=None, header_style="dim")
        for each in found:
            shown.add_row(each["id"], Text(each["user"]), each["role"], _when(each["created"]))
        out.print(shown)


@token.command()
def revoke(number: Annotated[str, typer.Argument(metavar="ID")], storage: StorageFolder = None) -> None:
    """Make a token useless at once, by its id."""
    with user_errors():
        if not _store(storage_at(storage)).revoke_token(number):
            err.print(f"there is no token {number}; `ssl-sweep token list` names them", style="red", markup=False)
            raise typer.Exit(USER_MISTAKE)
