"""Runs a ledger's trials on Ray: the searcher, warm workers, gangs of workers, folders synced with a bucket.

The only package that imports Ray. May import `report`, `ledger` and what lies below them.
Start with `run.py`, then `search.py` and `trainable.py`.
"""

import os

# read by Ray when it is imported; what they would print hides the progress display
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
os.environ.setdefault("TUNE_GLOBAL_CHECKPOINT_S", "1e9")  # its snapshots hold every trial, and are never read back
os.environ.setdefault("RAY_TRAIN_V2_ENABLED", "1")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
