"""Calls are repeated after delays that grow, until one succeeds or no further call is allowed."""

import time

import pytest

from ssl_sweep.trialdir.retry import retry


class Flaky:
    """Fails so many times before it answers."""

    def __init__(self, failures: int, error: type[Exception] = ConnectionError) -> None:
        self.left, self.error = failures, error
        self.numbers: list[int] = []
        self.delays: list[float] = []

    def __call__(self, failures: int) -> str:
        self.numbers.append(failures)
        self.left -= 1
        if self.left >= 0:
            raise self.error(f"{self.left} to go")
        return "answer"

    def retried(self, **limits: float | int) -> str:
        return retry(
            self,
            is_transient=lambda error: isinstance(error, ConnectionError),
            first_delay_s=1.0,
            longest_delay_s=4.0,
            wait=self.delays.append,
            **limits,  # type: ignore[arg-type]
        )


def test_delays_double_up_to_the_longest() -> None:
    flaky = Flaky(5)
    assert flaky.retried() == "answer"
    assert flaky.numbers == [0, 1, 2, 3, 4, 5]
    assert flaky.delays == [1.0, 2.0, 4.0, 4.0, 4.0]


def test_the_last_allowed_call_raises_its_error() -> None:
    flaky = Flaky(9)
    with pytest.raises(ConnectionError, match="6 to go"):
        flaky.retried(max_calls=3)
    assert flaky.delays == [1.0, 2.0]


def test_no_call_starts_after_the_patience_has_ended() -> None:
    flaky = Flaky(9)
    with pytest.raises(ConnectionError, match="8 to go"):
        flaky.retried(patience_s=0.5)
    assert flaky.delays == []


def test_another_error_is_raised_at_once() -> None:
    flaky = Flaky(1, ValueError)
    with pytest.raises(ValueError, match="0 to go"):
        flaky.retried()
    assert flaky.delays == []


def test_failures_are_reported_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    reported: list[tuple[str, int]] = []
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    answer = retry(
        Flaky(2),
        is_transient=lambda error: True,
        first_delay_s=0.5,
        on_failure=lambda error, failures: reported.append((str(error), failures)),
    )
    assert (answer, reported, slept) == ("answer", [("1 to go", 0), ("0 to go", 1)], [0.5, 1.0])
