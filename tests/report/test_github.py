"""What GitHub Actions would read of a run: its summary file and its workflow commands."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pytest

from harness.records.record import Record, Verdict
from harness.records.run_file import Run
from harness.report.github import (
    SHOWN,
    SUMMARY_BYTES,
    format_annotations,
    publish,
    write_step_summary,
)
from harness.suite.models import Limit
from tests.report.test_matrix import SIZES
from tests.support.records import make_record, make_run
from tests.support.summaries import finish, make_suite

ACTIONS = {"GITHUB_ACTIONS": "true"}
ROOT = Path("/repo")


class Command(NamedTuple):
    """A workflow command as GitHub's runner understands it."""

    kind: str
    properties: dict[str, str]
    message: str


def parse(line: str) -> Command:
    """As TryParseV2 of the runner's ActionCommand.cs does, in the order of its replacements."""
    assert line.startswith("::")
    assert "\n" not in line
    head, _, message = line[2:].partition("::")
    kind, _, given = head.partition(" ")
    properties = dict(part.split("=", 1) for part in given.split(",") if part)
    unescaped = {"%0D": "\r", "%0A": "\n", "%3A": ":", "%2C": ",", "%25": "%"}
    for escaped, meant in unescaped.items():
        properties = {name: text.replace(escaped, meant) for name, text in properties.items()}
        if meant not in ":,":
            message = message.replace(escaped, meant)
    return Command(kind, properties, message)


def make(*records: Record, file: str = "suites/s.yaml") -> Run:
    return make_run(*records).model_copy(update={"suite": {"name": "s", "file": file}})


def judged(*verdicts: Verdict, precision: str = "nf4") -> Record:
    return make_record("footprint", precision, verdicts=verdicts)


def verdict(
    outcome: str = "FAIL",
    text: str = "m[nf4]: too large.",
    metric: str = "footprint.size_ratio",
    line: int | None = 3,
) -> Verdict:
    return Verdict(
        verdict=outcome,  # type: ignore[arg-type]
        metric=metric,
        bound="max 1",
        value=2.0,
        text=text,
        against="threshold" if line is None else "limit",
        position="" if line is None else f"suites/s.yaml:{line}:5",
    )


def annotate(*records: Record, also_failing: tuple[str, ...] = (), **environ: str) -> list[Command]:
    lines = format_annotations({**ACTIONS, **environ}, [make(*records)], ROOT, also_failing)
    return [parse(line) for line in lines]


def test_a_broken_limit_is_an_error_at_its_line_of_the_suite() -> None:
    [command] = annotate(judged(verdict(line=12)), GITHUB_WORKSPACE="/repo")
    assert command == Command(
        "error",
        {
            "file": "suites/s.yaml",
            "line": "12",
            "title": "m[nf4] footprint.size_ratio: FAIL",
        },
        "m[nf4]: too large.",
    )


def test_each_limit_that_was_judged_is_shown_at_its_own_line() -> None:
    bounds = {7: ("footprint.size_ratio", {"max": 0.1}), 70: ("footprint.bits", {"min": 5.0})}
    limits = tuple(
        Limit(precision=("nf4",), model=("m",), metric=metric, position=f"s.yaml:{line}:5", **edge)
        for line, (metric, edge) in bounds.items()
    )
    run = finish(make_suite("footprint", limits=limits), SIZES)
    commands = [parse(line) for line in format_annotations(ACTIONS, [run], ROOT)]
    assert [(c.kind, c.properties["line"]) for c in commands] == [("error", "7"), ("warning", "70")]


def test_an_undecided_limit_is_a_warning_unless_it_fails_the_run() -> None:
    record = judged(verdict("INCONCLUSIVE"))
    assert [c.kind for c in annotate(record)] == ["warning"]
    assert [c.kind for c in annotate(record, also_failing=("INCONCLUSIVE",))] == ["error"]
    assert [c.kind for c in annotate(record, also_failing=("unjudged",))] == ["warning"]


def test_a_limit_without_its_number_is_an_error_where_all_is_required() -> None:
    record = judged(verdict("INCONCLUSIVE").model_copy(update={"value": None}))
    assert [c.kind for c in annotate(record)] == ["warning"]
    assert [c.kind for c in annotate(record, also_failing=("unjudged",))] == ["error"]


def test_what_passes_and_the_noise_floor_annotate_nothing() -> None:
    noise = make_record("footprint", "fp32", status="failed", noise=True)
    assert annotate(judged(verdict("PASS")), noise) == []


@pytest.mark.parametrize("value", [None, "false", ""])
def test_outside_github_there_is_nothing(value: str | None) -> None:
    environ = {} if value is None else {"GITHUB_ACTIONS": value}
    assert format_annotations(environ, [make(judged(verdict()))], ROOT) == []


def test_nothing_in_a_text_or_a_path_ends_a_command_early() -> None:
    text = "50 % of a:b, c\r\n::error::forged %0A %25"
    run = make(judged(verdict(text=text)), file="a, b:100%/s.yaml")
    lines = format_annotations(ACTIONS, [run], ROOT)
    [command] = map(parse, lines)
    assert command.message == text
    assert command.properties["file"] == "/repo/a, b:100%/s.yaml"
    assert set(command.properties) == {"file", "line", "title"}
    assert lines[0].endswith("::50 %25 of a:b, c%0D%0A::error::forged %250A %2525")
    assert lines[0].startswith("::error file=/repo/a%2C b%3A100%25/s.yaml,line=3,")


