"""Texts and item sets through `datasets`: embedded, local files or the hub. Worker only."""

from __future__ import annotations

import csv
import hashlib
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import InputError, UnavailableError
from harness.suite.data_source import DataSource

if TYPE_CHECKING:
    from harness.descriptions import MeasureContext

_BUILDERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}
_TOO_DEEP = "lists or objects lie too deep in one another; an item is an object of fields"


def load_text(source: DataSource, context: MeasureContext) -> tuple[str, str]:
    """A text as one string, and its SHA-256.

    A file of rows gives the column ``source.column`` (default 'text') joined by blank lines, as
    the WikiText-2 perplexities of the GPTQ papers do; any other file is taken whole, as UTF-8.
    Raises `InputError`, or `UnavailableError` where the hub would be needed and is not there.
    """
    kind, place = source.locate(context.suite_folder)
    if kind == "hub":
        text = _join_column(load_hub(source, context, source.split or "test"), source)
    elif Path(place).is_dir():
        raise InputError(f"text {source.path!r} is a folder; name a file in it")
    elif Path(place).suffix in _BUILDERS:
        builder = _BUILDERS[Path(place).suffix]
        options = _csv_as_text(_check_table(place)[0]) if builder == "csv" else {}
        text = _join_column(load_files(builder, {"text": place}, **options)["text"], source)
    else:
        text = _read_whole(place, source)
    if not text.strip():
        raise InputError(f"text {source.path!r} is empty")
    return text, hashlib.sha256(text.encode()).hexdigest()


def load_text_tables(files: Mapping[str, str], columns: Sequence[str]) -> dict[str, Any]:
    """CSV files without a heading line, every cell as the text it is.

    Raises `InputError` naming file and row where the number of cells is another.
    """
    for path in files.values():
        _check_table(path, len(columns))
    return load_files("csv", files, column_names=list(columns), **_csv_as_text(columns))


def load_rows(
    source: DataSource, context: MeasureContext, split: str
) -> Iterator[tuple[dict[str, Any], str]]:
    """Each item of a set as its fields, and the words that name its file and row in an error.

    A local file is jsonl, json (a list of objects), csv with a heading line, or parquet; of a hub
    dataset ``split`` is read unless the source names another. Rows count as an editor shows them:
    from 1, a csv file's heading included. Raises `InputError`, `UnavailableError`.
    """
    kind, place = source.locate(context.suite_folder)
    if kind == "hub":
        split = source.split or split
        rows = load_hub(source, context, split)
        return ((dict(row), f"{source.path} {split}, row {n}") for n, row in enumerate(rows, 1))
    name, suffix = Path(place).name, Path(place).suffix
    if Path(place).is_dir():
        raise InputError(f"data {source.path!r} is a folder; name a file in it")
    if suffix not in _BUILDERS:
        raise InputError(
            f"data {source.path!r}: expected a file of rows, one of {', '.join(_BUILDERS)}"
        )
    if _BUILDERS[suffix] == "json":
        return _read_json_rows(Path(place))
    options, first = {}, 1
    if suffix == ".csv":
        heading, count = _check_table(place)
        if count == 1:
            raise InputError(f"{name} has a heading line and no rows")
        if len(set(heading)) < len(heading):
            raise InputError(f"{name}: two columns have the same heading: {', '.join(heading)}")
        options, first = _csv_as_text(heading), 2
    rows = load_files(_BUILDERS[suffix], {"rows": place}, **options)["rows"]
    return ((dict(row), f"{name}, row {n}") for n, row in enumerate(rows, first))


def load_files(builder: str, files: Mapping[str, str], **options: Any) -> dict[str, Any]:
    """Read local files with one `datasets` builder; ``files`` maps a split name to a path."""
    import datasets

    # Kept in memory and away from the user's cache: local files change without changing name.
    with tempfile.TemporaryDirectory() as cache, _quiet_datasets():
        try:
            return dict(
                datasets.load_dataset(
                    builder,
                    data_files=dict(files),
                    cache_dir=cache,
                    keep_in_memory=True,
                    **options,
                )
            )
        except (datasets.exceptions.DatasetGenerationError, ValueError) as error:
            cause = error.__cause__ or error
            raise InputError(f"cannot read {', '.join(files.values())}: {cause}") from error


