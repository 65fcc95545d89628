"""The Optuna study of a sweep: its choices, their trials by seed, which run next and which are pruned.

The only package that imports optuna. Owns the study, the lease of the one driver, samplers and pruners.
May import `spec` and what lies below it. Start with `open.py`, then `reader.py`, `study.py`.
"""

import warnings

# Optuna imports tqdm's bar, which asks every notebook for ipywidgets; progress is drawn without both.
warnings.filterwarnings("ignore", message="IProgress not found")
