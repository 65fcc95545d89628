"""Contracts: what every method, evaluation, encoder and source promises, as checks of the package's own and of plugins.

Owns the checks of each kind, and how they are run and reported. Needs neither pytest, Ray, MLflow nor Optuna. May
import `trial` and the packages below it. Start with `contract.py`, then `methods.py`.
"""
