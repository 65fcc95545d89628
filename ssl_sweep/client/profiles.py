"""Named services: the profiles in `~/.config/ssl_sweep/config.toml`."""

import os
import stat
import tomllib
from pathlib import Path
from typing import Any

from ssl_sweep.client.errors import ServiceError


def profile(server: str) -> tuple[str, str | None]:
    """The address and token of a profile, by its name or address; an unknown address has no token.

    Raises:
        ServiceError: no profile has this name, or other users can read its token.
    """
    path = Path(os.path.expanduser(os.environ.get("SSL_SWEEP_CONFIG") or "~/.config/ssl_sweep/config.toml"))
    try:
        known: dict[str, dict[str, Any]] = tomllib.loads(path.read_text()).get("profiles", {}) if path.is_file() else {}
    except tomllib.TOMLDecodeError as error:
        raise ServiceError(f"{path}: {error}") from error
    for name, each in known.items():
        address = str(each.get("server", "")).rstrip("/")
        if server == name and not address:
            raise ServiceError(f'{path}: profile {name} has no `server`; add server = "https://..." to it')
        if server == name or server.rstrip("/") == address:
            if each.get("token") and stat.S_IMODE(path.stat().st_mode) & 0o077:
                raise ServiceError(f"{path} holds a token and others can read it: chmod 600 {path}")
            return address, each.get("token")
    if not server.startswith(("http://", "https://")):
        names = ", ".join(known) or "none"
        raise ServiceError(f"--server {server}: neither an address nor a profile of {path}, which has {names}")
    return server.rstrip("/"), None
