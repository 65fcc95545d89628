"""Commands for those who run the service: serve, audit and token."""

import os
import re
import ssl
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer
from rich.text import Text

from ssl_sweep.commands.shared import (
    AsJson,
    StorageFolder,
    app,
    err,
    out,
    print_json,
    storage_at,
    user_errors,
)
from ssl_sweep.sweep.exit_codes import ExitCode

if TYPE_CHECKING:
    from ssl_sweep.service.listener import Listener
    from ssl_sweep.service.store import Store
    from ssl_sweep.storage.layout import Storage

USER_NAME = r"[^\W_][\w.@+-]{0,99}"


DataRoots = Annotated[
    list[Path],
    typer.Option(
        "--data-root",
        metavar="DIR",
        envvar="SSL_SWEEP_DATA",
        help="Folder whose data specs may name; relative paths start at the first one. Repeatable.",
    ),
]
Host = Annotated[str, typer.Option(help="Address to listen on; beyond loopback every request needs a token.")]
Port = Annotated[int, typer.Option(min=1, max=65535, help="Port to listen on.")]
RayAddress = Annotated[
    str, typer.Option("--ray", metavar="URL", envvar="RAY_API_SERVER_ADDRESS", help="Dashboard of the cluster's head.")
]
MaxSweeps = Annotated[
    int | None, typer.Option(min=1, envvar="SSL_SWEEP_MAX_SWEEPS", help="Maximum running sweeps per user.")
]
MaxGpus = Annotated[
    float | None, typer.Option(min=0, envvar="SSL_SWEEP_MAX_GPUS", help="Maximum GPUs in use per user.")
]
AutoscaleMaxCpus = Annotated[
    float,
    typer.Option(
        "--autoscale-max-cpus", "--grows-to-cpus", min=0, help="CPUs of all workers of a fully scaled-up cluster."
    ),
]
AutoscaleMaxGpus = Annotated[
    float,
    typer.Option(
        "--autoscale-max-gpus", "--grows-to-gpus", min=0, help="GPUs of all workers of a fully scaled-up cluster."
    ),
]
TlsCertificate = Annotated[Path | None, typer.Option(exists=True, help="TLS certificate file (PEM).")]
TlsKey = Annotated[Path | None, typer.Option(exists=True, help="Private key file of the certificate (PEM).")]
MlflowUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", envvar="SSL_SWEEP_MLFLOW_URL", help="Address of MLflow's pages for browsers."),
]
RayUrl = Annotated[
    str | None,
    typer.Option(metavar="URL", envvar="SSL_SWEEP_RAY_URL", help="Address of Ray's dashboard for browsers."),
]
TrustedProxy = Annotated[
    str | None, typer.Option(metavar="ADDRESS", help="Proxy address whose X-Forwarded-* headers are trusted.")
]


@app.command()
def serve(
    data_root: DataRoots,
    host: Host = "127.0.0.1",
    port: Port = 8300,
    ray: RayAddress = "http://127.0.0.1:8265",
    max_sweeps: MaxSweeps = None,
    max_gpus: MaxGpus = None,
    autoscale_max_cpus: AutoscaleMaxCpus = 0,
    autoscale_max_gpus: AutoscaleMaxGpus = 0,
    tls_cert: TlsCertificate = None,
    tls_key: TlsKey = None,
    mlflow_url: MlflowUrl = None,
    ray_url: RayUrl = None,
    trusted_proxy: TrustedProxy = None,
    storage: StorageFolder = None,
) -> None:
    """Queue sweeps sent over HTTP and run them as jobs of a Ray cluster, until Ctrl-C; running sweeps continue."""
    with user_errors():
        from ssl_sweep.service.listener import Listener
        from ssl_sweep.service.queue import Capacity, Limits
        from ssl_sweep.service.server import serve as run
        from ssl_sweep.service.settings import Settings

        _check_data_roots(data_root)
        _check_ray_address(ray)
        _check_certificate(tls_cert, tls_key)
        listener = Listener(host, port, tls_cert, tls_key, trusted_proxy)
        place = _checked_storage(storage)
        settings = Settings(
            place,
            tuple(Path(os.path.expanduser(folder)).resolve() for folder in data_root),
            Limits(max_sweeps, max_gpus),
            autoscale_max=Capacity(autoscale_max_cpus, autoscale_max_gpus),
            trust_local=listener.is_local,
            mlflow_url=mlflow_url or _mlflow_pages(place),
            ray_url=ray_url or ray,
        )
        _announce(listener, ray)
        run(settings, ray, listener)


def _check_data_roots(roots: Sequence[Path]) -> None:
    for root in roots:
        if not Path(os.path.expanduser(root)).is_dir():
            message = f"{root} is no folder; make it, or name the one with images"
            raise typer.BadParameter(message, param_hint="--data-root")


def _check_ray_address(ray: str) -> None:
    if not ray.startswith(("http://", "https://")):
        message = f"{ray!r} is no address; give the head's dashboard, http://HOST:8265"
        raise typer.BadParameter(message, param_hint="--ray")


