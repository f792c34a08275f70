"""The journal of a run that goes on: finished records on disk."""

import contextlib
import fcntl
import os
from pathlib import Path
from typing import IO

from pydantic import BaseModel

from harness.records.record import Record, dump_json
from harness.records.run_file import SCHEMA, Run, write_run


class Journal:
    """An append-only file of finished records, so that nothing measured is ever lost.

    The first line is the run without its records, each further line one record, again where more
    of it was measured. The file is locked while its process lives; an unlocked journal belongs to a
    run that was cut off.
    """

    def __init__(self, path: Path, header: Run) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self.path = path
        # Locked under another name first: a journal that is visible and unlocked is an orphan.
        hidden = path.with_name(f".{path.name}.{os.getpid()}")
        self._file = hidden.open("x", encoding="utf-8")
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.append(header)
        os.rename(hidden, path)

    def append(self, entry: BaseModel) -> None:
        """Write one record through to the disk."""
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


def recover_journals(folder: Path) -> list[Path]:
    """Turn the journals of runs that were cut off into run files; returns the new files.

    A journal that a living process still holds is not touched; a last line that was cut in half
    is dropped. One that cannot be read, for example of another version, stays as
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
    found = map(Record.model_validate_json, complete[1:])
    # Of one that was written again, with more, the last counts.
    by_name = {(record.cell.id, record.measurement, record.noise): record for record in found}
    records = tuple(by_name.values())
    remark = f"cut off before its end: {len(records)} measurements were finished"
    facts = header.run.model_copy(update={"interrupted": True, "remarks": (remark,)})
    update = {"schema_version": SCHEMA, "run": facts, "records": records}
    return header.model_copy(update=update)
