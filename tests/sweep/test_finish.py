"""The table with which a driver ends."""

from dataclasses import asdict
from pathlib import Path

import pytest
from stored_sweep import complete, delivered, spec_of

from ssl_sweep.api.table import make_table
from ssl_sweep.data.fingerprints import SOURCE
from ssl_sweep.ledger.entries import DATA, DataNote
from ssl_sweep.ledger.open import open_ledger
from ssl_sweep.storage.folder_storage import FolderStorage
from ssl_sweep.storage.stored_spec import write_spec
from ssl_sweep.sweep import finish
from ssl_sweep.tables.render import render
from ssl_sweep.tracking.recorder import Recorder

# MLflow 3.17 uses a loader that SQLAlchemy 2.1 deprecates
pytestmark = pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated:DeprecationWarning")


def test_it_is_the_one_that_table_prints_where_the_data_has_changed(tmp_path: Path) -> None:
    spec, storage = spec_of("demo", search={"seeds": 1}), FolderStorage(tmp_path)
    dump = spec.model_dump(mode="json")
    storage.sweep("demo").mkdir()
    write_spec(storage.sweep("demo"), dump)
    for identity in ("0f0f", "1a1a"):
        open_ledger(storage.ledger_url, spec).notes.write(DATA, asdict(DataNote({SOURCE: identity})))
        ledger = open_ledger(storage.ledger_url, spec)
        choice = ledger.ask()
        assert choice is not None
        complete(ledger, storage, choice.trials[0], 50.0)
    delivered(tmp_path, spec)
    recorder = Recorder("demo", storage.sweep("demo"), storage.tracking_uri, dump)
    recorder.start()
    closing = finish._log_table(ledger, storage, recorder, storage.tracking_uri)
    recorder.close(60)
    assert closing is not None
    assert len(closing.columns) == 2
    assert render(closing, "md") == render(make_table(["demo"], storage), "md")
