"""The service as a process."""

from pathlib import Path

import uvicorn

from ssl_sweep.service.app import make_app
from ssl_sweep.service.jobs import RayJobs
from ssl_sweep.service.loop import Loop
from ssl_sweep.service.settings import Settings
from ssl_sweep.service.store import Store

GRACE_S = 5  # for requests that run when the service is asked to end


def serve(
    settings: Settings,
    ray_address: str,
    host: str,
    port: int,
    *,
    certificate: Path | None = None,
    key: Path | None = None,
    trusted_proxy: str | None = None,
) -> None:
    """Serve until SIGTERM or Ctrl-C. Sweeps go on without it, and it goes on with them when it is started again.

    Args:
        settings: the service's.
        ray_address: the dashboard of the cluster's head.
        host: address to listen at.
        port: port to listen at.
        certificate: TLS certificate's file, with its key's.
        key: file of its private key.
        trusted_proxy: address of the one proxy that is believed whom it speaks for.
    """
    settings.storage.root.mkdir(parents=True, exist_ok=True)
    store = Store(settings.storage.service_url)
    ray = RayJobs(ray_address)
    try:
        uvicorn.run(
            make_app(store, Loop(store, ray, settings), settings),
            host=host,
            port=port,
            log_level="warning",
            server_header=False,
            proxy_headers=trusted_proxy is not None,
            forwarded_allow_ips=trusted_proxy,
            ssl_certfile=certificate,
            ssl_keyfile=key,
            timeout_graceful_shutdown=GRACE_S,
        )
    finally:
        ray.close()
        store.close()
