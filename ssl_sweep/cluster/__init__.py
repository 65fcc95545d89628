"""Runs a ledger's trials on Ray: scheduler, searcher, warm workers, gangs of workers, folders synced with a bucket.

The only package that imports Ray. May import `report`, `ledger` and what lies below them.
Start with `run.py`, then `scheduler.py`, which knows no Ray, and `trainable.py`.
"""

import logging
import os
import re
import subprocess
import sys

from ssl_sweep.cluster.errors import ClusterError

# Ray reads these when it is imported; its own output would hide the progress display
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1e9")  # its snapshots are never read back
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
os.environ.setdefault("RAY_gcs_rpc_server_reconnect_timeout_s", "300")  # then Ray ends the process; see watch.py
logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)  # asks every notebook for ipywidgets


def _check_settings() -> None:
    """Check that Ray can read its settings in the environment: a word in place of a number ends the process in C++.

    Raises:
        ClusterError: it cannot.
    """
    settings = {name: value for name, value in os.environ.items() if re.match("RAY_[a-z]", name)}
    words = [f"{name}={value}" for name, value in settings.items() if not re.fullmatch(r"[\d.e+-]+|true|false", value)]
    if not words:
        return
    probe = subprocess.run([sys.executable, "-P", "-c", "import ray"], capture_output=True, check=False)
    if probe.returncode != 0:
        raise ClusterError(f"Ray cannot read its settings; unset what should be a number: {', '.join(words)}")


_check_settings()
