"""Ablation tables from a pandas frame of trials: pivot, intervals, tests; text, Markdown, LaTeX, CSV, JSON, HTML.

Owns statistics, the display names of tables, and a table's layout. May import `tracking`'s vocabulary and
`knobs`; needs neither torch nor mlflow. Start with `ablation.py`, then `pivot.py` and `render.py`.
"""
