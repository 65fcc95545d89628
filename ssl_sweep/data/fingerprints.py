"""The identities of image sets (`identity.py`) as people see them."""

from collections.abc import Mapping

SOURCE, LABELLED = (
    "data.source",
    "data.labelled",
)  # uses; others are `evaluation NAME SOURCE`
SHORT = 12  # digits of a hash


def short(identity: str) -> str:
    """An identity as people see it."""
    return identity.removeprefix("sha256:")[:SHORT]


def fingerprint(identities: Mapping[str, str]) -> str:
    """Identities by use as a text: `3f2a9c1b04de`, or with other uses than `data.source`, each after its own."""
    if identities.keys() == {SOURCE}:
        return short(identities[SOURCE])
    return ", ".join(f"{use.removeprefix('evaluation ')} {short(each)}" for use, each in sorted(identities.items()))
