"""Commands that run, resume, stop, pause, extend and clean a sweep."""

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_sweep.commands.shared import (
    Address,
    DataChanged,
    Name,
    Plugins,
    Set,
    SpecFile,
    StorageFolder,
    Trials,
    app,
    err,
    next_command,
    out,
    remote_client,
    storage_at,
    user_errors,
)
from ssl_sweep.sweep.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from ssl_sweep.api.handle import Sweep


@app.command()
def run(
    spec_file: SpecFile,
    overrides: Set = None,
    data_changed: DataChanged = None,
    storage: StorageFolder = None,
    address: Address = None,
    plugins: Plugins = None,
) -> None:
    """Run a sweep, or continue it. Finished trials are not run again."""
    with user_errors("interrupted; nothing was begun"):
        from ssl_sweep.api import handle

        at: dict[str, Any] = {"storage": storage, "address": address, "plugins": plugins, "console": err}
        _show(lambda: handle.run(spec_file, overrides or (), data_changed=data_changed, **at))


@app.command()
def resume(
    name: Name,
    failed: Annotated[bool, typer.Option("--failed", help="Only trials that failed.")] = False,
    trials: Trials = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Set a key that changes no result (data.on_error=skip, resources.timeout=600), or a knob with which "
            "failed choices run again as new ones (pretrain.clip_norm=1). Repeatable.",
        ),
    ] = None,
    retries: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="New limit of retries of a crashed trial.")
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option("--max-concurrent", min=1, metavar="N", help="New limit of trials at a time.")
    ] = None,
    data_changed: DataChanged = None,
    storage: StorageFolder = None,
    address: Address = None,
    plugins: Plugins = None,
) -> None:
    """Continue a sweep by its name, and run its failed and stopped trials again."""
    with user_errors():
        if client := remote_client(storage=storage, address=address, plugins=plugins):
            if retries is not None or max_concurrent is not None or overrides:
                words = "the service resumes with the submitted spec, and its queue limits trials at a time"
                err.print(f"{words}: leave out --set, --retries and --max-concurrent", style="red", markup=False)
                raise typer.Exit(ExitCode.USER_ERROR)
            _print_queued(client.resume(name, failed=failed, trials=trials or (), data_changed=data_changed))
            return
        from ssl_sweep.api import handle

        sweep = handle.open(name, storage=storage, address=address, plugins=plugins, console=err)
        how: dict[str, Any] = {"retries": retries, "max_concurrent": max_concurrent, "data_changed": data_changed}
        _show(lambda: sweep.resume(failed=failed, trials=trials or (), overrides=overrides or (), **how))


@app.command()
def stop(name: Name, trials: Trials = None, storage: StorageFolder = None) -> None:
    """Stop a sweep, or some of its trials, wherever it runs.

    A running trial ends at its next report and leaves a checkpoint. `resume` continues it.
    """
    with user_errors():
        if client := remote_client(storage=storage):
            message = _state_message(client.stop(name, trials or ()))
        else:
            from ssl_sweep.sweep.steering import stop_or_pause

            message = stop_or_pause(storage_at(storage), name, "stop", trials or ())
        out.print(message, markup=False, soft_wrap=True)
        out.print(f"continue it: {next_command(f'resume {name}', storage)}", markup=False, soft_wrap=True)


@app.command()
def pause(name: Name, storage: StorageFolder = None) -> None:
    """Pause a sweep, wherever it runs. `run` and `resume` continue it."""
    with user_errors():
        if client := remote_client(storage=storage):
            message = _state_message(client.pause(name))
        else:
            from ssl_sweep.sweep.steering import stop_or_pause

            message = stop_or_pause(storage_at(storage), name, "pause")
        out.print(message, markup=False, soft_wrap=True)
        out.print(f"continue it: {next_command(f'resume {name}', storage)}", markup=False, soft_wrap=True)


