"""Hyperparameter sweeps for self-supervised image learning."""

__version__ = "0.1.0"
