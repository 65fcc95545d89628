"""What can be searched: the keyword-only arguments of methods, evaluations and encoders, found in their signatures.

Owns knobs, the findings that tell a user what is wrong with a value, "did you mean", and what a config costs.
May import `methods`, `evaluations` and what lies below them. Start with `knobs.py`.
"""
