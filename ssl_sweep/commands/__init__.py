"""The command line, one file for each group of commands; a command imports what it needs when it is called.

Owns arguments and printed texts. May import every package. Start with `shared.py`, then `driving.py`.
"""
