"""The command line. Each command imports what it needs when it is called, so that `--help` answers at once."""

from ssl_sweep.commands import checking, driving, results, serving, submitting, watching  # noqa: F401 - each adds its commands
from ssl_sweep.commands.shared import app


def main() -> None:
    """Entry point of `ssl-sweep`."""
    app()
