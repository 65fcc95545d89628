from pathlib import Path

import pytest


@pytest.fixture
def url(tmp_path: Path) -> str:
    """Where a ledger of the test's own is."""
    return f"sqlite:///{tmp_path / 'ledger.db'}"
