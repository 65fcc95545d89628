"""The commands. Each imports what it needs when it is called, so that `--help` answers at once."""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console

if TYPE_CHECKING:
    from ssl_sweep.driver import Summary
    from ssl_sweep.spec import SweepSpec
    from ssl_sweep.steering import Again
    from ssl_sweep.storage import Storage

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

SpecFile = Annotated[Path, typer.Argument(metavar="SPEC.YAML", help="the sweep's spec file")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="the sweep's name")]
Set = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="override a key: --set pretrain.epochs=2")
]
StorageFolder = Annotated[
    Path | None, typer.Option("--storage", help="folder of sweeps [default: $SSL_SWEEP_STORAGE or ./runs]")
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


def main() -> None:
    """Entry point of `ssl-sweep`."""
    app()


@app.command()
def run(spec_file: SpecFile, overrides: Set = None, storage: StorageFolder = None, address: Address = None) -> None:
    """Run a sweep, or go on with it: what is done stays done."""
    with _user_errors():
        from ssl_sweep.spec_file import load_spec

        _drive(load_spec(spec_file, overrides or []), _storage(storage), address)


@app.command()
def resume(
    name: Name,
    failed: Annotated[bool, typer.Option("--failed", help="only the trials that failed")] = False,
    trials: Trials = None,
    retries: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="from now on, how often a crashed trial is tried again")
    ] = None,
    storage: StorageFolder = None,
    address: Address = None,
) -> None:
    """Go on with a sweep by its name, its failed and stopped trials included."""
    with _user_errors():
        from ssl_sweep.ledger import load_ledger
        from ssl_sweep.steering import Again

        place = _storage(storage)
        spec = load_ledger(place.ledger_url, name).spec
        if retries is not None:
            spec = spec.model_copy(update={"retries": retries})
        _drive(spec, place, address, again=Again(failed, tuple(trials or ())))


@app.command()
def stop(name: Name, trials: Trials = None, storage: StorageFolder = None) -> None:
    """Stop a sweep, or trials of it, that runs anywhere: at its next report a trial leaves a checkpoint and ends."""
    with _user_errors():
        from ssl_sweep.steering import ask_to_end

        out.print(ask_to_end(_storage(storage), name, "stop", trials or ()), markup=False, soft_wrap=True)
        out.print(f"go on with it: ssl-sweep resume {name}", markup=False, soft_wrap=True)


@app.command()
def pause(name: Name, storage: StorageFolder = None) -> None:
    """Pause a sweep that runs anywhere; `run` and `resume` go on with it."""
    with _user_errors():
        from ssl_sweep.steering import ask_to_end

        out.print(ask_to_end(_storage(storage), name, "pause"), markup=False, soft_wrap=True)
        out.print(f"go on with it: ssl-sweep resume {name}", markup=False, soft_wrap=True)


@app.command()
def extend(
    name: Name,
    trials: Annotated[str, typer.Option("--trials", metavar="+N", help="choices more: +20; or in all: 40")],
    overrides: Set = None,
    storage: StorageFolder = None,
    address: Address = None,
) -> None:
    """Run more choices of a sweep in the same study; `--set search.space.X=...` may widen numeric ranges."""
    with _user_errors():
        from ssl_sweep.extension import extended
        from ssl_sweep.ledger import load_ledger

        place = _storage(storage)
        spec = extended(load_ledger(place.ledger_url, name).spec, trials, overrides or [])
        _drive(spec, place, address, extends=True)


@app.command()
def logs(
    name: Name,
    trial: Annotated[str | None, typer.Option("--trial", metavar="ID", help="a trial's id, or how it begins")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="keep showing what is written")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=1, help="of the end of a log")] = 20,
    storage: StorageFolder = None,
) -> None:
    """Show why trials failed, each error once, or what running ones write; with --trial that trial's log."""
    with _user_errors():
        from ssl_sweep.ledger import load_ledger
        from ssl_sweep.logs import followed, log_path, sweep_logs, trial_log

        place = _storage(storage)
        ledger = load_ledger(place.ledger_url, name)
        if follow:
            for text in followed(log_path(ledger, place, trial), lines):
                sys.stdout.write(text)
                sys.stdout.flush()
        else:
            sys.stdout.write(trial_log(ledger, place, trial, lines) if trial else sweep_logs(ledger, place, lines))