def _check_certificate(certificate: Path | None, key: Path | None) -> None:
    if key is not None and certificate is None:
        raise typer.BadParameter("goes with --tls-cert, the certificate's file", param_hint="--tls-key")
    if certificate is not None:
        try:
            ssl.create_default_context(ssl.Purpose.CLIENT_AUTH).load_cert_chain(certificate, key)
        except ssl.SSLError as error:
            message = f"{certificate} and {key or 'no --tls-key'} are no certificate with its key, both PEM ({error})"
            raise typer.BadParameter(message, param_hint="--tls-cert") from None


def _checked_storage(storage: str | None) -> "Storage":
    """The storage with a database that answers. Raises StorageError or StoreError."""
    from ssl_sweep.storage.bucket_storage import BucketStorage
    from ssl_sweep.storage.layout import StorageError

    place = storage_at(storage)
    if isinstance(place, BucketStorage):
        raise StorageError(
            f"serve: {place.url} is no folder, and jobs read their specs from one; run sweeps there one by one"
        )
    _store(place).close()  # a wrong address is one message here, and a stack trace in the server
    return place


def _mlflow_pages(place: "Storage") -> str:
    """MLflow's address without its password; empty where no server has pages."""
    from ssl_sweep.storage.urls import redacted

    return redacted(place.tracking_uri) if place.tracking_uri.startswith("http") else ""


def _announce(listener: "Listener", ray: str) -> None:
    message = f"{listener.url} queues sweeps for the cluster of {ray}; Ctrl-C ends it, running sweeps continue"
    err.print(message, markup=False, soft_wrap=True)
    if listener.is_exposed:
        err.print("tokens cross the network unencrypted: give --tls-cert and --tls-key", style="yellow", markup=False)


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
        detail = str(error.orig).partition("\n")[0]
        why, remedy = f"cannot be reached ({detail})", "check that it is up, and PGPASSWORD for PostgreSQL"
    raise StoreError(f"the service's database SSL_SWEEP_SERVICE_DB, {redacted(url)}, {redacted(why)}; {remedy}")


@app.command()
def audit(
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="Number of entries.")] = 50,
    storage: StorageFolder = None,
    as_json: AsJson = False,
) -> None:
    """Show changes of the service and refused requests, the newest last."""
    with user_errors():
        from rich.table import Table

        entries = _store(storage_at(storage)).audit_log(lines)[::-1]
        if as_json:
            print_json(entries)
            return
        table = Table("time", "user", "address", "status", "what", box=None, header_style="dim")
        for entry in entries:
            cells = (entry["user"], entry["address"], str(entry["status"]), entry["action"])
            table.add_row(_when(entry["time"]), *(Text(cell) for cell in cells))
        out.print(table)


def _when(seconds: float) -> str:
    """A Unix time in this machine's time zone."""
    return f"{datetime.fromtimestamp(seconds).astimezone():%Y-%m-%d %H:%M:%S}"


token = typer.Typer(help="Create, list and revoke tokens of the service's users.", no_args_is_help=True)
app.add_typer(token, name="token")


@token.command()
def create(
    user: Annotated[str, typer.Argument(metavar="USER", help="Name of the user.")],
    role: Annotated[
        Literal["viewer", "submitter", "admin"],
        typer.Option(help="Viewers see all sweeps, submitters also change their own, admins all."),
    ] = "submitter",
    storage: StorageFolder = None,
) -> None:
    """Create a token and print it. It is shown only once; the service keeps its hash."""
    with user_errors():
        if not re.fullmatch(USER_NAME, user):
            message = (
                f"{user!r} is no user's name; use letters, digits and . _ @ + -, a letter or digit first, at most 100"
            )
            raise typer.BadParameter(message, param_hint="USER")
        secret, number = _store(storage_at(storage)).create_token(user, role)
        err.print(f"token {number} of {user} ({role}); keep it, it cannot be shown again:", markup=False)
        typer.echo(secret)


@token.command("list")
def list_(storage: StorageFolder = None, as_json: AsJson = False) -> None:
    """List tokens: ids, users and roles."""
    with user_errors():
        from rich.table import Table

        rows = _store(storage_at(storage)).tokens()
        if as_json:
            print_json(rows)
            return
        table = Table("id", "user", "role", "created", box=None, header_style="dim")
        for row in rows:
            table.add_row(row["id"], Text(row["user"]), row["role"], _when(row["created"]))
        out.print(table)


@token.command()
def revoke(
    number: Annotated[str, typer.Argument(metavar="ID", help="Id of the token.")], storage: StorageFolder = None
) -> None:
    """Revoke a token at once."""
    with user_errors():
        if not _store(storage_at(storage)).revoke_token(number):
            err.print(f"there is no token {number}; `ssl-sweep token list` lists them", style="red", markup=False)
            raise typer.Exit(ExitCode.USER_ERROR)
