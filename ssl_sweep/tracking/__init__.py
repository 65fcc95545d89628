"""Delivery of trials' journals to MLflow, reading MLflow into pandas, and encoders as MLflow models.

The only package that imports mlflow. May import `trial` and the packages below it. Trials write only their journals:
MLflow may be unreachable, and its store can be rebuilt. Start with `recorder.py` (writing) and `reader.py` (reading).
"""

import os

# Set before MLflow reads them: its retries block for minutes, and it prints to the console, where progress is shown.
for _name, _value in {
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",  # seconds
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_LOGGING_LEVEL": "CRITICAL",  # the recorder logs errors, once per outage
}.items():
    os.environ.setdefault(_name, _value)
