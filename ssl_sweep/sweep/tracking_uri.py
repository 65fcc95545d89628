"""The MLflow store of a sweep."""

import yaml

from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.storage.layout import Storage


def tracking_uri(spec: SweepSpec, storage: Storage) -> str:
    """The MLflow store of a sweep: the spec's, else the storage's."""
    return spec.tracking.uri or storage.tracking_uri


def stored_tracking_uri(storage: Storage, name: str) -> str:
    """The same by the sweep's name, also where the ledger is elsewhere: from the spec beside its trials."""
    stored = storage.sweep(name) / "spec.yaml"
    storage.fetch(stored)
    own = yaml.safe_load(stored.read_text())["tracking"]["uri"] if stored.exists() else None
    return own or storage.tracking_uri
