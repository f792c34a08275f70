"""The summary of a finished run as GitHub Markdown: for a job's summary or a comment.

The matrix is that of the terminal; every text is escaped, so that a model's name or an error's
message is shown and never rendered.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from harness.records.record import Record
from harness.report.findings import Finding, list_findings
from harness.report.matrix import list_remarks
from harness.report.plain import clean
from harness.report.table import Matrix, Shown, ShownColumn, make_matrix, split_columns
from harness.suite.models import Suite

_WIDTH = 130  # characters of a table's widest row that GitHub's page shows without a scroll bar
_SPECIAL = re.compile(r"([\\`*_\[\]~|$])")
_STARTS_BLOCK = re.compile(r"^(\d*)([-+.#])(?=[-#\s]|$)")
_MENTION = re.compile(r"(@(?=\w)|#(?=\d))")
_EMOJI = re.compile(r":(?=[\w+-]+:)")


@dataclass(frozen=True)
class Origin:
    """Where the numbers come from; ``git_sha`` is None outside a repository.

    ``remarks`` are further lines for the notes, such as that the run was interrupted.
    """

    device: str
    run_file: str
    git_sha: str | None
    git_dirty: bool | None
    remarks: tuple[str, ...] = ()


def render_summary(suite: Suite, records: Sequence[Record], origin: Origin) -> str:
    """Heading, counts, the matrix, what failed or is undecided, notes; ends with a line's end."""
    findings = list_findings(suite, records)
    failed = [_tell(f) for f in findings if f.outcome in ("FAIL", "failed", "invalid")]
    undecided = [_tell(f) for f in findings if f.outcome == "INCONCLUSIVE"]
    parts = [
        f"## precision-harness: {escape(suite.name)}",
        _count(records),
        _describe(suite, origin),
        *_draw(make_matrix(suite, records)),
        *_list("Failed", failed),
        *_list("Undecided", undecided),
        *_list("Notes", [*origin.remarks, *list_remarks(records)]),
    ]
    return "\n\n".join(parts) + "\n"


def escape(text: str) -> str:
    """``text`` as it is read: on one line, with nothing in it that Markdown or HTML would act on.

    Between two colons GitHub reads even a line number as an emoji's name, and in a comment a user
    or an issue behind ``@`` and ``#``; ``<wbr>`` parts them.
    """
    text = " ".join(clean(text).split())
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = _MENTION.sub(r"\1<wbr>", _EMOJI.sub(":<wbr>", text))
    text = _SPECIAL.sub(r"\\\1", text)
    return _STARTS_BLOCK.sub(r"\1\\\2", text)


def draw_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[bool]
) -> str:
    """A table of escaped cells; the columns marked as ``numbers`` stand to the right."""
    marks = ["--:" if right else ":--" for right in numbers]
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, marks, *rows))


def _count(records: Iterable[Record]) -> str:
    measured = [record for record in records if not record.noise]
    outcomes = Counter(verdict.verdict for record in measured for verdict in record.verdicts)
    statuses = Counter(record.validity.status for record in measured)
    counts = [f"{outcomes[o]} {o}" for o in ("FAIL", "INCONCLUSIVE", "PASS") if outcomes[o]]
    lost = [f"{statuses[s]} {s}" for s in ("failed", "invalid", "skipped") if statuses[s]]
    noun = "measurement" if len(measured) == 1 else "measurements"
    told = f"**{', '.join(counts) or 'No limit was judged'}**; {len(measured)} {noun}"
    return f"{told}, {', '.join(lost)}" if lost else told


def _describe(suite: Suite, origin: Origin) -> str:
    commit = "no git"
    if origin.git_sha is not None:
        commit = f"commit {origin.git_sha[:10]}{', with changes' if origin.git_dirty else ''}"
    told = [origin.device, commit, f"run file {origin.run_file}"]
    if suite.reference:
        told.insert(1, f"reference {suite.reference}")
    return escape("; ".join(told))


def _draw(matrix: Matrix) -> list[str]:
    """The matrix, verdicts first, in several tables where one would be too wide."""
    verdicts = matrix.blocks[-1]
    matrix = Matrix(matrix.names, (verdicts, *matrix.blocks[:-1]))
    names = [Shown(name) for name in matrix.names]
    first = ShownColumn("cell", tuple(names), numbers=False)

    def fits(columns: Sequence[ShownColumn]) -> bool:
        return sum(map(_width, (first, *columns))) <= _WIDTH

    tables = [(first, *columns) for columns in split_columns(matrix, fits)]
    return [
        draw_table(
            [_break_lines(column.title) for column in columns],
            [[_show(column.cells[row]) for column in columns] for row in range(len(names))],
            [column.numbers for column in columns],
        )
        for columns in tables
    ]


def _width(column: ShownColumn) -> int:
    lines = [*column.title.split("\n"), *(cell.text for cell in column.cells)]
    return max(map(len, lines)) + 3


def _break_lines(title: str) -> str:
    return "<br>".join(map(escape, title.split("\n")))


def _show(cell: Shown) -> str:
    return f"**{escape(cell.text)}**" if cell.mood == "bad" else escape(cell.text)


def _list(heading: str, lines: Iterable[str]) -> list[str]:
    items = [f"- {escape(line)}" for line in lines]
    return [f"### {heading}", "\n".join(items)] if items else []


def _tell(finding: Finding) -> str:
    """A verdict's own sentence; of what has no number, what and why."""
    if finding.outcome in ("FAIL", "INCONCLUSIVE"):
        return finding.text
    return f"{finding.about} {finding.outcome}: {finding.text}"
