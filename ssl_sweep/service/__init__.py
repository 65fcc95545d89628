"""The HTTP service in front of a shared Ray cluster, and its board for browsers.

The only package that imports fastapi. Owns the queue, users and their permissions.
May import `sweep` and what lies below it. Start with `app.py`, then `dispatcher.py`.
"""
