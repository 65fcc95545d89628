"""One file a method, found by its name: a class `Method(encoder, *, knobs)` (see `ssl_sweep.training.pretrain`).

Each file owns one method of the literature and names its paper. It may import `training`, `models` and `data`, never an
evaluation. Start with `simclr.py`.
"""
