"""Checks the address of a Ray cluster, and waits for an answer: Ray itself would try for many minutes."""

import logging
import os
import re
import socket
from typing import Any

import grpc  # type: ignore[import-untyped]  # Ray needs it

from ssl_sweep.cluster.errors import ClusterError

SILENT_S, ANSWER_S = 3.0, 27.0  # until the user is told, and from then on
log = logging.getLogger(__name__)


def check_address(address: str, name: str) -> None:
    """Check that this is HOST:PORT, of a host that has a name.

    Args:
        address: what should be one.
        name: what a message calls it.

    Raises:
        ClusterError: it is not; the message says what to write.
    """
    host, _, port = address.rpartition(":")
    remedy = "write HOST:PORT, as `ray start --head` prints it (10.0.0.1:6379), or leave it out to use this machine"
    if address.startswith("ray://"):
        remedy = f"a sweep does not run over Ray's client; on a machine of the cluster, {remedy}"
    elif "://" in address:
        remedy = f"this looks like the address of a dashboard; {remedy}"
    if not re.fullmatch(r"[\w.-]+|\[[\w:.%]+\]", host) or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ClusterError(f"{name} {address!r} is no address of a Ray cluster; {remedy}")
    try:
        socket.getaddrinfo(host.strip("[]"), int(port))
    except OSError as error:
        raise ClusterError(f"{name} {address!r}: no machine has this name ({error.strerror}); {remedy}") from None


def wait_for_answer(found: str, address: str) -> None:
    """Wait until Ray answers.

    Args:
        found: HOST:PORT of the cluster.
        address: what a message calls it.

    Raises:
        ClusterError: it has not for half a minute.
    """
    if os.environ.get("RAY_USE_TLS") == "1":  # needs Ray's certificates
        return
    channel: Any = grpc.insecure_channel(found, options=[("grpc.enable_http_proxy", 0)])
    ready = grpc.channel_ready_future(channel)
    try:
        try:
            ready.result(SILENT_S)
        except grpc.FutureTimeoutError:
            log.warning("no Ray answers at %s; waiting for up to %.0f s more", address, ANSWER_S)
            ready.result(ANSWER_S)
    except grpc.FutureTimeoutError:
        remedy = "check the address, that `ray start --head` runs there, and that no firewall closes the port"
        raise ClusterError(f"no Ray cluster can be used at {address}: nothing answers; {remedy}") from None
    finally:
        ready.cancel()
        channel.close()
