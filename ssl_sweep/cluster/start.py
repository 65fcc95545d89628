"""Starts Ray on this machine for a driver, or joins a cluster."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import MappingProxyType

import ray

from ssl_sweep.cluster import compat, plugins
from ssl_sweep.cluster.signals import hangups_held
from ssl_sweep.errors import UserError
from ssl_sweep.plugins.catalog import FOLDER_VARIABLE


class ClusterError(UserError, ValueError):
    """The Ray cluster cannot be used."""


@contextmanager
def ray_cluster(address: str | None, pins: Mapping[str, str] = MappingProxyType({})) -> Iterator[None]:
    """A Ray cluster to run on: the one of this process if there is one, that of an address, or one of this machine.

    Args:
        address: None takes RAY_ADDRESS, or starts Ray on this machine.
        pins: the sweep's; its local plugins are brought to the workers.

    Raises:
        ClusterError: the cluster cannot be reached or refuses access.
    """
    if ray.is_initialized():  # the caller shuts it down
        if address is not None:
            remedy = "leave the address out to use that Ray, or call ray.shutdown() first"
            raise ClusterError(f"{address}: Ray runs already in this process; {remedy}")
        if not plugins.seen_by_all(pins):
            raise ClusterError(
                "Ray runs already in this process, and its workers do not have your plugins: call ray.shutdown() "
                f"first, or set {FOLDER_VARIABLE} before ray.init()"
            )
        yield
        return
    target = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        with plugins.runtime_env(pins) as environment, hangups_held():
            ray.init(
                address=target,
                job_config=compat.job_config(),
                runtime_env=environment,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=True,
            )
    except ConnectionError as error:
        remedy = "check that it is up; one that wants a token needs RAY_AUTH_MODE=token and RAY_AUTH_TOKEN here too"
        raise ClusterError(f"no Ray cluster can be used at {target} ({error}); {remedy}") from error
    try:
        yield
    finally:
        ray.shutdown()
