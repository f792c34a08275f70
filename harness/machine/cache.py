"""What is in the cache folder, how much it may hold, and how it is removed.

Several runs may use, fill and clear the folder at the same time: what is stored appears whole by a
rename, and is renamed before it is removed. Does not know what the entries contain.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from harness.errors import InputError
from harness.machine.files import cache_folder
from harness.suite.models import Memory

KINDS = ("references", "distributions", "questions", "casts")
LIMIT_VARIABLE = "PRECISION_HARNESS_CACHE_LIMIT"
DEFAULT_LIMIT = 20 << 30
# Between two cells of a run no process holds the reference's distribution: what was used within
# this time may belong to a run that goes on.
_IN_USE_S = 3600.0


@dataclass(frozen=True)
class Entry:
    """A file or folder of the cache; ``last_used`` is in seconds since the epoch."""

    kind: str
    path: Path
    bytes: int
    last_used: float

    @property
    def in_use(self) -> bool:
        """Used within the last hour, so perhaps still."""
        return time.time() - self.last_used < _IN_USE_S

    @property
    def unfinished(self) -> bool:
        """Being written, or its writer died."""
        return self.path.name.startswith(".")


def list_entries(kinds: Iterable[str] = KINDS) -> list[Entry]:
    """Everything stored, the longest unused first; skips what disappears meanwhile."""
    found = []
    for kind in kinds:
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in (cache_folder() / kind).iterdir():
                with contextlib.suppress(FileNotFoundError):
                    found.append(_inspect(kind, path))
    return sorted(found, key=lambda entry: entry.last_used)


def mark_used(path: Path) -> None:
    """Note that an entry is used now; without effect where that cannot be written."""
    with contextlib.suppress(OSError):
        os.utime(path)


def limit_bytes() -> int:
    """How much the folder may hold, ``$PRECISION_HARNESS_CACHE_LIMIT`` or 20 GiB.

    Raises `InputError` where the variable is not a size.
    """
    given = os.environ.get(LIMIT_VARIABLE)
    try:
        return TypeAdapter(Memory).validate_python(given.strip()) if given else DEFAULT_LIMIT
    except ValidationError as error:
        expected = "expected bytes such as 20GiB or 500MB"
        raise InputError(f"{LIMIT_VARIABLE}={given}: {expected}") from error


def make_room(needed: int, what: str, advice: str) -> None:
    """Remove the longest unused distributions until ``needed`` more bytes fit limit and disk.

    What was used within the last hour stays, even where that passes the limit: a run of several
    models must not lose what it is about to read. Raises `InputError`, naming ``what`` is to be
    stored and the ``advice``, where that alone is larger than the limit or the disk has no room.
    """
    limit, folder = limit_bytes(), cache_folder()
    size = f"{what} takes {format_bytes(needed)}"
    if needed > limit:
        raise InputError(
            f"{size}, the cache may hold {format_bytes(limit)}: {advice}, or set "
            f"{LIMIT_VARIABLE}={-(-needed // (1 << 30))}GiB"
        )
    folder.mkdir(parents=True, exist_ok=True)
    entries = list_entries()
    held = sum(entry.bytes for entry in entries)
    for entry in entries:
        if held + needed <= limit and shutil.disk_usage(folder).free >= needed:
            return
        # Records and questions are small, and removing a record costs a whole measurement.
        if entry.kind == "distributions" and not entry.in_use:
            remove(entry.path)
            held -= entry.bytes
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise InputError(
            f"{size}, the disk of {folder} has {format_bytes(free)} left: {advice}, see "
            "`harness cache`, or set PRECISION_HARNESS_CACHE to a folder on a larger disk"
        )


def clear(kinds: Iterable[str] = KINDS) -> tuple[list[Entry], list[Entry]]:
    """Remove these kinds; returns what was removed and what another run is still writing."""
    entries = list_entries(kinds)
    written = [entry for entry in entries if entry.unfinished and entry.in_use]
    removed = [entry for entry in entries if entry not in written and remove(entry.path)]
    return removed, written


def remove(path: Path) -> bool:
    """Remove a file or a folder, out of sight first; False where another process already did."""
    try:
        with tempfile.TemporaryDirectory(
            prefix=".removed-", dir=path.parent, ignore_cleanup_errors=True
        ) as grave:
            os.rename(path, Path(grave) / path.name)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise InputError(f"cannot remove {path}: {error.strerror}") from error
    return True


def format_bytes(number: float) -> str:
    """``3.4 GiB``: three digits in the largest unit that leaves at least 1."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:.3g} {unit}" if number < 999.5 else f"{number:.0f} {unit}"
        number /= 1024
    return f"{number:.3g} TiB"


def _inspect(kind: str, path: Path) -> Entry:
    own = path.stat()
    if not path.is_dir():
        # Reading a record marks nothing; where the disk notes access times, that counts as use.
        return Entry(kind, path, own.st_size, max(own.st_mtime, own.st_atime))
    parts = []
    for part in path.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            parts.append(part.stat())
    last_used = max([own.st_mtime, *(part.st_mtime for part in parts)])
    return Entry(kind, path, sum(part.st_size for part in parts), last_used)
