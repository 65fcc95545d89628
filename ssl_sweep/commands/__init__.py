"""The command line, one file a group of commands; each command imports what it needs when it is called.

Owns arguments and what is printed. May import every package. Start with `shared.py`, then `driving.py`.
"""