@app.command()
def extend(
    name: Name,
    choices: Annotated[
        str,
        typer.Option(
            "--choices",
            "--trials",
            metavar="+N",
            help="Choices to add (+20), or the new total (40). --trials is the old name.",
        ),
    ],
    overrides: Set = None,
    data_changed: DataChanged = None,
    storage: StorageFolder = None,
    address: Address = None,
    plugins: Plugins = None,
) -> None:
    """Run more choices of a sweep in the same study.

    `--set search.space.KNOB=...` may widen numeric ranges.
    """
    with user_errors():
        if client := remote_client(storage=storage, address=address, plugins=plugins):
            _print_queued(client.extend(name, choices, overrides or (), data_changed=data_changed))
            return
        from ssl_sweep.api import handle

        sweep = handle.open(name, storage=storage, address=address, plugins=plugins, console=err)
        _show(lambda: sweep.extend(choices, overrides or (), data_changed=data_changed))


@app.command()
def clean(
    name: Name,
    keep_encoders: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="Keep encoders of the K best choices only.", show_default="the spec's"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list what would be removed.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")] = False,
    storage: StorageFolder = None,
) -> None:
    """Remove files that a sweep no longer needs.

    Results, journals, logs and all that can still be resumed stay.
    """
    with user_errors():
        from contextlib import nullcontext

        from ssl_sweep.commands.terminal import removable_table
        from ssl_sweep.ledger.lease import no_driver
        from ssl_sweep.ledger.open import load_ledger
        from ssl_sweep.sweep.housekeeping import find_removable, freed_bytes, remove, undelivered_events

        place = storage_at(storage)
        ledger = load_ledger(place.ledger_url, name)
        with nullcontext() if dry_run else no_driver(place.sweep(name), ledger.notes):
            ledger = load_ledger(place.ledger_url, name)  # a driver may just have ended
            keep = keep_encoders or ledger.spec.keep_encoders
            with place.snapshot(name) as copy:
                count = undelivered_events(ledger, copy)
            if keep and count:
                out.print(
                    f"MLflow lacks {count} events, so encoders stay; send them: ssl-sweep sync {name}", style="yellow"
                )
                keep = None
            with place.sparse_copy(name) as shape:
                removable = find_removable(ledger, shape, keep)
                out.print(removable_table(removable, freed_bytes(removable)))
                if not dry_run and any(kind.paths for kind in removable):
                    if not yes:
                        typer.confirm("remove these files?", abort=True)
                    remove(removable)


def _state_message(sweep: "Mapping[str, Any]") -> str:
    """A service's answer to a request to stop or pause."""
    return f"{sweep['name']} is {sweep['state']}" + (f", asked to {sweep['asked']}" if sweep["asked"] else "")


def _print_queued(sweep: "Mapping[str, Any]") -> None:
    name = sweep["name"]
    out.print(f"{name} is in the queue: {next_command(f'status {name}')}", markup=False, soft_wrap=True)


def _show(drive: "Callable[[], Sweep]") -> None:
    """Drive a sweep, print its result and exit with its code."""
    from ssl_sweep.cluster.errors import BrokenClusterError, ClusterError, InfeasibleError
    from ssl_sweep.commands.terminal import summary
    from ssl_sweep.ledger.entries import LeaseLost
    from ssl_sweep.ledger.lease import SweepLockedError
    from ssl_sweep.sweep.output import LastingOutput

    sys.stdout = LastingOutput(sys.stdout)
    try:
        sweep = drive()
    except (SweepLockedError, LeaseLost, ClusterError) as error:
        err.print(str(error), style="red", markup=False, soft_wrap=True)
        if isinstance(error, BrokenClusterError):
            raise typer.Exit(ExitCode.BROKEN_CLUSTER) from None
        may_pass = isinstance(error, SweepLockedError | LeaseLost | InfeasibleError)
        raise typer.Exit(ExitCode.TRY_AGAIN if may_pass else ExitCode.USER_ERROR) from None
    out.print(summary(sweep.spec, sweep.storage, sweep.summary))
    raise typer.Exit(sweep.summary.exit_code)
