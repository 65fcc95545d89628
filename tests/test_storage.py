"""Where sweeps lie, and where they cannot."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssl_sweep.cli import app
from ssl_sweep.storage import NoFolder, Storage


@pytest.mark.parametrize("place", ["s3://bucket/sweeps", Path("s3://bucket/sweeps"), "gs://bucket/sweeps"])
def test_an_object_store_is_refused_with_what_to_do(place: str | Path) -> None:
    with pytest.raises(NoFolder, match=r"(s3|gs)://bucket/sweeps is no folder.* --artifacts-destination s3://"):
        Storage.at(place)


@pytest.mark.parametrize("place", ["runs", "/runs", "a:b/runs", "C:/runs"])
def test_a_folder_is_not(place: str) -> None:
    assert Storage.at(place).root == Path(place).resolve()


def test_the_user_is_told_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_SWEEP_STORAGE", "s3://bucket/sweeps")
    for arguments in (["list"], ["list", "--storage", "s3://bucket/other"]):
        ran = CliRunner().invoke(app, arguments)
        assert ran.exit_code == 2
        assert "is no folder" in ran.output
