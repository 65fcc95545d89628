"""The pins of the plugins that a spec's trials can use; see `knobs.pins`."""

from collections.abc import Iterator, Mapping
from typing import Any

from ssl_sweep.knobs.evaluation import load_evaluation
from ssl_sweep.knobs.pins import plugin_pin
from ssl_sweep.spec.domains import Categorical
from ssl_sweep.spec.sweep import SweepSpec


def plugin_pins(spec: SweepSpec) -> dict[str, str]:
    """The identity of every plugin that a trial of this spec can use.

    Raises:
        PluginError: one of them is not at hand.
    """
    return {pin: identity for use, name in _names(spec) for pin, identity in plugin_pin(use, name).items()}


def _names(spec: SweepSpec) -> Iterator[tuple[str, str]]:
    yield from ((kind.removesuffix("s"), name) for kind, name in spec.names)
    yield from (("source", _kind(spec.data[key])) for key in ("source", "labelled") if spec.data.get(key))
    for name in spec.evaluate:
        for settings in settings_of(spec, name):
            for source in load_evaluation(name).data_sources(settings):
                yield f"evaluation {name} source", _kind(source)


def settings_of(spec: SweepSpec, name: str) -> Iterator[Mapping[str, Any]]:
    """An evaluation's settings, also with each value that the search or a case gives a knob."""
    own, section = spec.evaluate[name], f"evaluate.{name}."
    yield own
    searched = [(path, values.values) for path, values in spec.search.space.items() if isinstance(values, Categorical)]
    set_by_cases = [(path, (value,)) for case in spec.search.cases.values() for path, value in case.items()]
    for path, values in (*searched, *set_by_cases):
        if path.startswith(section):
            yield from ({**own, path.removeprefix(section): value} for value in values)


def _kind(source: str) -> str:
    return source.partition(":")[0]
