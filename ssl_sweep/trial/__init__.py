"""One trial: its attempts, its stages and their keys, and the export of its encoder.

Owns the path from a trial's record to its results. Knows neither Ray, Optuna nor MLflow: runs on a bare GPU machine.
May import `knobs` and the packages below it. Start with `attempt.py`, then `run.py` and `stages.py`.
"""
