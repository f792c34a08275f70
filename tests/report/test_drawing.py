"""Drawings of numbers: bars where they belong, the page's colours, names that stay text."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from harness.errors import InputError
from harness.report import drawing
from harness.report.drawing import Line, Point, check_installed, draw_bars, draw_lines, draw_points

pytest.importorskip("matplotlib")


def words(svg: str) -> list[str]:
    return ["".join(text.itertext()) for text in ElementTree.fromstring(svg).iter("text")]


def test_names_stay_text_whatever_they_hold() -> None:
    hostile = "<b>$x^2$</b> \u4e2d\x1b"
    points = [Point(hostile, 1.0, 2.0), Point("b", 2.0, 1.0)]
    assert r"<b>$x^2$</b> 中\x1b" in words(draw_points(points, "x", "y"))
    assert hostile[:3] not in draw_points(points, "x", "y")


def test_the_same_numbers_give_the_same_bytes() -> None:
    points = [Point("a", 1, 2, x_range=(0.5, 1.5)), Point("b", 2, 1)]
    assert draw_points(points, "x", "y") == draw_points(points, "x", "y")


def test_a_drawing_takes_its_colours_from_the_page_and_carries_no_style() -> None:
    svg = draw_points([Point("a", 1, 2, ink=3), Point("b", 2, 1, faint=True)], "x", "y")
    assert "var(--ink-3)" in svg
    assert "var(--quiet)" in svg
    assert "currentColor" in svg
    assert "style" not in svg
    assert "#000000" not in svg
    root = ElementTree.fromstring(svg)
    assert {"viewBox", "stroke-linejoin", "focusable"} == set(root.attrib)


def test_error_bars_are_as_long_as_their_intervals() -> None:
    """The bar of 1 to 4 is as far above its point as twice what it is below."""
    plain = draw_points([Point("a", 0, 0), Point("b", 1, 5)], "x", "y")
    barred = draw_points([Point("a", 0, 0), Point("b", 1, 5, y_range=(4, 7))], "x", "y")
    assert barred.count("<use") > plain.count("<use")


def test_lines_leave_out_what_was_not_measured_and_mark_changes() -> None:
    lines = [
        Line("a", (1.0, None, 3.0), ceiling=(2.0, 4.0, 6.0), breaks=(2,)),
        Line("b", (2, 2, 2)),
    ]
    svg = draw_lines(lines, ["1", "2", "4"], "batch", "speed")
    assert words(svg)[:3] == ["1", "2", "4"]
    assert {"a", "b", "batch", "speed"} <= set(words(svg))
    assert svg.count("stroke-dasharray") == 2, "what is possible, and where the level changed"


def test_an_axis_is_logarithmic_where_the_numbers_differ_by_far() -> None:
    near = words(draw_lines([Line("a", (1.0, 40.0))], ["x", "y"], "", ""))
    far = words(draw_lines([Line("a", (1.0, 4000.0))], ["x", "y"], "", ""))
    assert near[2:4] == ["0", "5"]
    assert far[2:] == ["1", "10", "100", "1,000"]
    assert "1,000" in far


def test_bars_are_marked_with_limits() -> None:
    svg = draw_bars(["fp32", "nf4"], {"peak": [4.0, None], "weights": [3.0, 1.0]}, "MB", {"8GB": 5})
    assert {"fp32", "nf4", "peak", "weights", "8GB", "MB"} <= set(words(svg))


def test_many_names_of_places_are_thinned_and_long_names_shortened() -> None:
    line = Line("n" * 100, tuple(map(float, range(30))))
    shown = words(draw_lines([line, Line("b", (1.0,) * 30)], [f"c{i}" for i in range(30)], "", ""))
    assert [name for name in shown if name.startswith("c")] == [f"c{i}" for i in range(0, 30, 3)]
    assert max(map(len, shown)) < 40


def test_without_the_library_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def find_nothing(name: str) -> None:
        return None

    monkeypatch.setattr(drawing, "find_spec", find_nothing)
    with pytest.raises(InputError, match=r"pip install jinja2 matplotlib, or install .*\[report\]"):
        check_installed()
