"""Starts Ray on this machine for a driver, or joins a cluster."""

import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any

import ray

from ssl_sweep.cluster import compat, plugins
from ssl_sweep.cluster.address import check_address, wait_for_answer
from ssl_sweep.cluster.errors import ClusterError
from ssl_sweep.cluster.joined import JoinedRay
from ssl_sweep.cluster.sessions import own_session
from ssl_sweep.cluster.signals import hangups_held
from ssl_sweep.cluster.surroundings import check_machine, name_import_folders, temporary_folder
from ssl_sweep.plugins.catalog import FOLDER_VARIABLE


def check_start(address: str | None) -> None:
    """Check what can be checked of a cluster without starting Ray; see `ray_cluster`.

    Raises:
        ClusterError: it cannot be used; the message says why.
    """
    target = _target(address)
    if ray.is_initialized():
        return
    if target == "local":
        check_machine()
    elif target != "auto":
        check_address(target, "the address" if address else "RAY_ADDRESS")


@contextmanager
def ray_cluster(address: str | None, pins: Mapping[str, str] = MappingProxyType({})) -> Iterator[JoinedRay]:
    """A Ray cluster to run on: the one of this process if there is one, that of an address, or one of this machine.

    Args:
        address: None takes RAY_ADDRESS, or starts Ray on this machine.
        pins: the sweep's; its local plugins are brought to the workers.

    Raises:
        ClusterError: the cluster cannot be started, cannot be reached or refuses access.
    """
    if JoinedRay.abandoned:
        raise ClusterError(
            "Ray has stopped answering in this process: start another process; in a notebook, restart the kernel"
        )
    if ray.is_initialized():  # the caller shuts it down
        if address is not None:
            remedy = "leave the address out to use that Ray, or call ray.shutdown() first"
            raise ClusterError(f"{address}: Ray runs already in this process; {remedy}")
        if not plugins.seen_by_all(pins):
            raise ClusterError(
                "Ray runs already in this process, and its workers do not have your plugins: call ray.shutdown() "
                f"first, or set {FOLDER_VARIABLE} before ray.init()"
            )
        yield JoinedRay(owned=False)
        return
    target = _target(address)
    check_start(address)
    with plugins.runtime_env(pins) as environment:
        if target == "local":
            _start_here(environment)
        else:
            _join(target, environment)
    joined = JoinedRay(owned=True)
    try:
        if target == "local":
            with own_session(joined.shut_down) as joined.note_death:
                yield joined
        else:
            yield joined
    finally:
        joined.shut_down()


def _target(address: str | None) -> str:
    return address or os.environ.get("RAY_ADDRESS") or "local"


def _start_here(environment: Mapping[str, Any] | None) -> None:
    folder = temporary_folder()
    name_import_folders()
    try:
        _init("local", environment, _temp_dir=str(folder))
    except Exception as error:  # whatever Ray finds missing
        ray.shutdown()
        logs = f"its logs: {folder}/session_latest/logs"
        raise ClusterError(
            f"Ray cannot start on this machine: {_words(error)}; mend this and run again ({logs})"
        ) from error


def _join(target: str, environment: Mapping[str, Any] | None) -> None:
    try:
        wait_for_answer(compat.found_address(target), target)
        _init(target, environment)
    except ClusterError:
        raise
    except Exception as error:  # Ray has many for a cluster that refuses
        ray.shutdown()
        remedy = "check that it is up; one that wants a token needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too"
        if "Version mismatch" in str(error):
            remedy = "run the driver with the Python and the Ray of the cluster, or leave the address out"
        raise ClusterError(f"no Ray cluster can be used at {target} ({_words(error)}); {remedy}") from error


def _init(target: str, environment: Mapping[str, Any] | None, **settings: Any) -> None:
    with hangups_held():
        ray.init(
            address=target,
            job_config=compat.job_config(),
            runtime_env=environment,
            log_to_driver=False,
            logging_level=logging.ERROR,
            configure_logging=True,
            **settings,
        )


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: " + re.sub(r"\s+", " ", str(error))
