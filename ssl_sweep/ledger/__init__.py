"""The Optuna study of a sweep: which choices exist, their trials by seed, what runs next and what is pruned.

The only package that imports optuna. Owns the study, the lease of the one driver, samplers and pruners.
May import `spec` and what lies below it. Start with `open.py`, then `study.py`.
"""
