"""Pins what a sweep uses beside its spec when it is launched, and refuses to continue it with anything else."""

from collections.abc import Callable, Mapping

from ssl_sweep.knobs.pins import FILES, KINDS, PinError
from ssl_sweep.ledger.entries import PINS, Notes
from ssl_sweep.ledger.open import load_ledger
from ssl_sweep.ledger.reader import LedgerReader
from ssl_sweep.plugins import catalog
from ssl_sweep.spec.pins import plugin_pins
from ssl_sweep.spec.sweep import SweepSpec
from ssl_sweep.spec.weights import weight_pins
from ssl_sweep.storage.layout import Storage
from ssl_sweep.sweep.housekeeping import open_configs
from ssl_sweep.sweep.origins import origin_pins


def take_pins(
    spec: SweepSpec, storage: Storage, notes: Notes, say: Callable[[str], object] = lambda _: None, *, extends: bool
) -> None:
    """Write the pins of a new sweep to its ledger; compare those of another one with what is at hand.

    Args:
        spec: the sweep's, or its extension.
        storage: where the sweep lies.
        notes: the ledger's.
        say: gets messages about what differs and is used no more, and about earlier encoders that are taken.
        extends: whether new choices come, which may use anything.

    Raises:
        PinError: something differs that an open or a new trial uses; the message names every such thing.
        PluginError: a plugin is not at hand.
    """
    known = notes.read()
    pinned: Mapping[str, str] = known.get(PINS) or {}
    found = find_pins(spec) | origin_pins(spec, storage, pinned, say)
    if found == pinned:
        return
    if "spec" in known:  # not a new sweep
        ledger = load_ledger(storage.ledger_url, spec.name)
        changed = {pin for pin in pinned.keys() | found if pinned.get(pin) != found.get(pin)}
        if any(trial.attempts for trial in ledger.trials):
            # what is confirmed is open
            anything = extends or spec.search.confirm is not None
            awaited = changed if anything else _awaited(ledger) | (found.keys() - pinned.keys())
            if wanted := sorted(changed & awaited):
                raise PinError(_refusal(spec.name, wanted, pinned, found))
            listed = "\n".join(_lines(sorted(changed), pinned, found))
            say(f"no trial that is left to run uses what has changed; the results are of the old code:\n{listed}")
            return
    notes.write(PINS, found)


def find_pins(spec: SweepSpec) -> dict[str, str]:
    """The identity of all that a spec's trials can use beside it, as it is now. Raises as `take_pins`."""
    return plugin_pins(spec) | weight_pins(spec)


def _awaited(ledger: LedgerReader) -> set[str]:
    """The pins that trials can still use; all of them while a sampler may propose anything."""
    if not ledger.searched and ledger.spec.search.sampler != "grid":
        return set(ledger.pins)
    return {pin for config in open_configs(ledger) for pin in config.get("pins", {})}


def _refusal(sweep: str, changed: list[str], pinned: Mapping[str, str], found: Mapping[str, str]) -> str:
    listed = "\n".join(_lines(changed, pinned, found))
    local = any(catalog.LOCAL in pin for pin in changed)
    files = all(catalog.LOCAL in pin or pin.startswith(FILES) for pin in changed)
    back = "put the old files back" if files else "install what it began with again"
    options = " --plugins DIR" if local else ""
    return (
        f"sweep '{sweep}' began with other code or files than are here:\n{listed}\n{back}, or run it as a new sweep "
        f"and compare the two: ssl-sweep run SPEC.YAML --set name={sweep}-2{options}; ssl-sweep table {sweep} {sweep}-2"
    )


def _lines(changed: list[str], pinned: Mapping[str, str], found: Mapping[str, str]) -> list[str]:
    return [f"  {pin}: {_short(pinned.get(pin))} became {_short(found.get(pin))}{_place(pin)}" for pin in changed]


def _place(pin: str) -> str:
    use, name = pin.split()[-2:]
    return f" ({catalog.origin(KINDS[use], name)})" if name.startswith(catalog.LOCAL) and use in KINDS else ""


def _short(identity: str | None) -> str:
    """An identity with twelve digits of each hash."""
    if identity is None:
        return "nothing"
    words = [word[: len("sha256:") + 12] if word.startswith("sha256:") else word for word in identity.split()]
    return " ".join(words)
