"""Records and the run file: frozen, schema-versioned data, a journal, an atomic write.

Knows what a number is and how it is stored; not how it was measured, judged or shown.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
from pathlib import Path
from typing import IO, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from harness.statistics.estimates import Outcome

SCHEMA = 2
# Shipped before: 1 had no `bounds` and `p` of a value, and verdicts of limits only. All of it is
# optional, so that such a file reads as it is.
_READABLE = (1, SCHEMA)
Status = Literal["ok", "flagged", "invalid", "failed", "skipped"]


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Value(_Frozen):
    """One number: ``value`` is None where it is unavailable or was not finite.

    ``stderr`` is the standard error in the value's own unit, ``interval`` the 95 % interval where
    that says more, ``bounds`` the one-sided 95 % bounds that verdicts are made of, ``p`` the
    two-sided p-value of no difference, unadjusted, ``n`` how many chunks, items or rounds stand
    behind it (rounds of one process are not independent, and get no ``stderr``). ``floor`` is what
    the reference gives when it is compared with itself: a value no farther from equality is noise.
    """

    value: int | float | None
    unit: str = ""
    better: Literal["lower", "higher"] | None = None
    stderr: float | None = None
    n: int | None = None
    interval: tuple[float, float] | None = None
    bounds: tuple[float, float] | None = None
    p: float | None = None
    floor: float | None = None

    @field_validator("value", "stderr", "floor", mode="before")
    @classmethod
    def _no_bare_nan(cls, number: Any) -> Any:
        return None if isinstance(number, float) and not math.isfinite(number) else number


class Validity(_Frozen):
    """Whether a record's numbers may be used, and why not."""

    status: Status = "ok"
    reasons: tuple[str, ...] = ()


_BY_SEVERITY: tuple[Status, ...] = ("ok", "flagged", "invalid", "skipped", "failed")


def join_validity(*found: Validity) -> Validity:
    """The worst status of all, and every reason once."""
    statuses = {one.status for one in found}
    worst = next((s for s in reversed(_BY_SEVERITY) if s in statuses), _BY_SEVERITY[0])
    reasons = dict.fromkeys(reason for one in found for reason in one.reasons)
    return Validity(status=worst, reasons=tuple(reasons))


class Measured(_Frozen):
    """What a metric's ``measure`` returns from the worker.

    ``items`` holds compact per-item outcomes for paired comparison, ``samples`` every round of a
    timing, ``protocol`` everything that the values' meaning depends on.
    """

    values: dict[str, Value]
    protocol: dict[str, Any] = {}
    items: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    validity: Validity = Validity()


class CellFacts(_Frozen):
    """The cell a record belongs to: what was declared and what was really loaded."""

    id: str
    model: str
    precision: str
    device: str
    source: str | dict[str, Any]
    revision: str | None = None
    weights_sha256: str | None = None
    tokenizer_sha256: str | None = None
    declared: dict[str, Any] = {}
    attested: dict[str, Any] | None = None


class Verdict(_Frozen):
    """One limit, threshold or earlier run judged on one value; ``text`` is what a person reads.

    ``bounds`` are the value's one-sided 95 % bounds, ``smallest_detectable`` the smallest harm
    that would have been called FAIL four times in five, in the value's unit.
    """

    verdict: Outcome
    metric: str
    bound: str
    value: float | None
    text: str
    against: Literal["limit", "threshold", "run"] = "limit"
    bounds: tuple[float, float] | None = None
    smallest_detectable: float | None = None


class Record(_Frozen):
    """The frozen result of one measurement on one cell.

    ``paired`` and ``verdicts`` are derived from the records and the suite when the run file is
    built; ``telemetry`` is what the machine did meanwhile, a summary per process (see
    `harness.machine.telemetry`); ``reference_only`` marks one measured only because another cell is
    compared with it, ``reused_from`` the run a cached one was measured in; ``noise`` the reference
    measured a second time, in another process and with another batch size, to see what such a
    difference amounts to.
    """

    cell: CellFacts
    measurement: str
    protocol: dict[str, Any] = {}
    values: dict[str, Value] = {}
    items: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    validity: Validity = Validity()
    seconds: dict[str, float] = {}
    telemetry: tuple[dict[str, Any], ...] = ()
    reference_only: bool = False
    noise: bool = False
    reused_from: str | None = None
    traceback: str = ""
    paired: dict[str, Value] = {}
    verdicts: tuple[Verdict, ...] = ()

    @property
    def usable(self) -> bool:
        """True where the values may be compared and judged."""
        return self.validity.status in ("ok", "flagged")

    def find(self, name: str) -> Value | None:
        """The value called ``name``, measured or paired."""
        return self.values.get(name) or self.paired.get(name)


class RunFacts(_Frozen):
    """What was invoked, when and on which code."""

    id: str
    utc: str
    argv: list[str]
    git_sha: str | None
    git_dirty: bool | None
    device: str
    duration_s: float | None = None
    interrupted: bool = False


