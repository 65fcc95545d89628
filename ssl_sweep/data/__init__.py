"""Image sets: where they come from, how each is decoded once a node, how it is split, and batched views of it.

Owns sources, packs, splits and subsets, and the random views that a method draws on its device.
May import `trialdir` and `storage`. Start with `sources.py` and `splits.py`, then `views.py`.
"""
