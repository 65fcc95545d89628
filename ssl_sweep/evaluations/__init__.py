"""One file an evaluation: `evaluate(encoder, splits, stage, *, knobs) -> metrics`, and `METRICS`, their names."""