def test_a_regression_has_no_line_in_the_suite() -> None:
    [command] = annotate(judged(verdict(line=None)))
    assert set(command.properties) == {"file", "title"}


def test_a_cell_that_broke_is_one_error_and_a_skipped_one_only_where_all_is_required() -> None:
    broken = [
        make_record(name, "nf4", status="failed", reasons=("CUDA out of memory",))
        for name in ("footprint", "memory")
    ]
    skipped = make_record("footprint", "int8", status="skipped", reasons=("no network",))
    [command] = annotate(*broken, skipped)
    assert (command.kind, command.message) == ("error", "CUDA out of memory")
    assert command.properties["title"] == "m[nf4] footprint, memory: failed"
    commands = annotate(*broken, skipped, also_failing=("skipped",))
    titles = [command.properties["title"] for command in commands]
    assert titles == ["m[nf4] footprint, memory: failed", "m[int8] footprint: skipped"]


@pytest.mark.parametrize(("outcome", "kind"), [("FAIL", "error"), ("INCONCLUSIVE", "warning")])
def test_of_more_than_github_shows_the_last_counts_the_rest(outcome: str, kind: str) -> None:
    for many in (SHOWN, SHOWN + 1, 25):
        half = judged(*(verdict(outcome, f"number {i}") for i in range(many // 2)))
        rest = judged(*(verdict(outcome, f"number {i}") for i in range(many // 2, many)))
        runs = [make(half), make(rest)]
        commands = [parse(line) for line in format_annotations(ACTIONS, runs, ROOT)]
        assert len(commands) == SHOWN
        assert {command.kind for command in commands} == {kind}
        last = commands[-1].message
        left = many - (SHOWN - 1)
        assert last.startswith("number 9" if many == SHOWN else f"{left} more of {many} {kind}s")


def test_errors_and_warnings_are_counted_apart() -> None:
    record = judged(*[verdict("FAIL")] * 12, *[verdict("INCONCLUSIVE")] * 12)
    kinds = [command.kind for command in annotate(record)]
    assert kinds == ["error"] * SHOWN + ["warning"] * SHOWN


def test_a_summary_is_appended_in_utf_8(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_text("before\n", encoding="utf-8")
    for text in ("× nf4\n", "ß\n"):
        assert write_step_summary({"GITHUB_STEP_SUMMARY": str(path)}, text) is None
    assert path.read_bytes() == "before\n× nf4\nß\n".encode()


@pytest.mark.parametrize("environ", [{}, {"GITHUB_STEP_SUMMARY": ""}, ACTIONS])
def test_where_no_summary_is_asked_for_nothing_is_said(environ: dict[str, str]) -> None:
    assert write_step_summary(environ, "text") is None


def test_a_summary_that_just_fits_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "summary.md"
    path.write_bytes(b"0" * 100)
    text = "x" * (SUMMARY_BYTES - 101) + "\n"
    assert write_step_summary({"GITHUB_STEP_SUMMARY": str(path)}, text) is None
    assert path.stat().st_size == SUMMARY_BYTES


@pytest.mark.parametrize("there", [1, 1000, SUMMARY_BYTES - 20, SUMMARY_BYTES])
def test_a_longer_one_is_cut_at_a_line_s_end_and_a_warning_says_so(
    tmp_path: Path, there: int
) -> None:
    path = tmp_path / "summary.md"
    path.write_bytes(b"0" * there)
    line = "× nf4, a line\n"
    warning = write_step_summary({"GITHUB_STEP_SUMMARY": str(path)}, line * 100_000)
    assert warning is not None
    assert "1 MiB" in warning
    assert path.stat().st_size <= SUMMARY_BYTES
    if there <= 1000:
        written, _, remark = path.read_bytes()[there:].decode().partition("\n\nThe summary is cut")
        assert set(written.split("\n")) == {line.rstrip()}
        assert "run file has everything" in remark
        assert path.stat().st_size > SUMMARY_BYTES - 200


def test_a_summary_that_cannot_be_written_is_a_warning(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none" / "summary.md"):
        warning = write_step_summary({"GITHUB_STEP_SUMMARY": str(path)}, "text\n")
        assert warning is not None
        assert warning.startswith("warning: ")
        assert str(path) in warning


def test_every_run_is_published_and_a_warning_is_printed_once(tmp_path: Path) -> None:
    runs = [(make(judged(verdict(text=text))), "x.json") for text in ("first", "second")]
    path = tmp_path / "summary.md"
    lines = publish({**ACTIONS, "GITHUB_STEP_SUMMARY": str(path)}, runs, ROOT)
    assert [parse(line).message for line in lines] == ["first", "second"]
    written = path.read_text(encoding="utf-8")
    assert written.count("## precision-harness: s") == 2
    assert written.index("- first") < written.index("- second")
    warning, *annotations = publish({**ACTIONS, "GITHUB_STEP_SUMMARY": str(tmp_path)}, runs, ROOT)
    assert warning.startswith("warning: no job summary")
    assert annotations == lines


def test_elsewhere_nothing_is_even_computed() -> None:
    runs = (1 / 0 for _ in "x")
    assert publish({}, runs, ROOT) == []  # type: ignore[arg-type]
