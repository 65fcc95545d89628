"""A plugin folder with one plugin, and what its checks find."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ssl_sweep.contracts.find import find
from ssl_sweep.contracts.report import Finding, run
from ssl_sweep.plugins import catalog
from ssl_sweep.plugins.catalog import Kind

Checked = Callable[..., list[Finding]]


@pytest.fixture
def checked(tmp_path: Path) -> Iterator[Checked]:
    """Findings of a plugin of a kind whose file has a text; `argument` is a source's."""

    def check(kind: Kind, text: str, *, argument: str = "", limit_s: float = 60.0) -> list[Finding]:
        file = tmp_path / kind / "mine.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(text)
        catalog.use(tmp_path)
        [subject] = find(f"local/mine{argument}", tmp_path)
        return list(run(subject, limit_s, lambda words: None))

    yield check
    catalog.use(None)


def changed(text: str, *changes: tuple[str, str]) -> str:
    """The text with each part replaced; every part must be there."""
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return text


def failures(findings: list[Finding]) -> dict[str, str]:
    """What fails, and the message of each."""
    return {finding.check: finding.message for finding in findings if finding.result == "fails"}
