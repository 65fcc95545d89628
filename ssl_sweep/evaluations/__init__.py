"""One file an evaluation, found by its name: `evaluate(encoder, splits, stage, *, knobs) -> metrics`, and `METRICS`.

Each file owns one measurement of an encoder. It may import `training`, `models` and `data`, never a method.
Start with `knn.py`.
"""
