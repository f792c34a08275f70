"""Texts and item sets through `datasets`: embedded, local files or the hub.

`datasets` reads the hub and parquet files. Of csv and json files it would shift the cells of a row
that has one too many, fill up short rows, turn the text '2019-01-01' into a time and 0.10 into 0.1,
and not say which line is broken: these are read by Python's own readers, and csv cells handed on
as a `datasets.Dataset` of texts.
"""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import datasets

from harness.descriptions import MeasureContext
from harness.errors import InputError, UnavailableError
from harness.suite.data_source import DataSource

Fields = dict[str, Any]
_SUFFIXES = (".csv", ".json", ".jsonl", ".parquet")
_TOO_DEEP = "lists or objects lie too deep in one another; an item is an object of fields"

datasets.disable_progress_bars()
datasets.logging.set_verbosity_error()


def load_text(source: DataSource, context: MeasureContext) -> tuple[str, str]:
    """A text as one string, and its SHA-256.

    A file of rows gives the column ``source.column`` (default 'text') joined by blank lines, as
    the WikiText-2 perplexities of the GPTQ papers do; any other file is taken whole, as UTF-8.
    Raises `InputError`, or `UnavailableError` where the hub would be needed and is not there.
    """
    kind, place = source.locate(context.suite_folder)
    if kind == "hub" or Path(place).suffix in _SUFFIXES or Path(place).is_dir():
        column = source.column or "text"
        text = "\n\n".join(_read_cells(read_rows(source, context, "test"), source, column))
    else:
        text = _read_utf_8(Path(place))
    if not text.strip():
        raise InputError(f"text {source.path!r} is empty")
    return text, hashlib.sha256(text.encode()).hexdigest()


def read_rows(
    source: DataSource, context: MeasureContext, split: str
) -> Iterator[tuple[Fields, str]]:
    """Each item of a set as its fields, and the words that name its file and row in an error.

    A local file is jsonl, json (a list of objects), csv with a heading line, or parquet; of a hub
    dataset ``split`` is read unless the source names another. Rows count as an editor shows them:
    from 1, a csv file's heading included. Raises `InputError`, `UnavailableError`.
    """
    kind, place = source.locate(context.suite_folder)
    if kind == "hub":
        split = source.split or split
        return _name_rows(_load_hub(source, context, split), f"{source.path} {split}")
    path = Path(place)
    if path.is_dir():
        raise InputError(f"{source.path!r} is a folder; name a file in it")
    if path.suffix not in _SUFFIXES:
        raise InputError(
            f"data {source.path!r}: expected a file of rows, one of {', '.join(_SUFFIXES)}"
        )
    if path.suffix == ".csv":
        return read_csv(path)
    return (
        _name_rows(_load_parquet(path), path.name)
        if path.suffix == ".parquet"
        else _read_json(path)
    )


def read_csv(path: Path, columns: Sequence[str] | None = None) -> Iterator[tuple[Fields, str]]:
    """Each row of a csv file as texts by column, and the words that name it in an error.

    The first row holds the names of the columns unless ``columns`` gives them. Raises `InputError`
    for a file without rows and where a row has another number of cells.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            rows = list(filter(None, csv.reader(file)))
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {path.name}: {error}") from error
    if not rows:
        raise InputError(f"{path.name} is empty")
    heading = list(columns or rows[0])
    for number, cells in enumerate(rows, 1):
        if len(cells) != len(heading):
            raise InputError(
                f"{path.name}, row {number}: expected {len(heading)} columns, found {len(cells)}"
            )
    if columns is None and len(rows) == 1:
        raise InputError(f"{path.name} has a heading line and no rows")
    if len(set(heading)) < len(heading):
        raise InputError(f"{path.name}: two columns have the same heading: {', '.join(heading)}")
    cells_by_column = zip(*(rows if columns else rows[1:]), strict=True)
    table = datasets.Dataset.from_dict(
        {name: list(cells) for name, cells in zip(heading, cells_by_column, strict=True)}
    )
    return _name_rows(table, path.name, 1 if columns else 2)


def _name_rows(rows: Iterable[Fields], name: str, first: int = 1) -> Iterator[tuple[Fields, str]]:
    return ((dict(row), f"{name}, row {number}") for number, row in enumerate(rows, first))


def _load_parquet(path: Path) -> Any:
    # Kept in memory and away from the user's cache: local files change without changing name.
    with tempfile.TemporaryDirectory() as cache:
        try:
            return datasets.load_dataset(
                "parquet",
                data_files={"rows": str(path)},
                split="rows",
                cache_dir=cache,
                keep_in_memory=True,
            )
        except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
            raise InputError(f"cannot read {path}: {error.__cause__ or error}") from error


def _load_hub(source: DataSource, context: MeasureContext, split: str) -> Any:
    """One split of a hub dataset, from the local cache where the hub cannot be reached."""
    try:
        return datasets.load_dataset(
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
            f"dataset {source.path!r} is not on this machine{where}: {first_line}"
        ) from error


def _read_json(path: Path) -> Iterator[tuple[Fields, str]]:
    """The objects of a json list, or one per line."""
    text = _read_utf_8(path).removeprefix("\ufeff")
    if text.lstrip().startswith("["):
        rows: Iterable[tuple[int, Any]] = enumerate(_parse_json(text, path.name), 1)
    else:
        lines = enumerate(text.split("\n"), 1)
        rows = (
            (i, _parse_json(line, f"{path.name}, row {i}")) for i, line in lines if line.strip()
        )
    for number, row in rows:
        where = f"{path.name}, row {number}"
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object {{…}} with an item's fields")
        for name, value in row.items():
            _check_characters(name, value, where)
        yield row, where


def _parse_json(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:  # JSONDecodeError, or a number of thousands of digits
        raise InputError(f"{where}: no JSON: {error}") from error
    except RecursionError as error:
        raise InputError(f"{where}: {_TOO_DEEP}") from error


def _check_characters(name: str, value: Any, where: str) -> None:
    r"""JSON can write half a character, ``\ud83d``, which no text and no tokenizer can take."""
    try:
        (name + json.dumps(value, ensure_ascii=False)).encode()
    except UnicodeEncodeError as error:
        half = str(error.object[error.start])
        raise InputError(
            f"{where}: field {name!a} holds {half!a}, half of a character (a lone surrogate)"
        ) from error
    except RecursionError as error:  # the writer's depth may be less than the reader's
        raise InputError(f"{where}: {_TOO_DEEP}") from error


def _read_cells(
    rows: Iterable[tuple[Fields, str]], source: DataSource, column: str
) -> Iterator[str]:
    for fields, where in rows:
        if column not in fields:
            raise InputError(
                f"{source.path!r} has no column {column!r}; it has {', '.join(fields)}"
            )
        if not isinstance(fields[column], str):
            raise InputError(
                f"{where}: column {column!r} holds {fields[column]!r}, expected a text"
            )
        yield fields[column]


def _read_utf_8(path: Path) -> str:
    """Byte for byte: `datasets` would turn every CRLF into LF."""
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not UTF-8: {error}") from error
