"""One file for each evaluation, found by its name: `evaluate(encoder, splits, stage, *, knobs) -> metrics`, `METRICS`.

Each file owns one measurement of an encoder; `knobs.evaluation` lists what it may declare. It may import `training`,
`models` and `data`, never a method. Start with `knn.py`.
"""
