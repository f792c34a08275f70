"""Texts and item sets through `datasets`: embedded, local files or the hub. Worker only."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import InputError, UnavailableError
from harness.options import DataSource

if TYPE_CHECKING:
    from harness.metrics._forward import MeasureContext

_BUILDERS = {".csv": "csv", ".json": "json", ".jsonl": "json", ".parquet": "parquet"}


def load_text(source: DataSource, context: MeasureContext) -> tuple[str, str]:
    """A text as one string, and its SHA-256.

    A file of rows gives the column ``source.column`` (default 'text') joined by blank lines, as
    the WikiText-2 perplexities of the GPTQ papers do; any other file is taken whole.
    Raises `InputError`, or `UnavailableError` where the hub would be needed and is not there.
    """
    kind, place = source.locate(context.suite_folder)
    if kind == "hub":
        text = _join_column(load_hub(source, context, source.split or "test"), source)
    elif Path(place).is_dir():
        raise InputError(f"text {source.path!r} is a folder; name a file in it")
    elif Path(place).suffix in _BUILDERS:
        builder = _BUILDERS[Path(place).suffix]
        text = _join_column(load_files(builder, {"text": place})["text"], source)
    else:
        text = _read_whole(place, source)
    if not text.strip():
        raise InputError(f"text {source.path!r} is empty")
    return text, hashlib.sha256(text.encode()).hexdigest()


def load_text_tables(files: Mapping[str, str], columns: Sequence[str]) -> dict[str, Any]:
    """CSV files without a heading line, every cell as the text it is."""
    import datasets

    text = datasets.Features({name: datasets.Value("string") for name in columns})
    return load_files("csv", files, column_names=list(columns), features=text, na_filter=False)


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
        except (OSError, ConnectionError) as error:
            where = "" if context.online else ", and the hub cannot be reached"
            raise UnavailableError(
                f"dataset {source.path!r} is not on this machine{where}: "
                f"{str(error).splitlines()[0]}"
            ) from error
        except (ValueError, datasets.exceptions.DatasetsError) as error:
            raise InputError(f"dataset {source.path!r}: {error}") from error


def _join_column(rows: Any, source: DataSource) -> str:
    column = source.column or "text"
    if column not in rows.column_names:
        raise InputError(
            f"{source.path!r} has no column {column!r}; it has {', '.join(rows.column_names)}"
        )
    return "\n\n".join(str(cell) for cell in rows[column])


def _read_whole(place: str, source: DataSource) -> str:
    if Path(place).stat().st_size == 0:  # datasets raises an unrelated IndexError here
        raise InputError(f"text {source.path!r} is empty")
    documents = load_files("text", {"text": place}, sample_by="document")["text"]
    return "".join(documents["text"])


@contextmanager
def _quiet_datasets() -> Iterator[None]:
    import datasets

    datasets.disable_progress_bars()
    datasets.logging.set_verbosity_error()
    yield
