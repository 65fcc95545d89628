"""Runs, steers, extends and cleans sweeps; shows their status, logs and progress.

Owns what commands and the service do to a sweep. May import `cluster` and everything below it.
Start with `drive.py`, then `finish.py` and `steering.py`.
"""
