"""Output whose reader is gone, or whose encoding lacks a character: in processes of their own."""

import os
import subprocess
import sys

DRIVES = """
import os, sys
from ssl_sweep.cli import open_streams
from ssl_sweep.commands.shared import err, out
from ssl_sweep.sweep.output import LastingOutput

open_streams()
sys.stdout = LastingOutput(sys.stdout)
for line in range(3):
    err.print(f"progress {line} caf\\u00e9 \\udc80")
    out.print("table ± \\udc80")
    sys.stdin.readline()
sys.exit(75)
"""


def started(**streams: object) -> "subprocess.Popen[str]":
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    return subprocess.Popen(
        [sys.executable, "-c", DRIVES], stdin=subprocess.PIPE, text=True, env=environment, **streams
    )


def test_a_closed_pipe_changes_neither_the_work_nor_its_end() -> None:
    process = started(stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout.readline() == "table ? ?\n"
    assert process.stderr.readline() == "progress 0 caf? ?\n"
    process.stdout.close()
    process.stderr.close()
    process.stdin.write("\n\n\n")
    process.stdin.close()
    assert process.wait(60) == 75


def test_a_closed_terminal_changes_neither_the_work_nor_its_end() -> None:
    terminal, end = os.openpty()
    process = started(stdout=end, stderr=end)
    os.close(end)
    assert b"progress 0" in os.read(terminal, 1000)
    os.close(terminal)
    process.stdin.write("\n\n\n")
    process.stdin.close()
    assert process.wait(60) == 75


def test_closed_streams_change_no_exit_code() -> None:
    command = f"{sys.executable} -m ssl_sweep --help"
    for closed in (">&-", ">&- 2>&- <&-"):
        assert subprocess.run(f"{command} {closed}", shell=True, capture_output=True, check=False).returncode == 0


def test_a_command_that_only_prints_ends_with_its_reader() -> None:
    command = f"{sys.executable} -m ssl_sweep --help | true"
    ran = subprocess.run(command, shell=True, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_a_full_disk_under_the_output_is_told_without_a_trace() -> None:
    command = f"{sys.executable} -m ssl_sweep --help > /dev/full"
    ran = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (1, "the output cannot be written: No space left on device\n")
