"""One trial: its attempts, its stages and their keys, and the export of what it has trained.

Owns the path from a trial's record to its results; knows neither Ray, Optuna nor MLflow and runs on a bare GPU machine.
May import `knobs` and what lies below it. Start with `attempt.py`, then `run.py` and `stages.py`.
"""
