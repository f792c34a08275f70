"""What a run file says of the run as a whole, and what it is called."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from harness.machine.privacy import scrub
from harness.records.record import Record
from harness.records.run_file import SCHEMA, Run, RunFacts
from harness.run.machine import Machine
from harness.run.settings import RunSettings
from harness.suite.models import Suite, resolved, suite_sha256
from harness.verdicts.baseline import Baseline


def start_header(
    suite: Suite,
    machine: Machine,
    folder: Path,
    settings: RunSettings,
    baseline: Baseline | None,
) -> Run:
    """A run without records that starts now; its id is ``<suite>/<name of the file>``."""
    started = datetime.now(timezone.utc)
    git = machine.environment["git"]
    path, root = suite.path, settings.root
    file = path.relative_to(root) if path.is_relative_to(root) else path
    facts = RunFacts(
        id=f"{suite.name}/{_name_run(folder, started, machine)}",
        utc=started.isoformat(timespec="seconds"),
        argv=scrub(list(settings.argv)),
        git_sha=git["sha"],
        git_dirty=git["dirty"],
        device=machine.device.device,
        device_name=machine.description,
        baseline=scrub(baseline.name) if baseline is not None else None,
    )
    return Run(
        schema=SCHEMA,
        run=facts,
        environment=machine.environment,
        # The resolved suite, where it was read from, and the positions of its limits.
        suite=scrub(
            {
                **resolved(suite),
                "limits": [limit.model_dump(mode="json") for limit in suite.limits],
                "file": file.as_posix(),
                "sha256": suite_sha256(suite),
            }
        ),
        records=(),
    )


def list_remarks(
    made: int,
    planned: int,
    baseline: Baseline | None,
    environment: Mapping[str, Any],
    records: Sequence[Record],
) -> list[str]:
    """What a reader must know of a run in which ``made`` of the measurements exist."""
    remarks = [] if made == planned else [f"interrupted: {made} of {planned} measurements made"]
    if baseline is not None:
        remarks.append(f"judged against {baseline.name}")
        remarks += baseline.remarks(environment, records)
    return remarks


def _name_run(folder: Path, started: datetime, machine: Machine) -> str:
    """``<utc>-<git sha>[-dirty]-<device>``, numbered where two runs start in one second."""
    git = machine.environment["git"]
    sha = (git["sha"] or "nogit")[:10] + ("-dirty" if git["dirty"] else "")
    stem = f"{started:%Y%m%dT%H%M%SZ}-{sha}-{machine.slug}"
    candidate, number = stem, 2
    while any((folder / f"{candidate}{end}").exists() for end in (".json", ".journal.jsonl")):
        candidate, number = f"{stem}-{number}", number + 1
    return candidate
