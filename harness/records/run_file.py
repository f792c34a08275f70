"""The run file: all records of one suite in one invocation, schema-versioned, read and written."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, Field, ValidationError

from harness.errors import InputError
from harness.machine.files import write_atomically
from harness.records.record import Frozen, Record, dump_json

SCHEMA = 3
# Shipped before: 1 had no `bounds` and `p` of a value, and only the verdicts of limits; 2 had no
# `device_name`, `baseline` and `remarks`, and a suite without `file` and without positions of its
# limits. All of that is optional, so an older file reads as it is.
_READABLE = (1, 2, SCHEMA)


class RunFacts(Frozen):
    """What was invoked, when and on which code.

    ``device_name`` is the device in words, ``baseline`` the name of the thresholds or the earlier
    run that the run was judged against, ``remarks`` sentences about the run as a whole.
    """

    id: str
    utc: str
    argv: list[str]
    git_sha: str | None
    git_dirty: bool | None
    device: str
    duration_s: float | None = None
    interrupted: bool = False
    device_name: str = ""
    baseline: str | None = None
    remarks: tuple[str, ...] = ()


class Run(Frozen):
    """One run file: all records of one suite in one invocation, with the environment.

    ``suite`` is the resolved suite with its ``sha256``, the ``file`` it was read from, and a
    ``position`` (file:line:column) in each of its ``limits``. A report needs nothing but a run.
    """

    schema_version: int = Field(SCHEMA, alias="schema")
    run: RunFacts
    environment: dict[str, Any]
    suite: dict[str, Any]
    records: tuple[Record, ...]

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


def write_run(run: Run, path: Path) -> Path:
    """Write the run file atomically: readers see the old file, or the whole new one."""
    write_atomically(path, dump_json(run, indent=1) + "\n")
    return path


def read_run(path: Path) -> Run:
    """Read and check a run file; raises ValueError naming the file and what is wrong."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: not a readable run file: {error}") from error
    return parse_run(content, str(path))


def parse_run(content: bytes, where: str) -> Run:
    """The run in a run file's bytes, of this schema or an older one; raises as `read_run`."""
    try:
        data = json.loads(content)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are
        raise InputError(f"{where}: not a readable run file: {error}") from error
    found = data.get("schema") if isinstance(data, dict) else None
    if found not in _READABLE:
        newer = isinstance(found, int) and found > SCHEMA
        hint = "; a newer precision-harness wrote it: update" if newer else ""
        raise InputError(
            f"{where}: expected a run file of schema {SCHEMA} or older, found {found!r}{hint}"
        )
    try:
        run = Run.model_validate(data)
    except ValidationError as error:
        raise InputError(f"{where}: not a valid run file: {describe_mistakes(error)}") from error
    counts = Counter((r.cell.id, r.measurement, r.noise) for r in run.records)
    for (cell, measurement, _), count in counts.items():
        if count > 1:
            raise InputError(f"{where}: not a valid run file: two records of {cell}::{measurement}")
    return run


def describe_mistakes(error: ValidationError) -> str:
    """Field and message of the first mistake, and how many there are."""
    first, count = error.errors()[0], error.error_count()
    more = f" ({count} mistakes)" if count > 1 else ""
    return f"{'.'.join(map(str, first['loc']))}: {first['msg']}{more}"
