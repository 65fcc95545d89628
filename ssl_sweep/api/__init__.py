"""Sweeps in Python, for scripts and notebooks: `ssl_sweep.run`, `ssl_sweep.open`, and what a sweep shows of itself.

Owns the handle of a sweep; the commands that do the same call it. May import `sweep` and everything below it.
Start with `handle.py`.
"""
