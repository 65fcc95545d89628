"""A YAML file as a frozen `SweepSpec`, with every mistake told at once; its JSON schema, reference and plan.

Owns the keys of a spec and what they mean. May import `tables` and what lies below it.
Start with `sweep.py`, then `file.py` and `search.py`.
"""
