"""The report of a sweep: one self-contained HTML page, made from MLflow alone.

Owns its plots, pictures and texts. May import `ledger` and what lies below it.
Start with `sweep.py` (what is read), then `page.py` (what is shown).
"""
