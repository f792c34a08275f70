"""Bounds that stay valid when data are looked at again and again until they decide. Pure.

Looking with 95 % bounds after each process, and stopping once they say something, errs far more
often than in 5 %. So the error is spent bit by bit over the looks, by how much of all data there
are (Lan and DeMets 1983, Biometrika 70, 659-663). numpy and scipy are imported where they are used.
"""

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

Spending = Callable[[float, float], float]
_POINTS = 401  # of the grid that a density is kept on; odd, for Simpson's rule
_FAR = 8.0  # standard deviations below the boundary that are left out


def spend_like_pocock(level: float, fraction: float) -> float:
    """What may be spent of ``level`` when ``fraction`` of the data are there: α·ln(1 + (e - 1)t).

    About the same for each look, which stops early where the answer is plain (Lan and DeMets 1983,
    their α2*). O'Brien and Fleming's rule would leave three processes of sixteen nothing to decide
    with.
    """
    return level * math.log1p((math.e - 1) * min(1.0, fraction))


@lru_cache(maxsize=1024)
def level_at_last_look(
    level: float, fractions: tuple[float, ...], spend: Spending = spend_like_pocock
) -> float:
    """The one-sided error of a bound at the last of these looks, ``level`` over all of them.

    ``fractions`` are the shares of the largest number of samples at each look; one that is no
    larger than before is no look of its own. The level is exact for normal values; with a bound
    from t(1 - this error) and the look's degrees of freedom it is close (Jennison and Turnbull
    2000, Group Sequential Methods, 4.4): of 5 % over looks at 3 to 16 processes, 4.9 % for the
    difference of two sides, 5.7 % for one side, and at levels of a thousandth up to 1.3 times.
    Raises ValueError for none, or for one that is not above 0.
    """
    if not fractions or fractions[0] <= 0:
        raise ValueError(f"looks need samples, found the fractions {fractions}")
    from scipy.special import ndtr

    rising = [one for i, one in enumerate(fractions) if one > max(fractions[:i], default=0.0)]
    return float(ndtr(-find_boundaries(level, tuple(rising), spend)[-1]))


def find_boundaries(level: float, fractions: tuple[float, ...], spend: Spending) -> list[float]:
    """The z-value that is crossed at each look, when nothing is, as often as was spent since.

    By numerical integration of the density of what has not crossed yet (Armitage, McPherson and
    Rowe 1969, JRSS A 132, 235-244), on the scale of z·√fraction, whose steps are independent.
    ``fractions`` rise.
    """
    import numpy as np
    from scipy.special import ndtr, ndtri

    boundaries: list[float] = []
    spent, before = 0.0, 0.0
    grid = np.zeros(1)
    mass: Any = np.ones(1)  # of each point: at first, all of it at 0
    for fraction in fractions:
        step = math.sqrt(fraction - before)
        due = spend(level, fraction) - spent
        low, high = -_FAR, float(grid[-1]) - step * float(ndtri(due))
        high = max(high, low + step)
        for _ in range(60):
            middle = (low + high) / 2
            crossing = float(mass @ ndtr((grid - middle) / step))
            low, high = (middle, high) if crossing > due else (low, middle)
        edge = (low + high) / 2
        points = np.linspace(min(edge - step, -_FAR * math.sqrt(fraction)), edge, _POINTS)
        density = np.exp(-(((points[:, None] - grid) / step) ** 2) / 2) @ mass
        density /= step * math.sqrt(2 * math.pi)
        width = points[1] - points[0]
        weights = np.full(_POINTS, 2.0)
        weights[1::2], weights[[0, -1]] = 4.0, 1.0
        grid, mass = points, density * weights * width / 3
        boundaries.append(edge / math.sqrt(fraction))
        spent, before = spent + due, fraction
    return boundaries
