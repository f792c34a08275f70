"""harness report: one page of the newest run of each suite and device."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.cli import main
from harness.report import drawing
from tests.support.pages import write_page_run
from tests.support.records import make_record, make_run

pytest.importorskip("matplotlib")
Capture = pytest.CaptureFixture[str]


def report(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = main(["report", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_a_run_s_page_is_written_and_named(tmp_path: Path, capsys: Capture) -> None:
    run = write_page_run(tmp_path, "run.json")
    page = tmp_path / "page.html"
    code, out, _ = report(capsys, str(run), "-o", str(page))
    assert (code, out) == (0, f"report: {page}\n")
    text = page.read_text(encoding="utf-8")
    assert text.startswith("<!DOCTYPE html>")
    assert "m: nf4 is the smallest and the fastest that holds all its limits." in text
    assert "Which river? plain" in text, "questions are read beside the run file"
    assert "Over time" not in text


@pytest.mark.slow
def test_a_folder_s_newest_run_is_shown_and_the_others_over_time(
    tmp_path: Path, capsys: Capture
) -> None:
    for day in (1, 2, 3):
        utc = f"2026-01-0{day}T00:00:00+00:00"
        name = f"2026010{day}T000000Z-abcdef1234-cpu-xeon.json"
        write_page_run(tmp_path, name, text=f"day {day}", id=f"s/{day}", utc=utc)
    page = tmp_path / "page.html"
    code, _, _ = report(capsys, str(tmp_path), "-o", str(page))
    text = page.read_text(encoding="utf-8")
    assert code == 0
    assert "What is day 3?" in text
    assert "What is day 1?" not in text
    assert "s on cpu-xeon: 3 runs, 2026-01-01 to 2026-01-03" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "'nothing' is neither a run file or folder, nor a git revision"),
        (["{run}", "-o", "{folder}/none/page.html"], "none does not exist: make it first"),
    ],
)
def test_wrong_input_is_told_with_a_way_out(
    tmp_path: Path, capsys: Capture, arguments: list[str], message: str
) -> None:
    run = write_page_run(tmp_path, "run.json")
    given = [one.format(run=run, folder=tmp_path) for one in arguments]
    code, _, err = report(capsys, *given, "--root", str(tmp_path))
    assert code == 4
    assert message in err


def test_without_matplotlib_the_line_to_type_is_shown(
    tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "find_spec", {"jinja2": 1}.get)
    run = write_page_run(tmp_path, "run.json")
    code, _, err = report(capsys, str(run))
    assert code == 4
    assert "a report needs matplotlib: pip install matplotlib" in err


@pytest.mark.parametrize("measured", [[], ["fp32"], ["fp32", "nf4"]])
def test_a_run_without_numbers_has_a_page_too(
    tmp_path: Path, capsys: Capture, measured: list[str]
) -> None:
    from harness.records.run_file import write_run

    records = [make_record("perplexity", p, status="failed", reasons=("gone",)) for p in measured]
    records += [make_record("memory", "bf16", status="skipped", reasons=("no <GPU>",))]
    run = write_run(make_run(*records), tmp_path / "run.json")
    page = tmp_path / "page.html"
    assert report(capsys, str(run), "-o", str(page))[0] == 0
    assert "no &lt;GPU&gt;" in page.read_text(encoding="utf-8")
