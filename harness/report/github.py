"""What GitHub Actions reads of a run: the job's summary, and annotations at the suite's lines.

The formats are those of https://docs.github.com/actions/reference/workflow-commands; escaping
undoes what the runner's own ActionCommand.cs unescapes. Nothing here can fail a run.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

from harness.records.run_file import Run
from harness.report.findings import FAILING, list_findings
from harness.report.markdown import write_markdown
from harness.report.summary import summarise_run

SUMMARY_BYTES = 1024 * 1024  # of one step; the runner refuses the whole of a longer one
_CUT = b"\n\nThe summary is cut here: GitHub holds 1 MiB of a step. The run file has everything.\n"
SHOWN = 10  # annotations of one kind and step that GitHub keeps


def publish(
    environ: Mapping[str, str],
    runs: Iterable[tuple[Run, str]],
    root: Path,
    also_failing: Collection[str] = (),
) -> list[str]:
    """Write the summary of each run; returns the lines for standard output, warnings first.

    ``runs`` are runs with the names of their files, read only under GitHub Actions; ``root`` is the
    folder that their suites' files are relative to. ``also_failing`` as in `format_annotations`.
    """
    if not environ.get("GITHUB_STEP_SUMMARY") and environ.get("GITHUB_ACTIONS") != "true":
        return []
    runs = list(runs)
    pages = [write_markdown(summarise_run(run, file)) + "\n" for run, file in runs]
    warnings = dict.fromkeys(write_step_summary(environ, page) for page in pages)
    annotations = format_annotations(environ, [run for run, _ in runs], root, also_failing)
    return [*(warning for warning in warnings if warning), *annotations]


def write_step_summary(environ: Mapping[str, str], markdown: str) -> str | None:
    """Append to the file that ``GITHUB_STEP_SUMMARY`` names, if any, up to what GitHub takes.

    Returns what went wrong, a cut included.
    """
    path = environ.get("GITHUB_STEP_SUMMARY")
    if not path:
        return None
    data = markdown.encode("utf-8", "replace")
    try:
        with Path(path).open("ab") as file:
            room = SUMMARY_BYTES - file.tell()
            if len(data) <= room:
                file.write(data)
                return None
            lines = data[: max(0, room - len(_CUT))].rpartition(b"\n")[0]  # whole ones
            file.write((lines + _CUT)[: max(0, room)])
    except OSError as error:
        return f"warning: no job summary: GITHUB_STEP_SUMMARY cannot be written: {error}"
    return "warning: the job summary is cut: GitHub holds 1 MiB of a step"


def format_annotations(
    environ: Mapping[str, str],
    runs: Iterable[Run],
    root: Path,
    also_failing: Collection[str] = (),
) -> list[str]:
    """The lines for standard output, each at the start of a line; none outside GitHub Actions.

    Errors are what failed: FAIL verdicts, failed and invalid records, and the outcomes in
    ``also_failing`` ("skipped", "unjudged", "INCONCLUSIVE"). Other INCONCLUSIVE verdicts are
    warnings.
    """
    if environ.get("GITHUB_ACTIONS") != "true":
        return []
    lines: dict[str, list[str]] = {"error": [], "warning": []}
    for run in runs:
        file = _show_file(environ, root, run)
        for finding in list_findings(run):
            fails = not finding.outcomes.isdisjoint({*FAILING, *also_failing})
            if fails or finding.outcome == "INCONCLUSIVE":
                kind = "error" if fails else "warning"
                properties = {"file": file, "line": finding.line}
                title = f"{finding.about}: {finding.outcome}"
                lines[kind].append(_format(kind, {**properties, "title": title}, finding.text))
    return [line for kind, found in lines.items() for line in _first(kind, found)]


def _format(kind: str, properties: Mapping[str, object], text: str) -> str:
    given = ",".join(
        f"{name}={_escape(str(value)).replace(':', '%3A').replace(',', '%2C')}"
        for name, value in properties.items()
        if value is not None
    )
    return f"::{kind} {given}::{_escape(text)}"


def _first(kind: str, lines: Sequence[str]) -> list[str]:
    """All, or as many as GitHub shows, the last of them counting the others."""
    if len(lines) <= SHOWN:
        return list(lines)
    left = len(lines) - (SHOWN - 1)
    counted = f"{left} more of {len(lines)} {kind}s: the job's summary and the run file have them"
    return [*lines[: SHOWN - 1], _format(kind, {"title": "precision-harness"}, counted)]


def _show_file(environ: Mapping[str, str], root: Path, run: Run) -> str | None:
    """The suite's file as GitHub wants it: relative to the repository, where it is in it."""
    if not run.suite.get("file"):
        return None
    path, workspace = root / str(run.suite["file"]), environ.get("GITHUB_WORKSPACE")
    if workspace and path.is_relative_to(workspace):
        path = path.relative_to(workspace)
    return path.as_posix()


def _escape(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
