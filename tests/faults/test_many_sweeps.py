"""Many sweeps one after the other leave nothing in the machine, and a driver of many trials grows by little.

Fifty starts of Ray: `make test-faults` runs them all, and a smaller SSL_SWEEP_FAULTS as many as begin in six minutes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from quick_sweeps import TRAINED
from servers import eventually

FAULTS = int(os.environ.get("SSL_SWEEP_FAULTS", "0"))
SWEEPS = 50
LIMIT_S = 6000 if FAULTS >= 20 else 360
MEGABYTES = 40.0  # by which a driver may grow in 1,000 trials
ROOT = Path(__file__).parents[2]
# runs $1 sweeps, those that begin within $2 s; tells how many, and stays until its input is closed
SHELL = """
n=0
while [ $n -lt $1 ] && [ $SECONDS -lt $2 ]; do
    "$3" -m ssl_sweep run "$4/spec.yaml" --set "name=s$n" --storage "$4/runs" > "$4/said" 2>&1 ||
        { cat "$4/said"; exit 1; }
    n=$((n + 1))
done
echo "ran $n"
read -r _
"""

pytestmark = [
    pytest.mark.skipif("SSL_SWEEP_FAULTS" not in os.environ, reason="minutes: make test-faults"),
    pytest.mark.slow,  # many starts of Ray
]
# runs sweeps in one process, each with a Ray of its own, and tells after each what the process holds
PROCESS = """
import gc, json, os, sys, threading
from pathlib import Path
import ssl_sweep

spec, storage, sweeps = json.loads(sys.argv[1]), sys.argv[2], int(sys.argv[3])
held = Path("/proc/self/fd")
for number in range(sweeps):
    ssl_sweep.run({**spec, "name": f"s{number}"}, storage=storage)
    gc.collect()
    print(json.dumps({
        "files": [os.readlink(held / name) for name in os.listdir(held) if os.path.lexists(held / name)],
        "threads": [thread.name for thread in threading.enumerate() if thread is not threading.main_thread()],
        "children": Path("/proc/self/task", str(os.getpid()), "children").read_text().split(),
    }), flush=True)
"""


def processes_with(variable: str) -> list[str]:
    """The command lines of the processes that have this in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if variable.encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append((folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace"))
        except OSError:  # another user's, or gone
            continue
    return found


def zombies_of(pid: int) -> list[str]:
    """The ended children that a process has not waited for."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    states = [Path(f"/proc/{child}/stat").read_text() for child in children]
    return [state for state in states if state.rpartition(")")[2].split()[0] == "Z"]


@pytest.mark.timeout(LIMIT_S + 600)
def test_sweeps_in_a_row_leave_no_process_no_zombie_and_no_folder_of_rays(tmp_path: Path, rays_folder: Path) -> None:
    (tmp_path / "spec.yaml").write_text(yaml.safe_dump({"name": "s", **TRAINED}))
    words = [str(each) for each in (SWEEPS, LIMIT_S, sys.executable, tmp_path)]
    own = f"RAY_TMPDIR={rays_folder}"
    shell = subprocess.Popen(
        ["bash", "-c", SHELL, "bash", *words],
        env={**os.environ, "RAY_TMPDIR": str(rays_folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert shell.stdout is not None
        said = shell.stdout.readline()
        assert said.startswith("ran "), said + shell.stdout.read()
        assert int(said.split()[1]) > 1
        assert eventually(lambda: len(processes_with(own)) == 1, 60), processes_with(own)  # the shell
        assert zombies_of(shell.pid) == []
        shell.communicate("\n", timeout=60)
    finally:
        shell.kill()
        shell.wait()
    left = [path for path in rays_folder.rglob("*") if path.is_file()]
    assert list(rays_folder.glob("ray/session_*")) == []
    assert sum(path.stat().st_size for path in left) < 1_000_000, left


@pytest.mark.timeout(1600)
def test_sweeps_in_one_process_hold_nothing_that_is_theirs(tmp_path: Path, rays_folder: Path) -> None:
    """Ray keeps a log, a thread of its C++ part and a socket of each start; of those, no more."""
    spec, sweeps = json.dumps(TRAINED), 6
    command = [sys.executable, "-c", PROCESS, spec, str(tmp_path / "runs"), str(sweeps)]
    environment = {**os.environ, "RAY_TMPDIR": str(rays_folder)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1500)
    assert ran.returncode == 0, ran.stderr
    after = [json.loads(line) for line in ran.stdout.splitlines() if line.startswith('{"files"')]
    assert len(after) == sweeps
    assert [(held["threads"], held["children"]) for held in after] == [([], [])] * sweeps
    rays = [
        [name for name in held["files"] if str(rays_folder) in name or name.startswith("socket:")] for held in after
    ]
    others = [len(held["files"]) - len(own) for held, own in zip(after, rays, strict=True)]
    assert max(others[2:]) <= max(others[:2]), after[-1]["files"]
    assert len(rays[-1]) - len(rays[1]) <= 2 * (sweeps - 2), rays[-1]


@pytest.mark.timeout(1600)
def test_a_driver_of_many_trials_grows_by_little() -> None:
    command = [sys.executable, "-m", "tests.bench.scale", "--here", "ours:2000"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=1500)
    assert ran.returncode == 0, ran.stderr
    measured = json.loads(ran.stdout.splitlines()[-1])
    assert measured["trials"] == 2000
    assert measured["mb"] <= MEGABYTES, measured
