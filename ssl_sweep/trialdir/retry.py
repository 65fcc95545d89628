"""Calls that are repeated after growing delays."""

import math
import time
from collections.abc import Callable
from typing import TypeVar

Answer = TypeVar("Answer")


def retry(
    call: Callable[[int], Answer],
    *,
    is_transient: Callable[[Exception], bool],
    first_delay_s: float,
    longest_delay_s: float = math.inf,
    max_calls: int | None = None,
    patience_s: float = math.inf,
    on_failure: Callable[[Exception, int], object] = lambda error, failures: None,
    wait: Callable[[float], object] | None = None,
) -> Answer:
    """Return the answer of `call`; after a transient error, call again.

    Args:
        call: is given the number of calls that have failed.
        is_transient: whether the call may succeed later.
        first_delay_s: before the second call; each further delay is twice as long.
        longest_delay_s: the delays stop growing here.
        max_calls: None: any number.
        patience_s: no call starts later than this.
        on_failure: called before each delay with the error and the number of calls that failed before it.
        wait: waits so many seconds; None: `time.sleep`.

    Raises:
        Exception: the last call's error, if it is not transient, or no further call is allowed.
    """
    deadline, delay_s, failures = time.monotonic() + patience_s, first_delay_s, 0
    while True:
        try:
            return call(failures)
        except Exception as error:
            is_last = failures + 1 == max_calls or time.monotonic() + delay_s > deadline
            if is_last or not is_transient(error):
                raise
            on_failure(error, failures)
        (wait or time.sleep)(delay_s)
        failures, delay_s = failures + 1, min(2 * delay_s, longest_delay_s)
