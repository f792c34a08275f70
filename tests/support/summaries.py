"""Suites and runs, made without measuring, for tests of what a report shows of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.catalog import load_measurement, load_precision
from harness.records.record import Record
from harness.records.run_file import Run
from harness.report.summary import summarise_run
from harness.report.terminal import write_terminal
from harness.suite.models import Limit, MeasurementSpec, ModelSpec, PrecisionSpec, Suite, resolved
from harness.verdicts.pairing import complete_records
from tests.support.records import make_run

PRECISIONS = ("fp32", "int8", "nf4")
RUN_FILE = "20261121T101702Z-a78832358e-cpu.json"


def make_suite(*measurements: str, limits: tuple[Limit, ...] = ()) -> Suite:
    """A suite of one model ``m`` at three precisions with the reference fp32."""
    required = {"perplexity": {"text": {"path": "x.txt"}}}
    return Suite(
        name="s",
        reference="fp32",
        models=(ModelSpec(name="m", source="a/b"),),
        precisions=tuple(
            PrecisionSpec(name=name, use=name, options=load_precision(name).options())
            for name in PRECISIONS
        ),
        measurements=tuple(
            MeasurementSpec(
                name=name, options=load_measurement(name).options(**required.get(name, {}))
            )
            for name in measurements
        ),
        limits=limits,
        path=Path("/s.yaml"),
    )


def resolve(suite: Suite, file: str) -> dict[str, Any]:
    """The suite as a run file holds it."""
    limits = [limit.model_dump(mode="json") for limit in suite.limits]
    return {**resolved(suite), "limits": limits, "file": file}


def finish(suite: Suite, records: Sequence[Record], file: str = "s.yaml", **facts: Any) -> Run:
    """What the run file of these records holds."""
    given = {"device_name": "cpu (An_Intel_CPU), torch 2.13.0+cpu", **facts}
    run = make_run(*complete_records(suite, records), **given)
    return run.model_copy(update={"suite": resolve(suite, file)})


def show(run: Run, width: int = 120, colour: bool = False, details: bool = False) -> str:
    """The run's summary as a terminal shows it."""
    return write_terminal(summarise_run(run, RUN_FILE, details), width, colour)


def show_tables(run: Run, width: int = 120, details: bool = False) -> list[list[str]]:
    """The lines of each table of the summary."""
    blocks = [block.split("\n") for block in show(run, width, details=details).split("\n\n")]
    counts = ("verdicts: ", "no limit was judged")
    start = next(i for i, lines in enumerate(blocks) if lines[0].startswith(counts))
    return [
        lines
        for lines in blocks[start + 1 : -1]
        if lines[0] not in ("Failed", "Undecided", "Notes")
    ]


def show_section(run: Run, title: str) -> list[str]:
    """The lines below one title of the summary; empty where there is none."""
    for block in show(run).split("\n\n"):
        first, *lines = block.split("\n")
        if first == title:
            return lines
    return []
