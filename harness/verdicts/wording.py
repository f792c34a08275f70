"""The words and numbers that verdicts' sentences have in common. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from harness.records.identity import Difference

_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "bytes"))
_FEWEST, _MOST = 4, 12  # digits; what differs beyond them differs by how a sum was rounded
_SHOWN = 3  # values named in one sentence
SEEN = "harm is seen in 4 of 5 runs"
SEEN_FROM = f"{SEEN} from"


def show_numbers(numbers: Sequence[float], unit: str = "") -> list[str]:
    """Numbers of one sentence, with the fewest digits that tell unequal ones apart.

    At least four digits, three of bytes, which are shown in the unit of the largest. Whole numbers
    are written out. Rounding keeps their order: an interval contains its value.
    """
    texts, name = _tell_apart(numbers, unit)
    return [f"{text} {name}".rstrip() for text in texts]


def show_estimate(
    value: float,
    unit: str = "",
    interval: tuple[float, float] | None = None,
    bounds: tuple[float, float] | None = None,
    beside: Sequence[float] = (),
    error: float = 0.05,
) -> str:
    """``1.042 (95 % interval 1.038 to 1.046)``: the interval, or else the one-sided bounds.

    ``error`` is that of one of the bounds. With digits enough to hold the value between its ends,
    and apart from what stands ``beside`` it.
    """
    ends = interval or bounds
    if ends is None or ends[0] == ends[1]:
        return show_numbers((value, *beside), unit)[0]
    (shown, low, high, *_), name = _tell_apart((value, *ends, *beside), unit)
    kind = "95 % interval" if interval else f"{100 * (1 - error):.3g} % bounds"
    return f"{f'{shown} {name}'.rstrip()} ({kind} {low} to {high})"


def describe_refusal(
    label: str,
    against: str,
    differences: Sequence[Difference],
    values: Iterable[tuple[str, float, float]],
) -> str:
    """Why two numbers are not compared, what they are all the same, and how to compare them.

    ``values`` are (name, before, now).
    """
    text = f"{label} is incomparable with {against}: {', '.join(map(str, differences))}"
    shown = [describe_change(*value) for value in values]
    more = f" and {len(shown) - _SHOWN} more" if len(shown) > _SHOWN else ""
    text += f"; {', '.join(shown[:_SHOWN])}{more}" if shown else ""
    fields = dict.fromkeys(one.field for one in differences)
    if "items" in fields:  # there is nothing to compare item by item
        return text
    return f"{text}; --allow {','.join(fields)} compares all the same"


def describe_change(name: str, before: float, now: float) -> str:
    """``acc was 0.5, is 0.48 (-4.00 %)``."""
    was, is_now = show_numbers((before, now))
    share = f" ({show_change(now / before, is_ratio=True)})" if before else ""
    return f"{name} was {was}, is {is_now}{share}"


def shorten_flags(flags: Sequence[str]) -> str:
    """The commonest flags; those that differ in figures only count as one, shown as the first."""
    kinds = [re.sub(r"[\d.]+", "#", flag) for flag in flags]
    first = dict(zip(reversed(kinds), reversed(flags), strict=True))
    common = Counter(kinds).most_common(3)
    shown = [first[kind] + (f" ({n} times)" if n > 1 else "") for kind, n in common]
    return "; ".join([*shown, *(["…"] if len(first) > len(shown) else [])])


def show_change(change: float, is_ratio: bool) -> str:
    """A ratio as ``+1.23 %``, a difference with four digits."""
    return f"{100 * (change - 1):+.2f} %" if is_ratio else f"{change:+.4g}"


def show_size(size: float, is_ratio: bool) -> str:
    """A margin or a smallest detectable harm: a share as ``1.23 %``."""
    return f"{100 * size:.2f} %" if is_ratio else f"{size:.4g}"


def _tell_apart(numbers: Sequence[float], unit: str) -> tuple[list[str], str]:
    """The numbers without their unit, and the unit that they are shown in."""
    scale, name, fewest = 1.0, unit, _FEWEST
    if unit == "bytes":
        largest = max(map(abs, numbers), default=0)
        scale, name = next((s for s in _BYTES if largest >= s[0]), _BYTES[-1])
        fewest = _FEWEST - 1
    scaled = [number if scale == 1 else number / scale for number in numbers]
    texts: list[str] = []
    unequal = {f"{number:.{_MOST}g}" for number in numbers}
    for digits in range(fewest, _MOST + 1):
        texts = [_show(number, digits) for number in scaled]
        if len(set(texts)) == len(unequal):
            break
    return texts, name


def _show(number: float, digits: int) -> str:
    if isinstance(number, int) or abs(number) >= 10**digits:
        return f"{number:,.0f}"
    return f"{number:,.{digits}g}"
