"""The command line. Each command imports what it needs when it is called, so that `--help` answers at once."""

import errno
import os
import sys

from ssl_sweep.commands import checking, driving, results, serving, submitting, watching  # noqa: F401 - each adds its commands
from ssl_sweep.commands.shared import app
from ssl_sweep.sweep.exit_codes import ExitCode
from ssl_sweep.sweep.output import LastingOutput, drop_output
from ssl_sweep.trialdir.disk import is_full

GONE = (errno.EPIPE, errno.EIO)  # the reader of a pipe, or the terminal

STDERR = 2


def main() -> None:
    """Entry point of `ssl-sweep`."""
    put_current_folder_last()
    open_streams()
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except OSError as error:
        if error.errno not in GONE and not is_full(error):
            raise
        drop_output(sys.stdout)  # a command that only prints has nothing left to do
        sys.exit(ExitCode.INCOMPLETE if error.errno in GONE else f"the output cannot be written: {error.strerror}")


def open_streams() -> None:
    """Have every stream open, write with replacements what an encoding lacks, and drop messages that nobody reads."""
    while (null := os.open(os.devnull, os.O_RDWR)) <= STDERR:  # else a database could be opened as the closed stderr
        pass
    os.close(null)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name) or open(os.devnull, "w")  # noqa: SIM115 - until the process ends
        stream.reconfigure(errors="replace")
        setattr(sys, name, stream)
    sys.stderr = LastingOutput(sys.stderr)


def put_current_folder_last() -> None:
    """Import what is installed before what lies in the current directory, unless PYTHONPATH names it.

    An empty entry means it too: `PYTHONPATH=$PYTHONPATH:/lab` has one where there was no PYTHONPATH. A package of the
    user's may be installed from there, in place.
    """
    named = {os.path.realpath(entry) for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry}
    here = os.path.realpath(".") if os.path.exists(".") else ""
    if here not in named:
        sys.path.sort(key=lambda entry: os.path.realpath(entry) == here)
