"""Plugins: a user's own methods, evaluations, encoders and sources, without a change to the package.

Owns their names, their modules and their identity. Imports no other package but `errors`. Start with `catalog.py`.
"""
