"""The page of a sweep: one HTML file with everything in it, made from MLflow alone.

Owns plots, pictures and the words of the page. May import `ledger` and what lies below it.
Start with `sweep.py` (what is read), then `page.py` (what is shown).
"""
