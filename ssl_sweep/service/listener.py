"""The address and the TLS files of the service's HTTP server."""

import ipaddress
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Listener:
    """Where the service listens, and who may stand between it and its users.

    Args:
        host: address to listen on.
        port: port to listen on.
        certificate: TLS certificate file (PEM); None: HTTP without TLS.
        key: private key file; None: `certificate` holds the key too.
        trusted_proxy: address of the one proxy whose X-Forwarded-* headers are trusted.
    """

    host: str = "127.0.0.1"
    port: int = 8300
    certificate: Path | None = None
    key: Path | None = None
    trusted_proxy: str | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.certificate else 'http'}://{self.host}:{self.port}"

    @property
    def is_local(self) -> bool:
        """Whether only users of this machine can reach it."""
        return is_loopback(self.host) and self.trusted_proxy is None

    @property
    def is_exposed(self) -> bool:
        """Whether tokens cross a network unencrypted."""
        return not self.is_local and self.certificate is None and self.trusted_proxy is None


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
