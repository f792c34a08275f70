"""Texts and item sets: embedded, local files or the hub.

`datasets` reads the hub and parquet files. Of csv and json files it would shift the cells of a row
that has one too many, fill up short rows, turn the text '2019-01-01' into a time and 0.10 into 0.1,
and not say which line is broken: these are read by Python's own readers.
"""

import csv
import hashlib
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from harness.descriptions import MeasureContext
from harness.errors import InputError, UnavailableError
from harness.suite.data_source import DataSource

Fields = dict[str, Any]
# The fields of one item, and the words that name its file and row in an error.
Rows = Iterator[tuple[Fields, str]]

datasets.disable_progress_bars()
datasets.logging.set_verbosity_error()


def load_text(source: DataSource, context: MeasureContext) -> tuple[str, str]:
    """A text as one string, and its SHA-256.

    A file of rows gives the column ``source.column`` (default 'text') joined by blank lines, as
    the WikiText-2 perplexities of the GPTQ papers do; any other file is taken whole, as UTF-8.
    Raises `InputError`, or `UnavailableError` where the hub would be needed and is not there.
    """
    kind, place = source.locate(context.suite_folder)
    if kind == "hub" or Path(place).suffix in _READERS or Path(place).is_dir():
        name, cells = source.column or "text", []
        for fields, where in read_rows(source, context, "test"):
            if name not in fields:
                shown = ", ".join(fields)
                raise InputError(f"{source.path!r} has no column {name!r}; it has {shown}")
            if not isinstance(fields[name], str):
                raise InputError(
                    f"{where}: column {name!r} holds {fields[name]!r}, expected a text"
                )
            cells.append(fields[name])
        text = "\n\n".join(cells)
    else:
        text = _read_utf_8(Path(place))
    if not text.strip():
        raise InputError(f"text {source.path!r} is empty")
    return text, hashlib.sha256(text.encode()).hexdigest()


def read_rows(source: DataSource, context: MeasureContext, split: str) -> Rows:
    """Each item of a set as its fields, and the words that name its file and row in an error.

    A local file is jsonl, json (a list of objects), csv with a heading line, or parquet; of a hub
    dataset ``split`` is read unless the source names another. Rows count as an editor shows them:
    from 1, a csv file's heading included. Raises `InputError`, `UnavailableError`.
    """
    kind, place = source.locate(context.suite_folder)
    if kind == "hub":
        return _load_hub(source, context, source.split or split)
    path = Path(place)
    if path.is_dir():
        raise InputError(f"{source.path!r} is a folder; name a file in it")
    if path.suffix not in _READERS:
        known = ", ".join(_READERS)
        raise InputError(f"data {source.path!r}: expected a file of rows, one of {known}")
    return _READERS[path.suffix](path)


def read_csv(path: Path, columns: Sequence[str] | None = None) -> Rows:
    """Each row of a csv file as texts by column; see `read_rows`.

    The first row holds the names of the columns unless ``columns`` gives them. Raises `InputError`
    for an empty file and where a row has another number of cells.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(filter(None, csv.reader(file)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path.name}: {error}") from error
    if not rows:
        raise InputError(f"{path.name} is empty")
    names = columns or rows[0]
    if len(set(names)) < len(names):
        raise InputError(f"{path.name}: two columns have the same heading: {', '.join(names)}")
    for number, cells in enumerate(rows, 1):
        where = f"{path.name}, row {number}"
        if len(cells) != len(names):
            raise InputError(f"{where}: expected {len(names)} columns, found {len(cells)}")
        if columns or number > 1:
            yield dict(zip(names, cells, strict=True)), where


def _read_json(path: Path) -> Rows:
    """The objects of a json list, or one per line."""
    text, where = _read_utf_8(path).removeprefix("\ufeff"), path.name
    try:
        whole = json.loads(text) if text.lstrip().startswith("[") else None
        for number, row in enumerate(text.split("\n") if whole is None else whole, 1):
            if whole is None and not row.strip():
                continue
            where = f"{path.name}, row {number}"
            fields = json.loads(row) if whole is None else row
            if not isinstance(fields, dict):
                raise InputError(f"{where}: expected an object {{…}} with an item's fields")
            for name, value in fields.items():
                # JSON can write half a character, which no text and no tokenizer can take.
                written = name + json.dumps(value, ensure_ascii=False)
                if half := re.search("[\ud800-\udfff]", written):
                    shown = f"field {name!a} holds {half[0]!a}"
                    raise InputError(f"{where}: {shown}, half of a character (a lone surrogate)")
            yield fields, where
    except InputError:
        raise
    except ValueError as error:  # JSONDecodeError, or a number of thousands of digits
        raise InputError(f"{where}: no JSON: {error}") from error
    except RecursionError as error:
        raise InputError(
            f"{where}: lists or objects lie too deep in one another; an item is an object of fields"
        ) from error


def _read_parquet(path: Path) -> Rows:
    # Kept in memory and away from the user's cache: local files change without changing name.
    with tempfile.TemporaryDirectory() as cache:
        try:
            rows = datasets.load_dataset(
                "parquet",
                data_files={"rows": str(path)},
                split="rows",
                cache_dir=cache,
                keep_in_memory=True,
            )
        except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error.__cause__ or error}") from error
    return _number_rows(rows, path.name)


_READERS = {".csv": read_csv, ".json": _read_json, ".jsonl": _read_json, ".parquet": _read_parquet}


def _load_hub(source: DataSource, context: MeasureContext, split: str) -> Rows:
    """One split of a hub dataset, from the local cache where the hub cannot be reached."""
    try:
        rows = datasets.load_dataset(
            source.path, source.name, split=split, revision=source.revision
        )
    except (OSError, ValueError, datasets.exceptions.DatasetsError) as error:
        # DatasetNotFoundError is an OSError, raised for whatever cannot be reached, too.
        if context.online and isinstance(error, datasets.exceptions.DatasetNotFoundError):
            raise InputError(
                f"no dataset {source.path!r} on the hub, or private and no token given: "
                "check the id or set HF_TOKEN"
            ) from error
        if not isinstance(error, OSError):
            raise InputError(f"dataset {source.path!r}: {error}") from error
        first_line = str(error).partition("\n")[0]
        where = "" if context.online else ", and the hub cannot be reached"
        raise UnavailableError(
            f"dataset {source.path!r} is not on this machine{where} "
            f"(nor does the suite's folder hold a file or folder of that name): {first_line}"
        ) from error
    return _number_rows(rows, f"{source.path} {split}")


def _number_rows(rows: Iterable[Fields], name: str) -> Rows:
    return ((dict(row), f"{name}, row {number}") for number, row in enumerate(rows, 1))


def _read_utf_8(path: Path) -> str:
    """Byte for byte: `datasets` would turn every CRLF into LF."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not UTF-8: {error}") from error
