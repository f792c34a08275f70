"""The page in a headless Chromium, as a reader's browser shows it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.report.html import write_html
from harness.report.page import make_page
from harness.verdicts.history_files import group_runs
from tests.support.chromium import NAME, Browser, open_browser
from tests.support.pages import HOSTILE, find_page_run

pytest.importorskip("matplotlib")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not NAME, reason="no chromium: apt-get install chromium"),
]

_OPEN_ALL = "document.querySelectorAll('details').forEach(one => one.open = true)"
# What a table's own scroll bar does not hold.
_OVERFLOWING = """[...document.querySelectorAll('body *')]
    .filter(one => !one.parentElement.closest('.scroll, svg'))
    .filter(one => one.getBoundingClientRect().right > innerWidth + 0.5)
    .map(one => one.outerHTML.slice(0, 80))"""
_LINKS = """[...document.querySelectorAll('a')]
    .map(one => [one.getAttribute('href'), !!document.querySelector(one.getAttribute('href'))])"""
_ROWS = "[...document.querySelectorAll('table')[0].tBodies[0].rows]"
_COLUMN = _ROWS + ".map(row => row.cells[{}].innerText)"
_PRESS = "document.querySelectorAll('table')[0].querySelectorAll('.titles button')[{}].click()"


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with open_browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs, every word in them hostile."""
    found = [
        find_page_run(f"{HOSTILE} {'long' * 40}", utc=f"2026-01-0{day}T00:00:00+00:00", id=str(day))
        for day in (1, 2, 3)
    ]
    path = tmp_path_factory.mktemp("page") / "page.html"
    page = make_page(found[-1:], group_runs(one.run for one in found))
    path.write_text(write_html(page), encoding="utf-8")
    return path


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [360, 1400])
def test_no_error_no_request_and_nothing_wider_than_the_window(
    browser: Browser, page: Path, width: int, dark: bool
) -> None:
    browser.open(page, width, dark=dark)
    browser.evaluate(_OPEN_ALL)
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate(_OVERFLOWING) == []
    assert browser.list_errors() == []
    assert browser.list_requests() == []
    assert browser.evaluate("window.alert.toString()").count("[native code]") == 1


def test_every_link_leads_to_its_section(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    links = browser.evaluate(_LINKS)
    assert len(links) >= 8
    assert [link for link, leads in links if not leads] == []
    browser.evaluate("document.querySelectorAll('nav a')[3].click()")
    assert browser.evaluate("location.hash") == links[3][0]


def test_tables_are_sorted_by_the_column_that_is_pressed(browser: Browser, page: Path) -> None:
    browser.open(page, 1400)
    cells = ["fp32", "int8", "nf4", "fp4"]
    assert browser.evaluate(_COLUMN.format(0)) == cells
    browser.evaluate(_PRESS.format(2))
    assert browser.evaluate(_COLUMN.format(2)) == ["1.00", "1.00", "1.40", "4.00"]
    browser.evaluate(_PRESS.format(2))
    assert browser.evaluate(_COLUMN.format(2)) == ["4.00", "1.40", "1.00", "1.00"]
    browser.evaluate(_PRESS.format(0))
    assert browser.evaluate(_COLUMN.format(0)) == sorted(cells)
    marked = "[...document.querySelectorAll('[aria-sort]')].map(one => one.innerText)"
    assert len(browser.evaluate(marked)) == 1


def test_pictures_are_drawn_in_the_page_s_colours(browser: Browser, page: Path) -> None:
    colour = "getComputedStyle(document.querySelector('svg text')).fill"
    browser.open(page, 1400)
    light = browser.evaluate(colour)
    browser.open(page, 1400, dark=True)
    assert light != browser.evaluate(colour)
    boxes = browser.evaluate(
        "[...document.querySelectorAll('#s1 .level3 > .pictures svg')].map(one => one.clientWidth)"
    )
    assert min(boxes) > 300
    inked = "[...document.querySelectorAll('svg use')].map(one => getComputedStyle(one).stroke)"
    assert "none" not in browser.evaluate(inked)
    assert len(set(browser.evaluate(inked))) > 3


def test_on_paper_nothing_is_cut_off(browser: Browser, page: Path) -> None:
    """A4 landscape less its margins; a table has no scroll bar there."""
    browser.open(page, 1032)
    browser.ask("Emulation.setEmulatedMedia", media="print")
    try:
        assert browser.evaluate("document.documentElement.scrollWidth") <= 1032
        assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        dark = "getComputedStyle(document.body).backgroundColor"
        assert browser.evaluate(dark) == "rgb(255, 255, 255)"
    finally:
        browser.ask("Emulation.setEmulatedMedia", media="screen")


def test_without_its_script_the_page_is_still_readable(browser: Browser, page: Path) -> None:
    browser.ask("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.open(page, 1400)
        found = browser.ask("DOM.getDocument", depth=-1)
    finally:
        browser.ask("Emulation.setScriptExecutionDisabled", value=False)
    assert "nf4 is the smallest" in str(found)
