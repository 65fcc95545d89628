"""What the commands share: the app, options, and how a user's mistake is shown."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from ssl_sweep.errors import UserError

if TYPE_CHECKING:
    from ssl_sweep.client.client import Client
    from ssl_sweep.storage.layout import Storage

app = typer.Typer(
    help="Hyperparameter sweeps for self-supervised image learning.",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
PIPE_WIDTH = 160  # a pipe has no width of its own: tables must not be cut to 80 columns there
out = Console(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False)

USER_MISTAKE, INTERRUPTED = 2, 130
REMOTE = {"submit", "priority", "delete", "plan", "list", "status", "logs", "table", "report"}
REMOTE |= {"stop", "pause", "resume", "extend"}
_chosen: ContextVar[str | None] = ContextVar("server", default=None)

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC.YAML", help="the sweep's spec file")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="the sweep's name")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key: --set pretrain.epochs=2")
]
StorageFolder = Annotated[
    str | None,
    typer.Option(
        "--storage", metavar="FOLDER|S3://...", help="where sweeps lie [default: $SSL_SWEEP_STORAGE or ./runs]"
    ),
]
Address = Annotated[
    str | None, typer.Option("--address", help="Ray cluster [default: $RAY_ADDRESS, or Ray on this machine]")
]
Trials = Annotated[
    list[str] | None,
    typer.Option("--trial", metavar="ID", help="only this trial, by its id or how that begins; repeat it"),
]
Format = Literal["md", "tex", "csv", "json", "html"]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON for a script")]


@app.callback()
def choose(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="URL",
            envvar="SSL_SWEEP_SERVER",
            help="a service, or its profile's name, whose sweeps the command is about; its token: $SSL_SWEEP_TOKEN",
        ),
    ] = None,
) -> None:
    """Say whose sweeps the command is about: those of a storage folder, or of a service."""
    if server and context.invoked_subcommand not in REMOTE | {"schema"}:  # which is the same everywhere
        remedy = "leave --server out, and unset SSL_SWEEP_SERVER"
        err.print(f"`{context.invoked_subcommand}` works on a storage folder: {remedy}", style="red", markup=False)
        raise typer.Exit(USER_MISTAKE)
    _chosen.set(server)


def remote(**local: object) -> "Client | None":
    """The service that `--server` names; `local`: options that say where a sweep lies or runs, and go without one."""
    from ssl_sweep.client.client import Client

    server = _chosen.get()
    if not server:
        return None
    for option in (name for name, value in local.items() if value is not None):
        remedy = f"leave --{option} out, or --server (and unset SSL_SWEEP_SERVER)"
        err.print(f"--{option} and --server {server} exclude each other: {remedy}", style="red", markup=False)
        raise typer.Exit(USER_MISTAKE)
    return Client(server)


def to_type(words: str, storage: str | None = None) -> str:
    """A command to type next, about the same service or storage."""
    server = _chosen.get()
    named = f"--server {server} " if server and server != os.environ.get("SSL_SWEEP_SERVER") else ""
    return f"ssl-sweep {named}{words}" + (f" --storage {storage}" if storage else "")


def storage_at(place: str | None) -> "Storage":
    from ssl_sweep.storage.layout import Storage

    return Storage.at(place) if place else Storage.default()


def tracking_uri_of(storage: "Storage", name: str) -> str:
    """The sweep's own MLflow store where its folder is here, else the storage's."""
    import yaml

    from ssl_sweep.storage import mirror

    stored = storage.sweep(name) / "spec.yaml"
    mirror.fetch(storage, stored)
    own = yaml.safe_load(stored.read_text())["tracking"]["uri"] if stored.exists() else None
    return own or storage.tracking_uri


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


@contextmanager
def user_errors() -> Iterator[None]:
    """Print a user's mistake as one message, without a stack trace, and exit with 2."""
    try:
        yield
    except (UserError, FileNotFoundError, PermissionError) as error:
        err.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(USER_MISTAKE) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
