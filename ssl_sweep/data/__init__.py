"""Image sets: their sources, decoding once per node, splits, and batched random views.

Owns sources, packs, splits and subsets, and the random views that a method draws on its device.
May import `trialdir` and `storage`. Start with `sources.py` and `splits.py`, then `views.py`.
"""