class Run(_Frozen):
    """One run file: all records of one suite in one invocation, with the environment."""

    schema_version: int = Field(SCHEMA, alias="schema")
    run: RunFacts
    environment: dict[str, Any]
    suite: dict[str, Any]
    records: tuple[Record, ...]

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class Journal:
    """An append-only file of finished records, so that nothing measured is ever lost.

    The first line is the run without its records, each further line one record. The file is
    locked while its process lives; an unlocked journal belongs to a run that was cut off.
    """

    def __init__(self, path: Path, header: Run) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        # Locked under another name first: a journal that is visible and unlocked is an orphan.
        hidden = path.with_name(f".{path.name}.{os.getpid()}")
        self._file = hidden.open("x", encoding="utf-8")
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._append(header)
        os.rename(hidden, path)

    def append(self, record: Record) -> None:
        """Write one record through to the disk."""
        self._append(record)

    def _append(self, entry: BaseModel) -> None:
        self._file.write(dump_json(entry) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Leave the journal as it is: the next run makes a run file of it."""
        self._file.close()

    def remove(self) -> None:
        """Delete the journal once the run file holds everything it held."""
        self.path.unlink(missing_ok=True)
        self._file.close()


def dump_json(model: BaseModel, indent: int | None = None) -> str:
    """JSON with short keys by alias; a NaN or infinity anywhere is written as null."""
    data = model.model_dump(mode="json", by_alias=True)
    return json.dumps(data, allow_nan=False, ensure_ascii=False, indent=indent)


def write_run(run: Run, path: Path) -> Path:
    """Write the run file atomically: readers see the old file, or the whole new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    with partial.open("w", encoding="utf-8") as file:
        file.write(dump_json(run, indent=1) + "\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)
    return path


def read_run(path: Path) -> Run:
    """Read and check a run file; raises ValueError naming the file and what is wrong."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path}: not a readable run file: {error}") from error
    return parse_run(content, str(path))


def parse_run(content: bytes, where: str) -> Run:
    """The run in a run file's bytes, of this schema or an older one; raises as `read_run`."""
    try:
        data = json.loads(content)
    except ValueError as error:  # UnicodeDecodeError and JSONDecodeError are
        raise ValueError(f"{where}: not a readable run file: {error}") from error
    found = data.get("schema") if isinstance(data, dict) else None
    if found not in _READABLE:
        newer = isinstance(found, int) and found > SCHEMA
        hint = "; a newer precision-harness wrote it: update" if newer else ""
        raise ValueError(
            f"{where}: expected a run file of schema {SCHEMA} or older, found {found!r}{hint}"
        )
    try:
        run = Run.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        more = f" ({error.error_count()} mistakes)" if error.error_count() > 1 else ""
        raise ValueError(f"{where}: not a valid run file: {place}: {first['msg']}{more}") from error
    twice = _find_twice(run.records)
    if twice:
        raise ValueError(f"{where}: not a valid run file: two records of {twice}")
    return run


def _find_twice(records: tuple[Record, ...]) -> str | None:
    seen = set()
    for record in records:
        key = (record.cell.id, record.measurement, record.noise)
        if key in seen:
            return f"{record.cell.id}::{record.measurement}"
        seen.add(key)
    return None


def recover_journals(folder: Path) -> list[Path]:
    """Turn the journals of runs that were cut off into run files; returns the new files.

    A journal that a living process still holds is left alone; a last line cut in half by the
    death is dropped. One that cannot be read, such as that of another version, stays as
    ``*.journal.unreadable``.
    """
    recovered = []
    for journal in sorted(folder.glob("*.journal.jsonl")):
        with contextlib.suppress(FileNotFoundError), journal.open("rb") as file:
            if not _take_lock(file, journal):
                continue
            target = journal.with_name(journal.name.removesuffix(".journal.jsonl") + ".json")
            try:
                # Where the run file is there, the death came between writing it and this.
                run = None if target.exists() else _read_journal(file.read())
            except ValueError:
                journal.rename(journal.with_suffix(".unreadable"))
                continue
            if run is not None:
                recovered.append(write_run(run, target))
            journal.unlink()
    return recovered


def _take_lock(file: IO[bytes], path: Path) -> bool:
    """False where another process holds the file, or has removed it since it was opened."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except OSError:
        return False


def _read_journal(content: bytes) -> Run | None:
    """The run; None where no record was finished. Raises ValueError for a spoilt line."""
    complete = content.split(b"\n")[:-1]  # what follows the last line's end was cut off
    if len(complete) < 2:
        return None
    header = Run.model_validate_json(complete[0])
    records = tuple(Record.model_validate_json(line) for line in complete[1:])
    facts = header.run.model_copy(update={"interrupted": True})
    return header.model_copy(update={"run": facts, "records": records})
