"""Values far from those before and after them. Pure."""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

_FAR = 4.0  # standard deviations from its neighbours
# The filter's width, by the fewest values. A level shorter than half of it is lost.
_WIDTHS = ((30, 9), (15, 7), (8, 5))
_NORMAL = 1.4826  # the standard deviation of normal noise over its median absolute deviation


def find_outliers(values: Sequence[float]) -> dict[int, float]:
    """The indices of values far from those around them, with the value to use instead.

    A Hampel filter: the median of a value and its neighbours (at an end, of the last so many)
    replaces a value that is more than 4 standard deviations from it. The standard deviation is that
    of the differences of neighbours, which a change of level hardly affects. It looks at 3 values
    where there are few, or where they repeat exactly, else at 5 to 9: a few slow nights in a row
    are no level.
    """
    count = len(values)
    if count < 3:
        return {}
    width = find_width(values)
    reach = _FAR * _NORMAL * _find_step(values) / math.sqrt(2)
    found = {}
    for i, value in enumerate(values):
        first = min(max(i - width // 2, 0), count - width)
        middle = median(values[first : first + width])
        if abs(value - middle) > reach:
            found[i] = middle
    return found


def find_width(values: Sequence[float]) -> int:
    """How many values the filter looks at together."""
    count = len(values)
    found = (width for fewest, width in _WIDTHS if count >= fewest)
    return next(found, 3) if _find_step(values) else 3


def _find_step(values: Sequence[float]) -> float:
    return median(abs(b - a) for a, b in pairwise(values))
