"""The vocabulary in which precisions, metrics and tasks declare themselves.

Imported everywhere, so it imports nothing heavy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

BUILTIN = "builtin:"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FILE_SUFFIXES = {".txt", ".raw", ".csv", ".json", ".jsonl", ".parquet", ".md"}


class OptionsBase(BaseModel):
    """Base of everything a suite file sets: unknown keys refused, types strict, frozen.

    ``BATCH`` names the field that says only how much goes through the model at once: one that the
    numbers must not depend on.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
    BATCH: ClassVar[str | None] = None


@dataclass(frozen=True)
class Margin:
    """How much worse is still the same: the larger of ``absolute`` and ``relative`` of the value.

    Of a paired value it is that of the value it compares (``of``), and in its unit.
    """

    absolute: float = 0.0
    relative: float = 0.0

    def of(self, value: float) -> float:
        """The margin around ``value``, in its unit."""
        return max(self.absolute, self.relative * abs(value))


@dataclass(frozen=True)
class ValueSpec:
    """One value a measurement reports.

    ``per`` names what a bracketed qualifier stands for (``decode_tokens_per_s[8]``: batch size);
    ``paired`` marks values that exist only beside the reference's record; ``of`` names the value
    that such a one compares, ``neutral`` the number that says "no difference" (1 for ratios,
    None where there is no such number, and so no noise floor). ``sampled`` says what the value
    is a sample of, so that a limit on it needs an interval: the items of a text or task, or
    processes; None for what is exact, or has no known spread. ``margin`` marks the values that
    runs are compared by (the paired ones) and thresholds kept of (the others).
    """

    unit: str
    better: Literal["lower", "higher"] | None
    help: str
    per: str | None = None
    paired: bool = False
    of: str | None = None
    neutral: float | None = 0.0
    sampled: Literal["items", "processes"] | None = None
    margin: Margin | None = None


@dataclass(frozen=True)
class Column:
    """One column of the summary: ``value`` may name a paired value; ``scale`` divides it.

    ``stderr`` has the standard error shown behind it.
    """

    title: str
    value: str
    format: str
    scale: float = 1.0
    stderr: bool = False


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


def vary_batch(options: OptionsBase) -> OptionsBase:
    """The same measurement with batches half as large, or of two where they hold one."""
    if options.BATCH is None:
        return options
    size = getattr(options, options.BATCH)
    return options.model_copy(update={options.BATCH: size // 2 if size > 1 else 2})
