"""The summary of a run, made from its run file: what the terminal and a job's page show."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from harness.catalog import load_measurement
from harness.records.record import Record
from harness.records.run_file import Run
from harness.records.values import base_name
from harness.report.changed_answers import make_changed_answers
from harness.report.document import Document, Paragraph, Section, list_lines
from harness.report.findings import FAILING, list_findings
from harness.report.matrix import make_details, make_matrix
from harness.report.weighing import answer
from harness.verdicts.pairing import is_noise

_PLACES = 3
_NUMBER = re.compile(r"(?<![\w.])\d+(\.\d+)?(?![\w.])")
_NOISE = "~ within the noise: as close to the reference as the reference measured again"


def summarise_run(run: Run, run_file: str, details: bool = False) -> Document:
    """The answer, the matrix, what failed or is open, what changed, and the run file's path.

    ``details`` adds the tables of ``-v``.
    """
    return Document(
        f"precision-harness: {run.suite.get('name')}",
        (
            *answer(run),
            Paragraph("\n".join((count_outcomes(run), *describe_run(run)))),
            make_matrix(run),
            *explain_findings(run),
            *make_changed_answers(run),
            *(make_details(run) if details else ()),
            Paragraph(f"run file: {run_file}"),
        ),
    )


def explain_findings(run: Run) -> tuple[Section, ...]:
    """What failed, what is undecided, what was cleared, and notes; each that there is."""
    findings = list_findings(run)
    failed = [finding.sentence for finding in findings if finding.outcome in FAILING]
    cleared = [v.text for r in run.records for v in r.verdicts if v.was_cleared]
    undecided = [finding.sentence for finding in findings if finding.outcome == "INCONCLUSIVE"]
    return (
        *list_lines("Failed", list(dict.fromkeys(failed))),
        *list_lines("Undecided", list(dict.fromkeys(undecided))),
        *list_lines("Cleared in the same night", cleared),
        *list_lines("Notes", [*run.run.remarks, *_list_notes(run.records)]),
    )


def count_outcomes(run: Run) -> str:
    """How many verdicts of each kind, how many measurements, and how many of them were lost."""
    measured = [record for record in run.records if not record.noise]
    outcomes = Counter(verdict.verdict for record in measured for verdict in record.verdicts)
    statuses = Counter(record.validity.status for record in measured)
    counts = [f"{outcomes[o]} {o}" for o in ("FAIL", "INCONCLUSIVE", "PASS") if outcomes[o]]
    lost = [f"{statuses[s]} {s}" for s in ("failed", "invalid", "skipped") if statuses[s]]
    judged = f"verdicts: {', '.join(counts)}" if counts else "no limit was judged"
    noun = "measurement" if len(measured) == 1 else "measurements"
    return ", ".join([f"{judged}; {len(measured)} {noun}", *lost])


def describe_run(run: Run) -> Iterator[str]:
    """Device, reference and commit; what the matrix shows of the reference."""
    reference, commit = run.suite.get("reference"), "no git"
    if run.run.git_sha is not None:
        changes = ", with changes" if run.run.git_dirty else ""
        commit = f"commit {run.run.git_sha[:10]}{changes}"
    compared = [f"reference {reference}"] if reference else []
    yield "; ".join([run.run.device_name or run.run.device, *compared, commit])
    lack = run.environment.get("torch", {}).get("cuda_unavailable")
    if lack:
        yield f"no GPU was used: {lack}"
    if reference:
        yield f"×ref: divided by the value of {reference}; ±: one standard error"


def _list_notes(records: Sequence[Record]) -> list[str]:
    """Noise, flags, skips and metrics' remarks; notes that differ in numbers only are one note."""
    notes: dict[str, list[tuple[str, Record]]] = {}  # by the text without its numbers
    for record in records:
        for text in _explain(record):
            notes.setdefault(_NUMBER.sub("#", text), []).append((text, record))
    noise = [_NOISE] if any(map(_shows_noise, records)) else []
    return [*noise, *(_join(alike) for alike in notes.values())]


def _explain(record: Record) -> Iterator[str]:
    status = record.validity.status
    if status in ("flagged", "skipped"):
        mark = "* " if status == "flagged" else ""
        yield from (f"{mark}{status}: {reason}" for reason in record.validity.reasons)
    if status == "failed" and record.values:
        yield "! finished before the measurement failed"
    if record.usable:
        yield from load_measurement(record.measurement).remarks(record)


def _join(alike: Sequence[tuple[str, Record]]) -> str:
    """One sentence: where numbers differ, whole ones are listed and others given as a range."""
    texts = [text for text, _ in alike]
    found = zip(*([match[0] for match in _NUMBER.finditer(text)] for text in texts))
    shown = map(_show_numbers, found)
    sentence = _NUMBER.sub(lambda _: next(shown), texts[0])
    measurements = _name_first(record.measurement for _, record in alike)
    return f"{sentence} ({measurements} of {_name_first(record.cell.id for _, record in alike)})"


def _show_numbers(found: Iterable[str]) -> str:
    numbers = sorted(set(found), key=float)
    if len(numbers) == 1 or all(number.isdigit() for number in numbers):
        return ", ".join(numbers)
    return f"{numbers[0]} to {numbers[-1]}"


def _name_first(names: Iterable[str]) -> str:
    names = list(dict.fromkeys(names))
    more = f" and {len(names) - _PLACES} more" if len(names) > _PLACES else ""
    return ", ".join(names[:_PLACES]) + more


def _shows_noise(record: Record) -> bool:
    """Whether a value that the matrix shows is no larger than the noise."""
    described = load_measurement(record.measurement)
    shown = {column.value for column in described.headline}
    return any(
        base_name(name) in shown and is_noise(value, described.values[base_name(name)])
        for name, value in {**record.values, **record.paired}.items()
    )
