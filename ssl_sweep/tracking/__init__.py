"""Trials' journals delivered to MLflow, and MLflow read back into pandas; the encoder as a model of MLflow's.

The only package that imports mlflow. May import `trial` and what lies below it. A trial writes its journal only: MLflow
may be away, and its store can be rebuilt. Start with `recorder.py` (writing) and `reader.py` (reading).
"""

import os

# Before MLflow reads them: its retries block for minutes, and it writes to the console, where progress is shown.
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # the recorder says what goes wrong, once an outage
}.items():
    os.environ.setdefault(_name, _value)
