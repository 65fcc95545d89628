"""The files in a trial's folder: checkpoints, journal, record, stop requests, heartbeats.

Owns the names and formats of these files: other packages read and write them through this one. Also atomic writes,
full disks, and retries, which every package needs.
Imports torch (in `checkpoint` only) and nothing else of the package. Start with `checkpoint.py`, then `journal.py`.
"""
