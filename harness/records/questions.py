"""The questions of a record's rows: stored once for all records that ask them, not in each.

A file holds one item per line, in the order of the rows, and is named by its content. The worker
leaves it in the cache; the run copies it to `items/` next to its run file, where it outlives the
cache. It is for reading only: without it no number is missing, and no run fails for it.
"""

import contextlib
import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.catalog import load_measurement
from harness.machine.files import cache_folder, write_atomically
from harness.records.record import Record

KEY = "questions"  # of a record's items: the name of its file
FOLDER = "items"  # next to the run file
_NAME = re.compile(r"[0-9a-f]{16}\.jsonl\.gz")

# The content of a file next to a run file, by its name relative to it; None where there is none.
ReadBeside = Callable[[str], bytes | None]


@dataclass(frozen=True)
class Item:
    """One question without the examples before it.

    ``answer`` is the index of the right one of ``choices``, or a text where there are none.
    """

    id: str
    question: str
    choices: tuple[str, ...]
    answer: int | str


@dataclass(frozen=True)
class Question:
    """A prompt, the texts that may follow it after ``delimiter``, and the index of the right one.

    ``prompts`` holds one per option where they differ, as in WinoGrande. ``asked`` and ``choices``
    are for a reader: the question without examples, and what is to be chosen from, where these are
    not the prompt and the options.
    """

    id: str
    subject: str
    prompt: str
    options: tuple[str, ...]
    answer: int
    delimiter: str = " "
    prompts: tuple[str, ...] | None = None
    asked: str | None = None
    choices: tuple[str, ...] | None = None

    def prompt_of(self, option: int) -> str:
        """The text that option number ``option`` follows."""
        return self.prompt if self.prompts is None else self.prompts[option]

    def for_reader(self) -> Item:
        """The question as it is stored next to the run file; a single option is its answer."""
        asked = self.prompt if self.asked is None else self.asked
        if len(self.options) == 1:
            return Item(self.id, asked, (), self.options[0].strip())
        return Item(self.id, asked, self.choices or self.options, self.answer)


def read_items(name: str, content: bytes) -> list[Item]:
    """The items of one file; raises ValueError where the content does not match the name."""
    try:
        lines = gzip.decompress(content)
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{FOLDER}/{name} is damaged: {error}") from error
    if _name(lines) != name:
        raise ValueError(f"{FOLDER}/{name} is damaged: its content has changed")
    rows = map(json.loads, lines.splitlines())
    return [Item(**{**row, "choices": tuple(row["choices"])}) for row in rows]


def keep_questions(items: Iterable[Item]) -> str:
    """Leave the items in the cache, if it can be written; returns the name of their file."""
    text = "".join(json.dumps(vars(item), ensure_ascii=False) + "\n" for item in items)
    # Half a character becomes its JSON escape, which reads as the same.
    lines = text.encode(errors="backslashreplace")
    place = _cached(_name(lines))
    with contextlib.suppress(OSError):
        if not place.exists():
            write_atomically(place, gzip.compress(lines, mtime=0))
    return place.name


def fetch_questions(record: Record, folder: Path) -> None:
    """Copy the record's questions next to the run files in ``folder``, where the cache has them."""
    name = record.items.get(KEY)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return
    target = folder / FOLDER / name
    with contextlib.suppress(OSError):
        content = _cached(name).read_bytes()
        try:
            read_items(name, content)
        except ValueError:
            _cached(name).unlink()  # the next measurement leaves a new one
        else:
            if not target.exists() or target.read_bytes() != content:
                write_atomically(target, content)


def open_questions(record: Record, read_beside: ReadBeside) -> list[Item] | str:
    """The record's questions, or in words why they are not available."""
    name = record.items.get(KEY)
    if name is None:
        return "the record names no file of them; it was measured before they were kept"
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        return f"{name!r} is not the name of a file of questions"
    content = read_beside(f"{FOLDER}/{name}")
    if content is None:
        return f"{FOLDER}/{name} is not there"
    try:
        items = read_items(name, content)
    except ValueError as error:
        return str(error)
    specs = load_measurement(record.measurement).values.values()
    asked = next(len(record.items[spec.row]) for spec in specs if spec.row in record.items)
    if len(items) != asked:
        return f"{FOLDER}/{name} holds {len(items)} items, the record {asked}"
    return items


def _name(lines: bytes) -> str:
    return f"{hashlib.sha256(lines).hexdigest()[:16]}.jsonl.gz"


def _cached(name: str) -> Path:
    return cache_folder() / "questions" / name
