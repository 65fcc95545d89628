from pathlib import Path

import pytest

from ssl_sweep.trial.attempt import attempt
from ssl_sweep.trialdir import requests
from ssl_sweep.trialdir.record import TrialRecord


def test_what_is_asked_is_read_until_it_is_taken_back(tmp_path: Path) -> None:
    folder = tmp_path / "trials" / "t"
    assert requests.read_stop_request(folder) is None
    requests.clear_stop_request(folder)
    requests.request_stop(folder, "stop", "by hand")
    requests.request_stop(folder, "prune", "pruned at epoch 3")
    assert requests.read_stop_request(folder) == requests.StopRequest("prune", "pruned at epoch 3")
    requests.clear_stop_request(folder)
    assert requests.read_stop_request(folder) is None


def test_a_reader_never_sees_half_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests.request_stop(tmp_path, "stop", "by hand")

    def dies(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", dies)
    with pytest.raises(KeyboardInterrupt):
        requests.request_stop(tmp_path, "pause", "x" * 10_000)
    assert requests.read_stop_request(tmp_path) == requests.StopRequest("stop", "by hand")


def test_an_ask_that_is_cut_off_is_no_ask_and_names_its_file(tmp_path: Path) -> None:
    requests.request_stop(tmp_path, "stop", "by hand")
    path = tmp_path / requests.REQUEST_FILE
    path.write_text(path.read_text()[:10])
    outcome = attempt(TrialRecord("t"), 1, print, tmp_path, tmp_path)
    assert (outcome.state, outcome.reason) == ("FAILED", "crash")  # to be tried again, and asked anew
    assert f"{path} is damaged" in (outcome.message or "")


def test_a_trial_that_is_asked_to_end_before_it_begins_does_not_begin(tmp_path: Path) -> None:
    requests.request_stop(tmp_path, "stop", "by hand")
    outcome = attempt(TrialRecord("t"), 1, print, tmp_path, tmp_path)
    assert (outcome.state, outcome.message) == ("STOPPED", "by hand")
