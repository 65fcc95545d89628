"""Stored specs of earlier versions, with what their trials had in place of the views and the crop that came since.

Other knobs that they lack get their earlier meaning by `knobs.earlier`.
"""

from collections.abc import Mapping
from typing import Any

from ssl_sweep.data.eval_crop import PAPERS_FROM, plain_crop
from ssl_sweep.data.recipes import NONE


def completed(dump: Mapping[str, Any]) -> dict[str, Any]:
    """A dump with what its sweep meant: the views of no recipe, and the plain crop.

    A dump has every knob of its version. What lacks the knobs that were always there is no dump, and stays as it is.
    """
    completed, views, data = dict(dump), dump.get("views"), dump.get("data")
    if isinstance(views, dict) and views:
        completed["views"] = {"recipe": NONE, **views}
    if isinstance(data, dict) and "short_side" in data and data["image_size"] >= PAPERS_FROM:
        crop = plain_crop(data["image_size"])
        plain = {"resize": crop.resize, "crop": crop.size, "interpolation": crop.interpolation}
        completed["data"] = {"eval_crop": plain, **data}
    return completed
