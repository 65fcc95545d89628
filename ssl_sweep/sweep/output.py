"""Output whose reader may go away: a closed pipe or terminal must not end a sweep."""

import os
from contextlib import suppress
from typing import IO, Any


class LastingOutput:
    """A text stream that drops what is written once its reader is gone: `run | head -1`, a closed terminal."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, or drop, the text."""
        try:
            return self._stream.write(text)
        except OSError:
            drop_output(self._stream)
            return len(text)

    def flush(self) -> None:
        """Flush, or drop, what is buffered."""
        try:
            self._stream.flush()
        except OSError:
            drop_output(self._stream)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def drop_output(stream: IO[str]) -> None:
    """Turn a stream's file into the null device: other writers, and Python at its end, may use it without an error."""
    with suppress(OSError):  # a stream of no file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)
