"""Runs a ledger's trials on Ray: scheduler, searcher, warm workers, gangs of workers, folders synced with a bucket.

The only package that imports Ray. May import `report`, `ledger` and what lies below them.
Start with `run.py`, then `scheduler.py`, which knows no Ray, and `trainable.py`.
"""

import logging
import os

# Ray reads these when it is imported; its own output would hide the progress display
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1e9")  # its snapshots are never read back
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
logging.getLogger("ray.widgets.util").setLevel(logging.WARNING)  # asks every notebook for ipywidgets
