"""The views of a sweep's choices, for people to read and to compare."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from ssl_sweep.data.enlarged import enlarged_share
from ssl_sweep.data.recipes import unusual
from ssl_sweep.errors import UserError
from ssl_sweep.knobs import methods
from ssl_sweep.spec.choices import combined
from ssl_sweep.spec.sections import CASE
from ssl_sweep.spec.sweep import SweepSpec, from_dump, resolve

_DECIDE = (CASE, "method", "views.recipe")  # of the searched knobs, those by which whole sets of views differ
_SECTION = "views."
_SMALLEST_CROP = f"{_SECTION}crop_scale_min"


class ViewSet(NamedTuple):
    """The views of the choices with one case, method and recipe; every searched knob has its first value."""

    of: str  # the case, else the method, with the recipe if it is searched
    views: dict[str, Any]
    used: bool  # whether the method pretrains


def view_sets(spec: SweepSpec, also: str | None = None) -> list[ViewSet]:
    """The views of each case, method and searched recipe, in the order of the search; also of each value of a knob."""
    sets = []
    for choice in combined(spec.search, _DECIDE if also is None else (*_DECIDE, also)):
        config = resolve(spec, choice, spec.search.seeds[0])
        method = config["method"]["name"]
        named = [str(choice.get(CASE, method)), *([choice["views.recipe"]] if "views.recipe" in choice else [])]
        named += [f"{also.removeprefix(_SECTION)} {choice[also]:g}"] if also in choice else []
        sets.append(ViewSet(", ".join(named), config["views"], methods.pretrains(method)))
    return sets


def with_views(dump: Mapping[str, Any]) -> Mapping[str, Any]:
    """A stored spec with the views that its trials have in place of their recipe; as it is where they differ."""
    try:
        sets = view_sets(from_dump(dump))
    except UserError:  # another version's, or a plugin's that is not at hand
        return dump
    return {**dump, "views": sets[0].views} if all(each.views == sets[0].views for each in sets) else dump


def enlarged_crops(spec: SweepSpec, sizes: Tensor) -> dict[str, float]:
    """Percent of the pretraining's crops, of images of these sizes (N, 2), that are enlarged, by cases or methods."""
    data, shares = spec.data, {}
    for each in (each for each in view_sets(spec, _SMALLEST_CROP) if each.used):
        crops = each.views["crop_scale_min"], each.views["crop_scale_max"]
        shares[each.of] = enlarged_share(sizes, data["short_side"], data["image_size"], *crops)
    alike: dict[float, list[str]] = {}
    for name, share in shares.items():
        alike.setdefault(share, []).append(name)
    return {"; ".join(names): share for share, names in alike.items()}


def shown_views(spec: SweepSpec) -> dict[str, dict[str, Any]]:
    """What `plan` shows: the knobs that differ from recipe none, without the searched ones, once for each such set.

    Its key names the cases or methods, `moco; simclr`. Methods that do not pretrain have none.
    """
    varied = {path.removeprefix(_SECTION) for path in spec.search.space if path.startswith(_SECTION)}
    alike: list[tuple[dict[str, Any], list[str]]] = []
    for each in (each for each in view_sets(spec) if each.used):
        knobs = {knob: value for knob, value in unusual(each.views).items() if knob not in varied}
        known = next((names for views, names in alike if views == knobs), None)
        if known is None:
            alike.append((knobs, [each.of]))
        elif each.of not in known:
            known.append(each.of)
    return {"; ".join(names): views for views, names in alike}
