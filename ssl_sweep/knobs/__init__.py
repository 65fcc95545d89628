"""Knobs: the keyword-only arguments of methods, evaluations and encoders, which a spec sets and searches.

Owns knobs, what methods and evaluations declare, findings about wrong values, "did you mean", and costs.
May import `methods`, `evaluations` and the packages below them. Start with `knobs.py`.
"""
