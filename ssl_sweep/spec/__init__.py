"""Reads a YAML file into a frozen `SweepSpec` and reports every mistake at once; makes the JSON schema and the plan.

Owns the keys of a spec and what they mean. May import `tables` and what lies below it.
Start with `sweep.py`, then `file.py` and `search.py`.
"""
