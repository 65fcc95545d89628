"""One file per method, found by its name: a class `Method(encoder, *, knobs)` (see `training/declarations.py`).

Each file has one method of the literature and names its paper. It may import `training`, `models` and `data`, never an
evaluation. Start with `simclr.py`.
"""
