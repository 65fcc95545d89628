"""Pins: the identity of what a spec names and does not contain, such as a plugin's code, by its use.

`{"method local/mine": "sha256:...", "encoder.weights a.safetensors": "sha256:..."}`. A sweep takes them when it is
launched; a trial has those that it uses in its config, under `pins`, and in the keys of its stages. A pin of an
evaluation alone begins with `evaluation NAME`, one of a file with its key, `encoder.weights`, or `subset.from` for the
encoder that chooses images.

The data's are apart, under `identities`: `{"data.source": "sha256:...", "evaluation transfer digits": "sha256:..."}`.
"""

from collections.abc import Collection, Mapping
from typing import Any

from ssl_sweep.data.subset import origin_of
from ssl_sweep.errors import UserError
from ssl_sweep.models.encoders import WEIGHTS
from ssl_sweep.plugins import catalog

# the last word but one of a plugin's pin: `evaluation transfer source local/photos` is a source of an evaluation
KINDS: dict[str, catalog.Kind] = {
    "method": "methods", "encoder": "encoders", "evaluation": "evaluations", "source": "sources",
}  # fmt: skip
FILES = ("encoder.", "subset.")  # begin the pins of files


class PinError(UserError, ValueError):
    """A plugin, a file of weights or the data is not what the sweep began with."""


def plugin_pin(use: str, name: str) -> dict[str, str]:
    """The pin of a method, encoder, evaluation or source if it is a plugin's; `use` ends in one of `KINDS`.

    Raises:
        PluginError: the plugin is not at hand.
    """
    kind = KINDS[use.split()[-1]]
    return {f"{use} {name}": catalog.identity(kind, name)} if catalog.is_plugin(kind, name) else {}


def used_by(config: Mapping[str, Any], pins: Mapping[str, str]) -> dict[str, str]:
    """Those of a sweep's pins that a trial of this config uses."""
    own = {section: f"{section} {config[section]['name']}" for section in ("method", "encoder")}
    own |= {f"encoder.{knob}": f"encoder.{knob} {config['encoder'].get(knob)}" for knob in WEIGHTS}
    own["subset.from"] = f"subset.from {origin_of(config)}"
    return {pin: identity for pin, identity in pins.items() if own.get(pin.split()[0], pin) == pin}


def data_use(evaluation: str, source: str) -> str:
    """The name under which the identity of a source that an evaluation opens stands."""
    return f"evaluation {evaluation} {source}"


def is_data_use(use: str) -> bool:
    """Whether it is the name of a source's identity, and not of a pin."""
    return use.startswith("data.") or (use.startswith("evaluation ") and use.split(" ")[2:3] not in ([], ["source"]))


def identities_of(config: Mapping[str, Any], evaluation: str) -> dict[str, str]:
    """The identities of the sources that an evaluation opens, by their names, in a trial's config."""
    start = data_use(evaluation, "")
    found: Mapping[str, str] = config.get("identities", {})
    return {use.removeprefix(start): identity for use, identity in found.items() if use.startswith(start)}


def check_pins(config: Mapping[str, Any], uses: Collection[str] = KINDS) -> None:
    """Check that the plugins of these uses are those that the trial of this config has pinned.

    Raises:
        PinError: one differs.
        PluginError: one is not at hand.
    """
    for pin, pinned in config.get("pins", {}).items():
        if pin.startswith(FILES):  # a file, whose identity is compared when it is read
            continue
        use, name = pin.split()[-2:]
        if use not in uses:
            continue
        found = catalog.identity(KINDS[use], name)
        if found != pinned:
            where = catalog.origin(KINDS[use], name)
            remedy = "put the old one back; every node and driver of a sweep needs the same"
            raise PinError(f"{use} {name!r} of {where} is {found} here, and the sweep began with {pinned}; {remedy}")
