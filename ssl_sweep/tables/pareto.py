"""The Pareto front of two objectives."""

import math
from collections.abc import Sequence


def on_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """For each point, whether no other is at least as high in both coordinates and higher in one.

    Equal points are on the front together.
    """
    front: set[tuple[float, float]] = set()
    highest = -math.inf  # second coordinate of the points whose first one is higher
    for first, second in sorted(set(points), reverse=True):
        if second > highest:
            front.add((first, second))
            highest = second
    return [point in front for point in points]
