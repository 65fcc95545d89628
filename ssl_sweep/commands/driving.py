"""Commands that run a sweep, and that steer one that runs."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ssl_sweep.commands.shared import (
    USER_MISTAKE,
    Address,
    Name,
    Set,
    SpecFile,
    StorageFolder,
    Trials,
    app,
    err,
    out,
    remote,
    storage_at,
    to_type,
    user_errors,
)
from ssl_sweep.sweep.exit_codes import ExitCode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ssl_sweep.spec.sweep import SweepSpec
    from ssl_sweep.storage.layout import Storage
    from ssl_sweep.sweep.drive import Summary
    from ssl_sweep.sweep.steering import ResumeSelection


@app.command()
def run(spec_file: SpecFile, overrides: Set = None, storage: StorageFolder = None, address: Address = None) -> None:
    """Run a sweep, or go on with it: what is done stays done."""
    with user_errors():
        from ssl_sweep.spec.file import load_spec

        _drive(load_spec(spec_file, overrides or []), storage_at(storage), address)


@app.command()
def resume(
    name: Name,
    failed: Annotated[bool, typer.Option("--failed", help="only the trials that failed")] = False,
    trials: Trials = None,
    retries: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="from now on, how often a crashed trial is tried again")
    ] = None,
    max_concurrent: Annotated[
        int | None, typer.Option("--max-concurrent", min=1, metavar="N", help="from now on, trials at a time")
    ] = None,
    storage: StorageFolder = None,
    address: Address = None,
) -> None:
    """Go on with a sweep by its name, its failed and stopped trials included."""
    with user_errors():
        if client := remote(storage=storage, address=address):
            if retries is not None or max_concurrent is not None:
                words = "the service resumes with the spec as submitted, and its queue gives trials at a time"
                err.print(f"{words}: leave --retries and --max-concurrent out", style="red", markup=False)
                raise typer.Exit(USER_MISTAKE)
            _queued(client.resume(name, failed=failed, trials=trials or ()))
            return
        from ssl_sweep.ledger.open import load_ledger
        from ssl_sweep.sweep.steering import ResumeSelection

        place = storage_at(storage)
        spec = load_ledger(place.ledger_url, name).spec
        if retries is not None:
            spec = spec.model_copy(update={"retries": retries})
        if max_concurrent is not None:
            resources = spec.resources.model_copy(update={"max_concurrent": max_concurrent})
            spec = spec.model_copy(update={"resources": resources})
        _drive(spec, place, address, resume=ResumeSelection(failed, tuple(trials or ())))


@app.command()
def stop(name: Name, trials: Trials = None, storage: StorageFolder = None) -> None:
    """Stop a sweep, or trials of it, that runs anywhere: at its next report a trial leaves a checkpoint and ends."""
    with user_errors():
        if client := remote(storage=storage):
            told = client.stop(name, trials or ())
            said = f"{name} is {told['state']}" + (f", asked to {told['asked']}" if told["asked"] else "")
        else:
            from ssl_sweep.sweep.steering import request_end

            said = request_end(storage_at(storage), name, "stop", trials or ())
        out.print(said, markup=False, soft_wrap=True)
        out.print(f"go on with it: {to_type(f'resume {name}', storage)}", markup=False, soft_wrap=True)


@app.command()
def pause(name: Name, storage: StorageFolder = None) -> None:
    """Pause a sweep that runs anywhere; `run` and `resume` go on with it."""
    with user_errors():
        if client := remote(storage=storage):
            told = client.pause(name)
            said = f"{name} is {told['state']}" + (f", asked to {told['asked']}" if told["asked"] else "")
        else:
            from ssl_sweep.sweep.steering import request_end

            said = request_end(storage_at(storage), name, "pause")
        out.print(said, markup=False, soft_wrap=True)
        out.print(f"go on with it: {to_type(f'resume {name}', storage)}", markup=False, soft_wrap=True)


@app.command()
def extend(
    name: Name,
    trials: Annotated[str, typer.Option("--trials", metavar="+N", help="choices more: +20; or in all: 40")],
    overrides: Set = None,
    storage: StorageFolder = None,
    address: Address = None,
) -> None:
    """Run more choices of a sweep in the same study; `--set search.space.X=...` may widen numeric ranges."""
    with user_errors():
        if client := remote(storage=storage, address=address):
            _queued(client.extend(name, trials, overrides or ()))
            return
        from ssl_sweep.ledger.open import load_ledger
        from ssl_sweep.sweep.extension import extended

        place = storage_at(storage)
        spec = extended(load_ledger(place.ledger_url, name).spec, trials, overrides or [])
        _drive(spec, place, address, extends=True)


@app.command()
def clean(
    name: Name,
    keep_encoders: Annotated[
        int | None,
        typer.Option(min=1, metavar="K", help="keep the encoders of the K best choices only [default: the spec's]"),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would go")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="do not ask")] = False,
    storage: StorageFolder = None,
) -> None:
    """Free what a sweep no longer needs; results, journals, logs and what can still be resumed stay."""
    with user_errors():
        from contextlib import nullcontext

        from ssl_sweep.commands.terminal import surplus_table
        from ssl_sweep.ledger.lease import no_driver
        from ssl_sweep.ledger.open import load_ledger
        from ssl_sweep.storage import mirror
        from ssl_sweep.sweep.housekeeping import freed_bytes, remove, surplus, undelivered

        place = storage_at(storage)
        ledger = load_ledger(place.ledger_url, name)
        with nullcontext() if dry_run else no_driver(place.sweep(name), ledger.notes):
            ledger = load_ledger(place.ledger_url, name)  # a driver may just have ended
            keep = keep_encoders or ledger.spec.keep_encoders
            with mirror.snapshot(place, name) as there:
                count = undelivered(ledger, there)
            if keep and count:
                out.print(f"MLflow lacks {count} events, so encoders stay: ssl-sweep sync {name}", style="yellow")
                keep = None
            with mirror.hollow(place, name) as shape:
                found = surplus(ledger, shape, keep)
                out.print(surplus_table(found, freed_bytes(found)))
                if not dry_run and any(each.paths for each in found):
                    if not yes:
                        typer.confirm("remove all this?", abort=True)
                    remove(found)


def _queued(sweep: "Mapping[str, Any]") -> None:
    name = sweep["name"]
    out.print(f"{name} is in the queue: {to_type(f'status {name}')}", markup=False, soft_wrap=True)


def _drive(
    spec: "SweepSpec",
    storage: "Storage",
    address: str | None,
    *,
    resume: "ResumeSelection | None" = None,
    extends: bool = False,
) -> None:
    from ssl_sweep.cluster.run import InfeasibleError
    from ssl_sweep.commands.terminal import summary
    from ssl_sweep.ledger.lease import SweepLockedError
    from ssl_sweep.sweep.drive import drive

    try:
        ended: Summary = drive(spec, storage, err, address=address, resume=resume, extends=extends)
    except (SweepLockedError, InfeasibleError) as error:
        is_extended = extends and isinstance(error, InfeasibleError)
        hint = f"; {spec.name} is extended already, go on with: ssl-sweep resume {spec.name}" if is_extended else ""
        err.print(f"{error}{hint}", style="red", markup=False, soft_wrap=True)
        raise typer.Exit(ExitCode.TRY_AGAIN) from None
    out.print(summary(spec, storage, ended))
    raise typer.Exit(ended.exit_code)