@app.command()
def plan(spec_file: SpecFile, overrides: Set = None, address: Address = None, as_json: AsJson = False) -> None:
    """Say what a sweep would cost, and whether its trials fit here; runs nothing."""
    with _user_errors():
        from dataclasses import asdict

        from ssl_sweep.plan import make_plan
        from ssl_sweep.spec_file import load_spec
        from ssl_sweep.terminal import plan_table

        spec = load_spec(spec_file, overrides or [])
        available = None
        if address or os.environ.get("RAY_ADDRESS"):
            from ssl_sweep.sweep import cluster_resources

            available = cluster_resources(address)
        planned = make_plan(spec, available)
        if as_json:
            _print_json(asdict(planned))
        else:
            out.print(plan_table(spec, planned))


@app.command("list")
def list_(storage: StorageFolder = None, as_json: AsJson = False) -> None:
    """List the sweeps of a storage folder."""
    with _user_errors():
        from ssl_sweep.status import overview
        from ssl_sweep.terminal import overview_table

        found = overview(_storage(storage))
        if as_json:
            _print_json(found)
        elif found:
            out.print(overview_table(found))
        else:
            out.print("no sweeps yet: ssl-sweep run experiments/quickstart.yaml")


@app.command()
def status(
    name: Name,
    storage: StorageFolder = None,
    as_json: AsJson = False,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="keep showing it, until Ctrl-C")] = False,
) -> None:
    """Show a sweep's trials: state, stage, epoch, attempts, and what failed."""
    with _user_errors():
        from ssl_sweep.status import sweep_status
        from ssl_sweep.terminal import status_table, watched

        place = _storage(storage)
        if as_json:
            _print_json(sweep_status(place, name))
        elif watch:
            watched(lambda: status_table(sweep_status(place, name)), out)
        else:
            out.print(status_table(sweep_status(place, name)))


@app.command()
def table(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="the sweeps' names")],
    form: Annotated[Format, typer.Option("--format", "-f", help="for a page, a paper or a script")] = "md",
    rows: Annotated[str | None, typer.Option(metavar="PARAMETER,...", help="parameters, searched or not")] = None,
    columns: Annotated[str | None, typer.Option(metavar="METRIC,...", help="metrics, side by side")] = None,
    interval: Annotated[
        Literal["std", "t", "bootstrap"] | None, typer.Option(help="± standard deviation, or a 95 % interval")
    ] = None,
    baseline: Annotated[str | None, typer.Option(metavar="ROW", help="row that the others are tested against")] = None,
    test: Annotated[Literal["t", "wilcoxon"] | None, typer.Option(help="paired, seed by seed")] = None,
    group_by: Annotated[
        str | None, typer.Option(metavar="PARAMETER,...", help="only the best row of each: method.name, sweep")
    ] = None,
    storage: StorageFolder = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow store [default: the sweeps', or the storage's]")
    ] = None,
) -> None:
    """Print the ablation table of a sweep, or of several in one, from MLflow alone; options rule over the spec's."""
    with _user_errors():
        from ssl_sweep.render import render
        from ssl_sweep.table_options import table_of

        stores = {name: tracking_uri or _tracking_uri(_storage(storage), name) for name in names}
        listed = {"rows": rows, "columns": columns, "group_by": group_by}
        asked = {
            key: None if text is None else [part.strip() for part in text.split(",")] for key, text in listed.items()
        }
        made = table_of(stores, **asked, interval=interval, baseline=baseline, test=test)
        sys.stdout.write(render(made, form, caption=", ".join(stores)).rstrip("\n") + "\n")


@app.command()
def export(
    name: Name,
    output: Annotated[Path, typer.Argument(metavar="OUT.safetensors", help="file to write")],
    trial: Annotated[
        str | None, typer.Option("--trial", metavar="ID", help="a trial's id, or how it begins [default: the best]")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="replace an existing file")] = False,
    storage: StorageFolder = None,
) -> None:
    """Write a trial's encoder to a file, its weights under torchvision's names."""
    with _user_errors():
        from ssl_sweep.best import chosen_trial
        from ssl_sweep.export import check_target, read_trial, write
        from ssl_sweep.ledger import load_ledger

        check_target(output, force=force)
        place = _storage(storage)
        ledger = load_ledger(place.ledger_url, name)
        chosen, why = chosen_trial(ledger, place, trial)
        trained = read_trial(place.trial(name, chosen.trial_id))
        written = write(trained, output, chosen.results or {}, force=force)
        lines = [f"{output}: {written['encoder']} of trial {chosen.trial_id} ({why})"]
        lines += [f"load: {written['load'].replace('FILE', repr(str(output)))}", f"input: {written['input']}"]
        out.print("\n".join(lines), markup=False, soft_wrap=True)


