"""`data.classes: FILE`: the names of classes, one a line. A spec holds the names; the file is read with the spec."""

from collections.abc import Sequence
from pathlib import Path

from pydantic import ValidationError

from ssl_sweep.knobs.problems import Finding, validation_error

MAX_BYTES = 1_000_000
MAX_CLASSES = 25_000  # ImageNet-21k has 21,841
REMEDY = "name a text file of class names, one a line"


def read_classes(written: str, root: Path, within: Sequence[Path] | None) -> list[str]:
    """The names in a file, absolute or relative to `root`. Blank lines and lines that begin with `#` do not count.

    within: the folders that the file must be in, if it is read for another user; None: anywhere.

    Raises:
        ValidationError: its finding says what is wrong with the file.
    """
    path = _path(written, root)
    if within is not None and not any(path.is_relative_to(folder.resolve()) for folder in within):
        remedy = f"name a file below {' or '.join(map(str, within))}, or list the names"
        raise _error(written, "is outside the folders that the service reads", remedy)
    if not path.is_file():
        raise _error(written, f"{path} is no file", f"{REMEDY}, or write one class as [{written}]")
    if path.stat().st_size > MAX_BYTES:
        raise _error(written, f"{path} has over {MAX_BYTES:,} bytes", REMEDY)
    try:
        return _names(written, path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise _error(written, f"{path} cannot be read ({error})", f"{REMEDY}, in UTF-8") from None


def _path(written: str, root: Path) -> Path:
    try:
        return (root / Path(written).expanduser()).resolve()
    except (OSError, RuntimeError, ValueError):  # circular links, an unknown user's home, a zero byte
        raise _error(written, "is no file's name", REMEDY) from None


def _names(written: str, text: str) -> list[str]:
    lines: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        name = line.strip()
        if not name or name.startswith("#"):
            continue
        if name in lines:
            raise _error(written, f"has {name!r} on line {lines[name]} and again on line {number}", "remove one")
        lines[name] = number
    if not lines:
        raise _error(written, "names no class", "write the name of a class a line")
    if len(lines) > MAX_CLASSES:
        raise _error(written, f"names {len(lines):,} classes", f"a spec has at most {MAX_CLASSES:,}")
    return list(lines)


def _error(written: str, message: str, remedy: str) -> ValidationError:
    return validation_error(Finding((), written, message, remedy))
