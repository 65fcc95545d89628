"""What lies in a trial's folder: checkpoints, the journal, requests to a running trial, signs of life, full disks.

Owns the names and formats of these files; whoever else needs one reads it through this package.
Imports torch (in `checkpoint` only) and nothing else of the package. Start with `checkpoint.py`, then `journal.py`.
"""