@app.command()
def report(
    name: Name,
    output: Annotated[
        Path | None, typer.Option("--out", "-o", metavar="FILE", help="file to write [default: NAME.html]")
    ] = None,
    storage: StorageFolder = None,
    tracking_uri: Annotated[
        str | None, typer.Option("--tracking-uri", help="MLflow store [default: the sweep's, or the storage's]")
    ] = None,
) -> None:
    """Write a sweep's page, from MLflow alone: table, plots, pictures, failures and cost in one HTML file."""
    with _user_errors():
        from ssl_sweep.report.page import make_page

        page = make_page(name, tracking_uri or _tracking_uri(_storage(storage), name))
        target = output or Path(f"{name}.html")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page, encoding="utf-8")
        out.print(f"wrote {target}", markup=False, soft_wrap=True)


@app.command()
def sync(name: Name, storage: StorageFolder = None) -> None:
    """Send a sweep's events to MLflow again, all of them; what is there already stays as it is."""
    with _user_errors():
        from ssl_sweep.recorder import sync as deliver

        place = _storage(storage)
        events = deliver(name, place.sweep(name), _tracking_uri(place, name))
        out.print(f"{events} events of {name} are in MLflow")


@app.command()
def ui(
    storage: StorageFolder = None,
    port: Annotated[int, typer.Option(help="port on this machine")] = 5000,
) -> None:
    """Open MLflow's pages on a storage folder, until Ctrl-C."""
    with _user_errors():
        import subprocess

        from ssl_sweep.storage import redacted

        place = _storage(storage)
        out.print(
            f"MLflow: [bold]http://127.0.0.1:{port}[/bold]  (store {redacted(place.tracking_uri)}; Ctrl-C ends it)"
        )
        command = [sys.executable, "-m", "mlflow", "ui", "--host", "127.0.0.1", "--port", str(port)]
        command += ["--backend-store-uri", place.tracking_uri]
        raise typer.Exit(subprocess.run(command, check=False).returncode)  # noqa: S603 - our own interpreter


@app.command()
def schema(
    output: Annotated[Path | None, typer.Argument(help="file to write [default: print]")] = None,
) -> None:
    """Write the JSON schema of spec files, with which editors complete and check them."""
    with _user_errors():
        from ssl_sweep.spec_schema import json_schema

        text = json.dumps(json_schema(), indent=2) + "\n"
        if output is None:
            sys.stdout.write(text)
        else:
            output.write_text(text)
            out.print(f"wrote {output}; first line of a spec: # yaml-language-server: $schema={output}")


@app.command()
def doctor(storage: StorageFolder = None, as_json: AsJson = False) -> None:
    """Check this installation: versions, devices, and whether the stores can be reached."""
    with _user_errors():
        from ssl_sweep.doctor import examine
        from ssl_sweep.terminal import checks_table

        checks = examine(_storage(storage))
        if as_json:
            _print_json(checks)
        else:
            out.print(checks_table(checks))
    raise typer.Exit(0 if all(check["ok"] for check in checks) else 1)


def _drive(
    spec: "SweepSpec",
    storage: "Storage",
    address: str | None,
    *,
    again: "Again | None" = None,
    extends: bool = False,
) -> None:
    from ssl_sweep.driver import drive
    from ssl_sweep.terminal import summary

    ended: Summary = drive(spec, storage, err, address=address, again=again, extends=extends)
    out.print(summary(spec, storage, ended))
    raise typer.Exit(ended.exit_code)


def _storage(folder: Path | None) -> "Storage":
    from ssl_sweep.storage import Storage

    return Storage(folder.resolve()) if folder else Storage.default()


def _tracking_uri(storage: "Storage", name: str) -> str:
    """The sweep's own MLflow store where its folder is here, else the storage's."""
    import yaml

    stored = storage.sweep(name) / "spec.yaml"
    own = yaml.safe_load(stored.read_text())["tracking"]["uri"] if stored.exists() else None
    return own or storage.tracking_uri


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


@contextmanager
def _user_errors() -> Iterator[None]:
    """Print a user's mistake as one message, without a stack trace, and exit with 2."""
    try:
        yield
    except (ValueError, LookupError, FileNotFoundError, PermissionError) as error:
        if not _is_users(error):
            raise
        err.print(str(error), style="red", markup=False, soft_wrap=True)
        raise typer.Exit(USER_MISTAKE) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


def _is_users(error: Exception) -> bool:
    """The package's own errors name place, value and remedy; a bare ValueError is our fault and shows its trace."""
    return type(error).__module__.startswith("ssl_sweep") or isinstance(error, OSError)
