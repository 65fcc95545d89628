"""Shared by all commands: the app, common options, and how errors are shown."""

import json
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

from ssl_sweep.errors import UserError
from ssl_sweep.sweep.exit_codes import ExitCode

if TYPE_CHECKING:
    from ssl_sweep.client.client import Client
    from ssl_sweep.storage.layout import Storage

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)
PIPE_WIDTH = 160  # columns; Rich would cut tables in a pipe to 80
out = Console(highlight=False, width=None if sys.stdout and sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False)

REMOTE = {"submit", "priority", "delete", "plan", "list", "status", "logs", "table", "report"}
REMOTE |= {"stop", "pause", "resume", "extend"}
_server: ContextVar[str | None] = ContextVar("server", default=None)

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC.YAML", help="Spec file of the sweep.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the sweep.")]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Override a key: --set pretrain.epochs=2. Repeatable."),
]
StorageFolder = Annotated[
    str | None,
    typer.Option(
        "--storage",
        metavar="FOLDER|S3://...",
        help="Where sweeps are stored.",
        show_default="$SSL_SWEEP_STORAGE or ./runs",
    ),
]
Address = Annotated[
    str | None,
    typer.Option("--address", help="Ray cluster.", show_default="$RAY_ADDRESS, else this machine"),
]
Plugins = Annotated[
    str | None,
    typer.Option(
        "--plugins",
        metavar="DIR",
        help="Folder of your own methods, encoders, evaluations and sources. Its code is run.",
        show_default="$SSL_SWEEP_PLUGINS",
    ),
]
DataChanged = Annotated[
    Literal["keep", "restart"] | None,
    typer.Option(
        "--data-changed",
        help="Go on although the data is not what the sweep began with. keep: finished trials keep their results; "
        "restart: they run again.",
    ),
]
Trials = Annotated[
    list[str] | None,
    typer.Option("--trial", metavar="ID", help="Only this trial, by its id or the start of it. Repeatable."),
]
Format = Literal["md", "tex", "csv", "json", "html"]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.callback()
def select_server(
    context: typer.Context,
    server: Annotated[
        str | None,
        typer.Option(
            "--server",
            metavar="URL",
            envvar="SSL_SWEEP_SERVER",
            help="URL or profile of a service to work with; $SSL_SWEEP_TOKEN holds its token.",
        ),
    ] = None,
) -> None:
    """Run and compare hyperparameter sweeps for self-supervised image learning.

    Commands work on the sweeps of a storage folder, or with --server on those of a service.
    """
    if server and context.invoked_subcommand not in REMOTE | {"schema"}:  # the schema is the same everywhere
        remedy = "leave --server out, and unset SSL_SWEEP_SERVER"
        err.print(f"`{context.invoked_subcommand}` works on a storage folder: {remedy}", style="red", markup=False)
        raise typer.Exit(ExitCode.USER_ERROR)
    _server.set(server)


def remote_client(**local: object) -> "Client | None":
    """The client of the service that `--server` names, or None; refuses the options in `local` beside `--server`."""
    from ssl_sweep.client.client import Client

    server = _server.get()
    if not server:
        return None
    for option in (name for name, value in local.items() if value is not None):
        remedy = f"leave --{option} out, or --server (and unset SSL_SWEEP_SERVER)"
        err.print(f"--{option} and --server {server} exclude each other: {remedy}", style="red", markup=False)
        raise typer.Exit(ExitCode.USER_ERROR)
    return Client(server)


def next_command(words: str, storage: str | None = None) -> str:
    """A full command line to suggest to the user, for the same service or storage."""
    server = _server.get()
    named = f"--server {server} " if server and server != os.environ.get("SSL_SWEEP_SERVER") else ""
    return f"ssl-sweep {named}{words}" + (f" --storage {shlex.quote(storage)}" if storage else "")


def storage_at(place: str | None) -> "Storage":
    """The storage that `--storage` names, else the default."""
    from ssl_sweep.storage.open import find_storage

    return find_storage(place)


def use_plugins(folder: str | None) -> None:
    """Take local plugins from the folder that `--plugins` names, else from that of the environment."""
    from ssl_sweep.plugins import catalog

    catalog.use(folder)


def print_json(value: Any) -> None:
    """Print a value as JSON; what JSON does not know becomes text."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


@contextmanager
def user_errors(interrupted: str | None = None) -> Iterator[None]:
    """Print a user's error as one message without a stack trace, and exit with 2.

    interrupted: printed after Ctrl-C, unless the interrupt has a note of its own.
    """
    try:
        yield
        return
    except (UserError, FileNotFoundError, PermissionError) as error:
        err.print(str(error), style="red", markup=False, soft_wrap=True)
        code: int = ExitCode.USER_ERROR
    except (IsADirectoryError, NotADirectoryError) as error:
        err.print(f"{error.filename}: {error.strerror}; move it away", style="red", markup=False, soft_wrap=True)
        code = ExitCode.USER_ERROR
    except KeyboardInterrupt as error:
        for line in getattr(error, "__notes__", filter(None, [interrupted])):
            err.print(line, markup=False, soft_wrap=True)
        code = ExitCode.INTERRUPTED
    except typer.Exit as end:
        code = end.exit_code
    if (cluster := sys.modules.get("ssl_sweep.cluster.joined")) is not None:  # this command has imported Ray
        cluster.end_process(code)
    raise typer.Exit(code)
