"""What fits on a card: the longest context and the largest batch, measured or planned. Pure.

A card of 24 GB is taken as 24 * 10**9 bytes less 6 %: an A10 has 23.6, a T4 of 16 has 15.6, and
fragmentation takes some of it. CUDA's context and kernels, which no allocator counts, are
subtracted as well where they were measured.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import pairwise

CARDS = {f"{size}GB": size * 940_000_000 for size in (8, 16, 24, 40, 80, 141)}


@dataclass(frozen=True)
class Growth:
    """Bytes that reading n tokens takes for a while: ``fixed + slope * n + curve * n**2``.

    ``each`` is the part of ``fixed`` that every sequence of a batch takes anew, mostly its last
    token's logits; ``shared`` is the rest.
    """

    fixed: float
    slope: float
    curve: float = 0.0
    each: float = 0.0

    def __call__(self, tokens: int) -> float:
        return self.fixed + self.slope * tokens + self.curve * tokens**2

    @property
    def shared(self) -> float:
        return self.fixed - self.each

    def with_second(self, tokens: int, one: int, two: int) -> "Growth":
        """With ``each`` from what one and two sequences of ``tokens`` took."""
        each = (two - one) - (self.slope * tokens + self.curve * tokens**2)
        return replace(self, each=min(self.fixed, max(0.0, each)))

    def of(self, batch: int) -> "Growth":
        """The same of ``batch`` sequences."""
        each = batch * self.each
        return Growth(self.shared + each, batch * self.slope, batch * self.curve, each)


@dataclass(frozen=True)
class Sizes:
    """What a model takes at one precision, known before any weight is read; bytes.

    ``parameters`` are counted by kind, tied ones once. ``unpacked`` is the largest quantised matrix
    as floats of ``dtype``: it stands beside the packed one while loading, and while prompts are
    read. ``growth`` is that of reading a prompt in one sequence, cache included: an estimate, None
    where the cache is no plain one of keys and values (``kv_per_token``).
    """

    parameters: Mapping[str, int]
    dtype: str
    quantised: int
    constants: int
    unquantised: int
    buffers: int
    unpacked: int
    kv_per_token: int | None
    growth: Growth | None
    max_context: int | None

    @property
    def total(self) -> int:
        """All that is held after loading."""
        return self.quantised + self.constants + self.unquantised + self.buffers

    @property
    def load_peak(self) -> int:
        """On a GPU: quantising takes one matrix at a time."""
        return self.total + self.unpacked

    def peak(self, tokens: int, batch: int) -> int | None:
        """While ``batch`` sequences grow to ``tokens`` each."""
        return None if self.growth is None else self.total + int(self.growth.of(batch)(tokens))


def find_context(sizes: Sizes, room: int, batch: int) -> int | None:
    """The most tokens of each of ``batch`` sequences in ``room`` bytes; None where unknown.

    0 where not even the weights can be loaded.
    """
    if sizes.growth is None:
        return None
    if sizes.load_peak > room:
        return 0
    return largest_context(room - sizes.total, sizes.growth.of(batch), sizes.max_context)


def find_batch(sizes: Sizes, room: int, tokens: int) -> int | None:
    """The most sequences of ``tokens`` in ``room`` bytes; None and 0 as `find_context`."""
    if sizes.growth is None:
        return None
    if sizes.load_peak > room:
        return 0
    return largest_batch(room - sizes.total, sizes.growth, tokens, 0.0)


def fit_growth(
    grown: Mapping[int, int], least_slope: float, least_curve: float = 0.0
) -> Growth | None:
    """Through bytes by length in tokens; None from fewer than two, and where nothing grows.

    The line goes through the two longest: at shorter lengths another step of the model may have
    the peak. Noise cannot bring the fit below ``least_slope`` (keys and values) and
    ``least_curve`` (the n * n scores of an attention that holds them, 0 for others).
    """
    lengths = sorted(grown)[-3:]
    if len(lengths) < 2:
        return None
    slopes = [(grown[b] - grown[a]) / (b - a) for a, b in pairwise(lengths)]
    longest = lengths[-1]
    curve = least_curve
    if least_curve > 0 and len(lengths) == 3:
        curve = max(least_curve, (slopes[1] - slopes[0]) / (longest - lengths[0]))
    slope = max(least_slope, slopes[-1] - curve * (longest + lengths[-2]))
    if slope <= 0 and curve <= 0:
        return None
    fixed = grown[longest] - slope * longest - curve * longest**2
    return Growth(max(0.0, fixed), max(0.0, slope), curve)


def largest_context(room: int, growth: Growth, limit: int | None) -> int:
    """The most tokens that can be read in ``room`` bytes, ``limit`` at most; 0 for none."""
    left = max(0, room - growth.fixed)
    if growth.curve > 0:
        root = math.sqrt(growth.slope**2 + 4 * growth.curve * left)
        tokens = (root - growth.slope) / (2 * growth.curve)
    else:
        tokens = left / growth.slope
    return int(tokens) if limit is None else min(int(tokens), limit)


def largest_batch(room: int, growth: Growth, tokens: int, least_per_sequence: float) -> int:
    """How many sequences of ``tokens`` fit in ``room`` bytes; 0 for none.

    A sequence takes ``least_per_sequence``, which was seen or must be held, or the fit if larger.
    """
    per_sequence = max(least_per_sequence, growth(tokens) - growth.shared)
    return max(0, int((room - growth.shared) / per_sequence))
