"""The HTTP client of the service; needs neither torch, ray, mlflow nor optuna.

Owns profiles, the client and its errors. May import the light modules below it. Start with `client.py`.
"""
