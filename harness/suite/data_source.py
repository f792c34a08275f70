"""Where a text or a set of items comes from: embedded, a local path, or a hub dataset."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from harness.descriptions import OptionsBase

BUILTIN = "builtin:"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FILE_SUFFIXES = {".txt", ".raw", ".csv", ".json", ".jsonl", ".parquet", ".md"}


class DataSource(OptionsBase):
    """Where a text or a set of items comes from: embedded, a local path, or a hub dataset.

    A plain string in the suite stands for ``{path: string}``. Local paths are relative to the
    suite file. ``name``, ``split``, ``column`` and ``revision`` are those of
    ``datasets.load_dataset``.
    """

    path: str = Field(min_length=1)
    name: str | None = None
    split: str | None = None
    column: str | None = None
    revision: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _accept_string(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str) else given

    def locate(self, folder: Path) -> tuple[Literal["builtin", "local", "hub"], str]:
        """Kind and place; ``folder`` is the suite file's. Raises FileNotFoundError, ValueError."""
        return locate_source(self.path, folder)


def locate_source(source: str, folder: Path) -> tuple[Literal["builtin", "local", "hub"], str]:
    """Tell an embedded name, a local path (made absolute) and a hub id apart.

    Raises FileNotFoundError for what can only be a local path and is not there, ValueError for
    what is none of the three or an embedded name that does not exist.
    """
    if source.startswith(BUILTIN):
        from harness.builtin import locate_builtin

        return "builtin", str(locate_builtin(source))
    path = (folder / Path(source).expanduser()).resolve()
    if path.exists():
        return "local", str(path)
    looks_local = source[0] in "./~" or source.count("/") > 1
    if looks_local or Path(source).suffix in _FILE_SUFFIXES:
        raise FileNotFoundError(f"no such file or folder: {source!r} (relative to the suite file)")
    if not _HUB_ID.fullmatch(source):
        raise ValueError(
            f"{source!r} is neither an existing path, 'builtin:NAME' nor a hub id 'owner/name'"
        )
    return "hub", source


def list_data_sources(options: OptionsBase) -> list[tuple[str, DataSource]]:
    """The fields of a measurement's options that say where texts or items come from."""
    return [(name, value) for name, value in options if isinstance(value, DataSource)]
