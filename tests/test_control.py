from pathlib import Path

import pytest

from ssl_sweep import control
from ssl_sweep.attempt import attempt


def test_what_is_asked_is_read_until_it_is_taken_back(tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "t"
    assert control.asked(folder) is None
    control.clear(folder)
    control.ask(folder, "stop", "by hand")
    control.ask(folder, "prune", "pruned at epoch 3")
    assert control.asked(folder) == control.Ask("prune", "pruned at epoch 3")
    control.clear(folder)
    assert control.asked(folder) is None


def test_a_reader_never_sees_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    control.ask(tmp_path, "stop", "by hand")

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", dies)
    with pytest.raises(KeyboardInterrupt):
        control.ask(tmp_path, "pause", "x" * 10_000)
    assert control.asked(tmp_path) == control.Ask("stop", "by hand")


def test_an_ask_that_is_cut_off_is_no_ask_and_names_its_file(tmp_path: Path) -> None:
    control.ask(tmp_path, "stop", "by hand")
    path = tmp_path / control.ASK
    path.write_text(path.read_text()[:10])
    outcome = attempt({"config": {}}, 1, print, tmp_path, tmp_path)
    assert (outcome.state, outcome.reason) == ("FAILED", "crash")  # to be tried again, and asked anew
    assert f"{path} is damaged" in (outcome.message or "")


def test_a_trial_that_is_asked_to_end_before_it_begins_does_not_begin(tmp_path: Path) -> None:
    control.ask(tmp_path, "stop", "by hand")
    outcome = attempt({"config": {}}, 1, print, tmp_path, tmp_path)
    assert (outcome.state, outcome.message) == ("STOPPED", "by hand")