def load_hub(source: DataSource, context: MeasureContext, split: str) -> Any:
    """One split of a hub dataset, from the local cache where the hub cannot be reached."""
    import datasets

    with _quiet_datasets():
        try:
            return datasets.load_dataset(
                source.path, source.name, split=split, revision=source.revision
            )
        except datasets.exceptions.DatasetNotFoundError as error:
            # An OSError too, and what datasets says of anything it cannot reach.
            if context.online:
                raise InputError(
                    f"no dataset {source.path!r} on the hub, or private and no token given: "
                    "check the id or set HF_TOKEN"
                ) from error
            raise UnavailableError(
                f"dataset {source.path!r} is not on this machine, and the hub cannot be reached"
            ) from error
        except (OSError, ConnectionError) as error:
            where = "" if context.online else ", and the hub cannot be reached"
            raise UnavailableError(
                f"dataset {source.path!r} is not on this machine{where}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        except (ValueError, datasets.exceptions.DatasetsError) as error:
            raise InputError(f"dataset {source.path!r}: {error}") from error


def _read_json_rows(path: Path) -> Iterator[tuple[dict[str, Any], str]]:
    """Line by line, by hand.

    The reader of `datasets` makes a time of the string '2019-01-01', fills up missing fields and
    does not say which line is broken.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path.name} is not UTF-8: {error}") from error
    whole = text.lstrip().startswith("[")
    try:
        rows = enumerate(json.loads(text) if whole else text.split("\n"), 1)
    except ValueError as error:  # JSONDecodeError, or a number of thousands of digits
        raise InputError(f"{path.name} is no JSON: {error}") from error
    except RecursionError as error:
        raise InputError(f"{path.name}: {_TOO_DEEP}") from error
    for number, row in rows:
        where = f"{path.name}, row {number}"
        if not whole:
            if not row.strip():
                continue
            try:
                row = json.loads(row)
            except ValueError as error:
                raise InputError(f"{where}: no JSON: {error}") from error
            except RecursionError as error:
                raise InputError(f"{where}: {_TOO_DEEP}") from error
        if not isinstance(row, dict):
            raise InputError(f"{where}: expected an object {{…}} with an item's fields")
        _check_characters(row, where)
        yield row, where


def _check_characters(row: Mapping[str, Any], where: str) -> None:
    r"""JSON can write half a character, ``\ud83d``, which no text and no tokenizer can take."""
    for name, value in row.items():
        half = _find_half(name, value, where)
        if half:
            raise InputError(
                f"{where}: field {name!a} holds {half!a}, half of a character (a lone surrogate)"
            )


def _find_half(name: str, value: Any, where: str) -> str | None:
    try:
        (name + json.dumps(value, ensure_ascii=False)).encode()
    except UnicodeEncodeError as error:
        return str(error.object[error.start])
    except RecursionError as error:  # the writer's depth may be less than the reader's
        raise InputError(f"{where}: {_TOO_DEEP}") from error
    return None


def _check_table(path: str, columns: int | None = None) -> tuple[list[str], int]:
    """The first row of a CSV file, and how many it has.

    Its rows must all have ``columns`` cells, or as many as the first.

    pandas, which reads them, shifts every cell of a row that has one too many, and fills up a row
    that has too few.
    """
    first: list[str] | None = None
    number = 0
    place = Path(path).name
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:
            for number, cells in enumerate(filter(None, csv.reader(file)), 1):
                first = cells if first is None else first
                expected = columns or len(first)
                if len(cells) != expected:
                    raise InputError(
                        f"{place}, row {number}: expected {expected} columns, found {len(cells)}"
                    )
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"cannot read {place}: {error}") from error
    if first is None:
        raise InputError(f"{place} is empty")
    return first, number


def _csv_as_text(columns: Sequence[str]) -> dict[str, Any]:
    """Else 0.10 would become 0.1, and 'None' or 'NA' a missing value."""
    import datasets

    text = datasets.Features({name: datasets.Value("string") for name in columns})
    return {"features": text, "na_filter": False}


def _join_column(rows: Any, source: DataSource) -> str:
    column = source.column or "text"
    if column not in rows.column_names:
        raise InputError(
            f"{source.path!r} has no column {column!r}; it has {', '.join(rows.column_names)}"
        )
    cells = list(rows[column])
    for number, cell in enumerate(cells, 1):
        if not isinstance(cell, str):
            raise InputError(
                f"{source.path!r}, row {number}: column {column!r} holds {cell!r}, not a text"
            )
    return "\n\n".join(cells)


def _read_whole(place: str, source: DataSource) -> str:
    """Byte for byte: `datasets` would turn every CRLF into LF."""
    try:
        return Path(place).read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"text {source.path!r} is not UTF-8: {error}") from error


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    yield
