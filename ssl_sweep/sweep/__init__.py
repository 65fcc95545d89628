"""What is done to a sweep: drive, steer, extend, clean; its status, logs, progress and notices.

Owns what a command or the service asks of a sweep. May import `cluster` and everything below it.
Start with `drive.py`, then `finish.py` and `steering.py`.
"""
