"""The command that checks methods, evaluations, encoders and sources: the package's own and plugins."""

import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from ssl_sweep.commands.shared import AsJson, Plugins, app, err, out, print_json, use_plugins, user_errors

if TYPE_CHECKING:
    from ssl_sweep.contracts.report import Finding, Subject

STYLES = {"holds": "green", "fails": "red", "not checked": "dim"}


@app.command()
def check(
    target: Annotated[
        str,
        typer.Argument(
            metavar="NAME|DIR",
            help="A method, an evaluation, an encoder or a source:ARGUMENT, as specs name it; or a folder of plugins.",
        ),
    ],
    plugins: Plugins = None,
    timeout: Annotated[float, typer.Option(min=1, metavar="SECONDS", help="Time of each check.")] = 60,
    verbose: Annotated[bool, typer.Option("--verbose", help="Print the trace of each error.")] = False,
    as_json: AsJson = False,
) -> None:
    """Check what a method, an evaluation, an encoder or a source promises, and say what fails in words."""
    with user_errors():
        from ssl_sweep.contracts.find import find
        from ssl_sweep.spec.file import DATA_VARIABLE

        use_plugins(plugins)
        subjects = find(target, Path(os.environ.get(DATA_VARIABLE, ".")))
        findings = _check(subjects, timeout, verbose=verbose, quiet=as_json)
        if as_json:
            print_json([asdict(finding) for finding in findings])
        else:
            out.print(_summary(findings))
    raise typer.Exit(1 if any(finding.result == "fails" for finding in findings) else 0)


def _check(subjects: Sequence["Subject"], timeout: float, *, verbose: bool, quiet: bool) -> list["Finding"]:
    """Run all checks, and print each as it ends; a terminal shows which one runs."""
    from ssl_sweep.contracts.report import run

    findings: list[Finding] = []
    width = max(len(_named(subject)) for subject in subjects)
    with (err if quiet else out).status("") as status:  # a console draws its lines above its own status
        for subject in subjects:
            for finding in run(subject, timeout, lambda words: status.update(f"{_named(subject)}: {words}")):  # noqa: B023
                findings.append(finding)
                if not quiet:
                    out.print(_line(finding, width), soft_wrap=True)
                    if verbose and finding.trace:
                        out.print(Text(finding.trace, "dim"), soft_wrap=True)
    return findings


def _line(finding: "Finding", width: int) -> Text:
    """`method local/mine   fails        views draw from the generator alone`, and below it why and where."""
    line = Text(f"{_named(finding):{width}}  ").append(f"{finding.result:<11}", STYLES[finding.result])
    line.append(f"  {finding.check}")
    if finding.result == "not checked":
        line.append(f" ({finding.message})", "dim")
    elif finding.message:
        line.append(f"\n{'':{width + 2}}{finding.message}", "red")
        if finding.place is not None:
            line.append(f"\n{'':{width + 2}}at {finding.place.removeprefix(f'{Path.cwd()}/')}", "dim")
    return line


def _summary(findings: Sequence["Finding"]) -> Text:
    counts = {result: sum(finding.result == result for finding in findings) for result in STYLES}
    failed = counts["fails"]
    words = [f"{counts['holds']} checks hold", f"{failed} fail{'s' if failed == 1 else ''}"]
    words += [f"{counts['not checked']} not checked"] * bool(counts["not checked"])
    return Text(", ".join(words), "red" if failed else "green")


def _named(about: "Subject | Finding") -> str:
    return f"{about.kind.removesuffix('s')} {about.name}"
