"""Speaks to a service over HTTP; needs neither torch, ray, mlflow nor optuna.

Owns profiles, the client and its errors. May import the light modules below it. Start with `client.py`.
"""
