"""The service as a process."""

import uvicorn

from ssl_sweep.service.app import make_app
from ssl_sweep.service.dispatcher import Dispatcher
from ssl_sweep.service.jobs import RayJobs
from ssl_sweep.service.listener import Listener
from ssl_sweep.service.settings import Settings
from ssl_sweep.service.store import Store

GRACE_S = 5  # for open requests to finish when the service stops


def serve(settings: Settings, ray_address: str, listener: Listener) -> None:
    """Serve until SIGTERM or Ctrl-C. Sweeps continue without the service, and a restarted service finds them.

    Args:
        settings: what the service does.
        ray_address: the dashboard of the cluster's head.
        listener: where it listens.
    """
    settings.storage.root.mkdir(parents=True, exist_ok=True)
    store = Store(settings.storage.service_url)
    ray = RayJobs(ray_address)
    try:
        uvicorn.run(
            make_app(store, Dispatcher(store, ray, settings), settings),
            host=listener.host,
            port=listener.port,
            log_level="warning",
            server_header=False,
            proxy_headers=listener.trusted_proxy is not None,
            forwarded_allow_ips=listener.trusted_proxy,
            ssl_certfile=listener.certificate,
            ssl_keyfile=listener.key,
            timeout_graceful_shutdown=GRACE_S,
        )
    finally:
        ray.close()
        store.close()
