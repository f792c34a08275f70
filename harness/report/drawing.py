"""Plain SVG drawings of numbers, made by matplotlib; knows nothing of runs.

The same numbers give the same bytes. Colours are the page's own: ``currentColor`` for text and
lines, ``var(--ink-1)`` and so on for series, so that a drawing follows light and dark. Text stays
text. No style attribute is used, which a page's security policy may forbid.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

from harness.errors import InputError
from harness.report.plain import on_one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.axis import Axis

SERIES = 8  # colours of their own; more than so many series share one
_SIZE = (5.4, 3.5)  # inches, 72 units of the drawing each
_LONGEST = 28  # characters of a name
_PLACES = 56  # characters below an axis
_LEGEND = 48  # characters of a line of names
_LOGARITHMIC = 50  # an axis where the largest number is so many times the smallest
_LINE_HEIGHT = 11.0  # of a name, in the drawing's units
# Colours while drawing, each replaced by what the page makes of it.
_INKS = {"#000000": "currentColor", "#888888": "var(--quiet)", "#cccccc": "var(--line)"} | {
    f"#0000{i:02x}": f"var(--ink-{i})" for i in range(1, SERIES + 1)
}
_BLACK, _QUIET, _LINE = list(_INKS)[:3]
_SVG = "{http://www.w3.org/2000/svg}"
_LINK = "{http://www.w3.org/1999/xlink}href"
_SETTINGS: dict[str, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "precision-harness",
    "svg.id": None,
    "text.parse_math": False,
    "font.size": 11,
    "axes.labelsize": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": _QUIET,
    "axes.linewidth": 0.8,
    "axes.axisbelow": True,
    "xtick.color": _QUIET,
    "ytick.color": _QUIET,
    "xtick.labelcolor": _BLACK,
    "ytick.labelcolor": _BLACK,
    "xtick.labelsize": 10,
    "ytick.labelsize": 10,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "grid.color": _LINE,
    "grid.linewidth": 0.8,
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "legend.fontsize": 9.5,
    "legend.handlelength": 1.4,
    "axes.formatter.useoffset": False,
}


@dataclass(frozen=True)
class Point:
    """A named point; ``x_range`` and ``y_range`` are its error bars.

    A ``faint`` one is drawn grey, a ``crossed`` one as a cross.
    """

    name: str
    x: float
    y: float
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    ink: int = 1
    faint: bool = False
    crossed: bool = False


@dataclass(frozen=True)
class Line:
    """A named line: a number per place on the x axis, None where there is none.

    ``ranges`` are error bars; ``ceiling`` is drawn dashed in the same colour; at ``breaks`` the
    level changed.
    """

    name: str
    numbers: tuple[float | None, ...]
    ranges: tuple[tuple[float, float] | None, ...] = ()
    ceiling: tuple[float | None, ...] = ()
    breaks: tuple[int, ...] = ()
    ink: int = 1


def check_installed() -> None:
    """Raise `InputError` where a report cannot be written for want of a library."""
    missing = [name for name in ("jinja2", "matplotlib") if find_spec(name) is None]
    if missing:
        names = " ".join(missing)
        raise InputError(
            f"a report needs {' and '.join(missing)}: pip install {names}, or install "
            "precision-harness[report]"
        )


def draw_points(points: Sequence[Point], x_title: str, y_title: str) -> str:
    """Points by two numbers."""
    with _drawing() as (axes, finish):
        axes.grid(True)
        for point in points:
            colour = _QUIET if point.faint else _ink(point.ink)
            axes.errorbar(
                point.x,
                point.y,
                xerr=_bars((point.x,), (point.x_range,)),
                yerr=_bars((point.y,), (point.y_range,)),
                fmt="X" if point.crossed else "o",
                markersize=8 if point.crossed else 7,
                color=colour,
                elinewidth=1.2,
                capsize=2.5,
            )
            axes.annotate(
                _short(point.name),
                (point.x, point.y),
                (6, 5),
                textcoords="offset points",
                color=_QUIET if point.faint else _BLACK,
                fontsize=10,
            )
        axes.margins(x=0.16, y=0.14)
        _show_numbers(axes.xaxis, axes.yaxis)
        _spread_labels(axes)
        _title(axes, x_title, y_title)
        return finish()


def draw_lines(
    lines: Sequence[Line], places: Sequence[str], x_title: str, y_title: str, from_zero: bool = True
) -> str:
    """A line per series over named places at equal distances.

    ``from_zero``: the axis begins at 0, or is logarithmic where the numbers differ by far.
    """
    with _drawing() as (axes, finish):
        axes.grid(True, axis="y")
        for line in lines:
            at = [i for i, number in enumerate(line.numbers) if number is not None]
            numbers = [number for number in line.numbers if number is not None]
            ranges = [line.ranges[i] if line.ranges else None for i in at]
            bars = _bars(numbers, ranges)
            axes.errorbar(
                at,
                numbers,
                yerr=bars,
                fmt="o-",
                color=_ink(line.ink),
                markersize=4.5,
                label=_short(line.name),
                elinewidth=1,
                capsize=2,
            )
            above = [(i, one) for i, one in enumerate(line.ceiling) if one is not None]
            if above:
                axes.plot(*zip(*above), "--", color=_ink(line.ink), linewidth=1.1)
            for place in line.breaks:
                axes.axvline(place - 0.5, color=_QUIET, linestyle=":", linewidth=1.2)
        axes.set_xticks(*_thin(places))
        axes.margins(x=0.08)
        shown = [number for line in lines for number in line.numbers if number is not None]
        if from_zero and min(shown) > 0 and max(shown) > _LOGARITHMIC * min(shown):
            axes.set_yscale("log")
            axes.minorticks_off()
        elif from_zero:
            axes.set_ylim(bottom=0)
        _show_numbers(axes.yaxis)
        _title(axes, x_title, y_title)
        _legend(axes, [line.name for line in lines])
        return finish()


def draw_bars(
    groups: Sequence[str],
    bars: Mapping[str, Sequence[float | None]],
    x_title: str,
    marks: Mapping[str, float],
) -> str:
    """Groups of horizontal bars, the first on top; ``marks`` are named limits across."""
    with _drawing(height=1.1 + 0.12 * len(groups) * (len(bars) + 1)) as (axes, finish):
        axes.grid(True, axis="x")
        width = 0.84 / max(len(bars), 1)
        for number, (name, lengths) in enumerate(bars.items()):
            places = [i - 0.42 + (number + 0.5) * width for i in range(len(groups))]
            drawn = [(p, x) for p, x in zip(places, lengths) if x is not None]
            if drawn:
                at, numbers = zip(*drawn)
                axes.barh(at, numbers, width * 0.88, color=_ink(number + 1), label=_short(name))
        for name, place in marks.items():
            axes.axvline(place, color=_BLACK, linewidth=1, linestyle="--")
            axes.annotate(
                name, (place, -0.5), (3, 0), textcoords="offset points", fontsize=9, va="top"
            )
        axes.set_yticks(range(len(groups)), [_short(name) for name in groups])
        axes.set_ylim(len(groups) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        _show_numbers(axes.xaxis)
        _title(axes, x_title, "")
        _legend(axes, list(bars))
        return finish()


@contextmanager
def _drawing(height: float = _SIZE[1]) -> Iterator[tuple[Axes, Callable[[], str]]]:
    """Empty axes, and what makes the finished drawing of them."""
    check_installed()
    from matplotlib import rc_context
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with rc_context(_SETTINGS), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph ")  # the page's font has it
        figure = Figure(figsize=(_SIZE[0], height), layout="constrained")
        FigureCanvasSVG(figure)

        def finish() -> str:
            output = io.StringIO()
            figure.savefig(output, format="svg", transparent=True, metadata={"Date": None})
            return tidy(output.getvalue())

        yield figure.add_subplot(), finish


def tidy(svg: str) -> str:
    """matplotlib's SVG as a part of a page: the page's colours and font, no style, no metadata."""
    root = ElementTree.fromstring(svg)  # noqa: S314 (matplotlib wrote it)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag in (f"{_SVG}metadata", f"{_SVG}style"):
                parent.remove(child)
    values = [value for element in root.iter() for value in element.attrib.values()]
    used = set(re.findall(r"#([\w-]+)", " ".join(values)))
    for element in root.iter():
        element.tag = element.tag.removeprefix(_SVG)
        _set_attributes(element, used)
    view = root.get("viewBox", "")
    root.attrib.clear()
    for name, value in (("viewBox", view), ("stroke-linejoin", "round"), ("focusable", "false")):
        root.set(name, value)
    return ElementTree.tostring(root, encoding="unicode")


def _set_attributes(element: ElementTree.Element, used: Container[str]) -> None:
    """Attributes for style; no id that nothing refers to, for a page has many drawings."""
    if element.get("id") not in used:
        element.attrib.pop("id", None)
    for part in element.attrib.pop("style", "").split(";"):
        name, _, value = (side.strip() for side in part.partition(":"))
        if name == "font":
            found = re.search(r"([\d.]+)px", value)
            element.set("font-size", found[1] if found else "10")
        elif name:
            element.set(name, value)
    for name in ("fill", "stroke"):
        if element.get(name) in _INKS:
            element.set(name, _INKS[element.attrib[name]])
    if element.tag == "text":
        element.attrib.setdefault("fill", "currentColor")
    if _LINK in element.attrib:
        element.set("href", element.attrib.pop(_LINK))


def _ink(number: int) -> str:
    return list(_INKS)[2 + (number - 1) % SERIES + 1]


def _short(name: str) -> str:
    return on_one_line(name, _LONGEST)


def _bars(
    numbers: Sequence[float], ranges: Sequence[tuple[float, float] | None]
) -> list[list[float]] | None:
    """Lengths below and above, as matplotlib wants them; None without any."""
    if not any(ranges):
        return None
    pairs = [ends or (number, number) for number, ends in zip(numbers, ranges, strict=True)]
    below = [max(0.0, x - low) for x, (low, _) in zip(numbers, pairs, strict=True)]
    above = [max(0.0, high - x) for x, (_, high) in zip(numbers, pairs, strict=True)]
    return [below, above]


def _thin(places: Sequence[str]) -> tuple[list[int], list[str]]:
    """Positions and names of the places that have room for a name."""
    longest = max(len(_short(name)) for name in places)
    step = -(-len(places) * (longest + 2) // _PLACES)
    return list(range(0, len(places), step)), [_short(name) for name in places[::step]]


def _title(axes: Axes, x_title: str, y_title: str) -> None:
    axes.set_xlabel(x_title)
    if y_title:
        axes.set_title(y_title, loc="left", fontsize=11)


def _show_numbers(*numbered: Axis) -> None:
    """Axes of numbers, not of names: thousands apart, no powers of ten."""
    for axis in numbered:
        if axis.get_scale() == "log" or max(map(abs, axis.get_view_interval())) >= 1000:
            axis.set_major_formatter(lambda number, _: f"{number:,.6g}")


def _legend(axes: Axes, names: Sequence[str]) -> None:
    if len(names) > 1:
        columns = max(1, _LEGEND // (4 + max(len(_short(name)) for name in names)))
        axes.figure.legend(loc="outside lower center", ncols=min(columns, len(names)))


def _spread_labels(axes: Axes) -> None:
    """Move names that would lie on one another apart, upwards."""
    figure: Any = axes.figure
    figure.draw_without_rendering()  # only then the points have their places
    scale = 72 / figure.dpi
    labels: list[Any] = list(axes.texts)
    placed: list[tuple[float, float, float]] = []
    for label in sorted(labels, key=lambda label: float(label.xy[1])):
        x, y = axes.transData.transform(label.xy) * scale
        width, height = 6.0 * len(label.get_text()), y + 5
        for left, level, length in placed:
            if x < left + length and left < x + width and abs(height - level) < _LINE_HEIGHT:
                height = level + _LINE_HEIGHT
        label.set_position((6, height - y))
        placed.append((x, height, width))
