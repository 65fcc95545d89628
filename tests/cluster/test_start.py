"""Where Ray cannot start or be reached, a driver says so in one message, soon, and before it makes anything."""

import logging
import os
import re
import resource
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ssl_sweep.cluster import address as addresses
from ssl_sweep.cluster import sessions, start, surroundings
from ssl_sweep.cluster.address import check_address, wait_for_answer
from ssl_sweep.cluster.errors import ClusterError
from ssl_sweep.cluster.start import check_start
from ssl_sweep.cluster.surroundings import check_machine, temporary_folder


@pytest.mark.parametrize("address", ["127.0.0.1:6379", "localhost:6379", "[::1]:6379"])
def test_an_address_is_a_host_and_a_port(address: str) -> None:
    check_address(address, "RAY_ADDRESS")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("nonsense", "write HOST:PORT"),
        ("127.0.0.1", "write HOST:PORT"),
        ("127.0.0.1:", "write HOST:PORT"),
        (":6379", "write HOST:PORT"),
        ("127.0.0.1:63790000", "write HOST:PORT"),
        ("a b:6379", "write HOST:PORT"),
        ("http://127.0.0.1:8265", "address of a dashboard"),
        ("ray://127.0.0.1:10001", "does not run over Ray's client"),
        ("no-such-machine.invalid:6379", "no machine has this name"),
    ],
)
def test_anything_else_is_refused_with_its_name(address: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ClusterError, match=said) as refused:
        check_start(address)
    assert str(refused.value).startswith(f"the address {address!r}")
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ClusterError, match=f"^RAY_ADDRESS {address!r}".replace("[", r"\[")):
        check_start(None)


def test_a_silent_address_is_given_up_with_a_word_before(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(addresses, "SILENT_S", 0.1)
    monkeypatch.setattr(addresses, "ANSWER_S", 0.2)
    with socket.socket() as silent:  # takes connections and says nothing: a port of something else
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        where = f"127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match="no Ray cluster can be used at auto: nothing answers; check"):
            wait_for_answer(where, "auto")
    assert "no Ray answers at auto; waiting for up to" in caplog.text


def test_a_setting_of_rays_that_is_no_number_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where Ray is imported, the process ends with a segmentation fault."""
    monkeypatch.setenv("RAY_gcs_server_request_timeout_seconds", "soon")
    ran = subprocess.run([sys.executable, "-c", "import ssl_sweep.cluster.run"], capture_output=True, text=True)
    assert ran.returncode == 1
    assert "unset what should be a number: RAY_gcs_server_request_timeout_seconds=soon" in ran.stderr


MISMATCH = "Version mismatch: The cluster was started with:\n    Ray: 2.9.0\n    Python: 3.9.1"


@pytest.mark.parametrize(
    ("target", "error", "said"),
    [
        (
            "127.0.0.1:6379",
            RuntimeError(MISMATCH),
            "Ray: 2.9.0 Python: 3.9.1); run the driver with the Python and the Ray",
        ),
        (
            "127.0.0.1:6379",
            ConnectionError("no token"),
            "no Ray cluster can be used at 127.0.0.1:6379 .*RAY_AUTH_TOKEN",
        ),
        (
            "local",
            OSError("no more processes"),
            "cannot start on this machine: OSError: no more processes.*/ray/session_",
        ),
    ],
)
def test_what_ray_refuses_is_one_message(
    target: str, error: Exception, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(start, "_init", refuse)
    monkeypatch.setattr(start, "wait_for_answer", lambda *_: None)
    with pytest.raises(ClusterError) as refused, start.ray_cluster(target):
        raise AssertionError("was started")
    assert re.search(said.replace(")", r"\)"), str(refused.value))
    assert "\n" not in str(refused.value)


def test_too_few_open_files_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (64, 64))
    with pytest.raises(ClusterError, match=r"may open 64 files here .* needs 1024; raise it, by `ulimit -Hn 8192`"):
        check_machine()


@pytest.mark.parametrize(
    ("cache", "said"),
    [("cache", "is relative"), ("~nouser/cache", "is relative"), ("/proc/none/cache", "cannot be written")],
)
def test_a_cache_that_trials_cannot_share_is_refused(cache: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_SWEEP_CACHE", cache)
    with pytest.raises(ClusterError, match=f"{cache} {said}.*set SSL_SWEEP_CACHE to the full path"):
        check_machine()


def test_rays_token_needs_no_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/proc/none")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")  # is restored after the test
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    check_machine()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


@pytest.mark.parametrize(
    ("given", "left"), [("", None), (":", None), (":/lab", "/lab"), ("/lab::src:", "/lab:src"), (None, None)]
)
def test_workers_are_not_sent_to_the_current_directory_by_accident(
    given: str | None, left: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", given or "")
    if given is None:
        monkeypatch.delenv("PYTHONPATH")
    surroundings.name_import_folders()
    assert os.environ.get("PYTHONPATH") == left


@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_a_temporary_folder_too_long_for_a_socket_is_replaced_and_this_is_said(
    variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("RAY_TMPDIR", raising=False)
    monkeypatch.setattr(surroundings, "FALLBACK", tmp_path.parents[1] / "r")
    monkeypatch.setattr(surroundings, "SOCKET_BYTES", len(str(tmp_path.parents[1])) + 80)
    monkeypatch.setenv(variable, str(tmp_path / ("long" * 20)))
    assert temporary_folder() == surroundings.FALLBACK
    assert "is too long for Ray's sockets" in caplog.text
    monkeypatch.setenv(variable, str(tmp_path.parents[1]))
    caplog.clear()
    assert temporary_folder() == tmp_path.parents[1] / "ray"
    assert not caplog.records


def test_where_no_folder_can_be_written_both_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", "/proc/none")
    monkeypatch.setattr(surroundings, "FALLBACK", Path("/proc/nor/this"))
    with pytest.raises(ClusterError, match=r"/proc/none/ray cannot .*/proc/nor/this cannot .*; set RAY_TMPDIR"):
        temporary_folder()


def test_of_sessions_whose_drivers_died_the_newest_stay(tmp_path: Path) -> None:
    here, gone = socket.gethostname(), 2**22 + 1
    drivers = [f"{here} {os.getpid()}", f"elsewhere {gone}", *[f"{here} {gone}"] * 6, "cut"]
    for number, driver in enumerate(drivers):
        folder = tmp_path / f"session_2026-11-29_13-00-0{number}_1_1"
        folder.mkdir()
        (folder / sessions.MARK).write_text(driver)
    others = tmp_path / "session_2026-11-28_13-00-00_1_1"  # of a Ray that no driver of ours has started
    others.mkdir()
    sessions.remove_old(tmp_path)
    left = sorted(int(folder.name[-5]) for folder in tmp_path.glob("session_2026-11-29*"))
    assert left == [0, 1, 4, 5, 6, 7, 8]
    assert others.exists()


@pytest.mark.parametrize("died", [False, True])
def test_the_folder_of_a_session_goes_unless_something_died(
    died: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    folder = tmp_path / "session_1"
    (folder / "logs").mkdir(parents=True)
    (tmp_path / "session_latest").symlink_to(folder)
    monkeypatch.setattr(
        sessions.ray, "nodes", lambda: [{"ObjectStoreSocketName": str(folder / "sockets" / "plasma_store")}]
    )
    ended: list[bool] = []
    with caplog.at_level(logging.WARNING), sessions.own_session(lambda: ended.append(True)) as note_death:
        if died:
            note_death()
    assert ended == [True]
    assert folder.exists() == died
    assert (str(folder / "logs") in caplog.text) == died
    assert (tmp_path / "session_latest").is_symlink() == died
