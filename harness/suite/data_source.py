"""Where a text or a set of items comes from: embedded, a local path, or a hub dataset."""

import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args

from pydantic import AfterValidator, Field, ValidationInfo, model_validator

from harness.builtin import locate_builtin
from harness.descriptions import OptionsBase
from harness.errors import InputError

SourceKind = Literal["builtin", "local", "hub"]
BUILTIN = "builtin:"
_HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
_FILE_SUFFIXES = {".txt", ".raw", ".csv", ".json", ".jsonl", ".parquet", ".md"}


def locate_source(source: str, folder: Path) -> tuple[SourceKind, str]:
    """Tell an embedded name, a local path (made absolute) and a hub id apart.

    Raises `InputError` for what is none of the three, or does not exist here.
    """
    if source.startswith(BUILTIN):
        return "builtin", str(locate_builtin(source))
    path = (folder / Path(source).expanduser()).resolve()
    if path.exists():
        return "local", str(path)
    looks_local = source[0] in "./~" or source.count("/") > 1
    if looks_local or Path(source).suffix in _FILE_SUFFIXES:
        raise InputError(f"no such file or folder: {source!r} (relative to the suite file)")
    if not _HUB_ID.fullmatch(source):
        raise InputError(
            f"{source!r} is neither an existing path, 'builtin:NAME' nor a hub id 'owner/name'"
        )
    return "hub", source


def _check_exists(source: str, info: ValidationInfo) -> str:
    """Refuse a source that does not exist, where a suite's folder is known; asks no hub."""
    if info.context is not None:
        locate_source(source, info.context.folder)
    return source


Source = Annotated[str, Field(min_length=1), AfterValidator(_check_exists)]


def check_hub_only(source: str, info: ValidationInfo, **given: str | None) -> None:
    """Raise ValueError where an option that only hub ids have is given for another source."""
    kind = "hub" if info.context is None else locate_source(source, info.context.folder)[0]
    for key, value in given.items():
        if value is not None and kind != "hub":
            what = {"builtin": "an embedded name", "local": "a local path"}[kind]
            raise ValueError(f"{key} is only for hub ids; {source!r} is {what}")


def _accept_string(schema: dict[str, Any]) -> None:
    mapping = {key: schema.pop(key) for key in list(schema) if key not in ("title", "description")}
    schema["anyOf"] = [{"type": "string", "minLength": 1}, mapping]


class DataSource(OptionsBase, json_schema_extra=_accept_string):
    """Where a text or a set of items comes from: embedded, a local path, or a hub dataset.

    A plain string in the suite stands for ``{path: string}``. Local paths are relative to the
    suite file. ``name``, ``split``, ``column`` and ``revision`` are those of
    ``datasets.load_dataset``.
    """

    WRITTEN_AS: ClassVar[str] = "a string or a mapping"

    path: Source
    name: str | None = None
    split: str | None = None
    column: str | None = None
    revision: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_string(cls, given: Any) -> Any:
        return {"path": given} if isinstance(given, str) else given

    @model_validator(mode="after")
    def _check_hub_only(self, info: ValidationInfo) -> "DataSource":
        check_hub_only(self.path, info, revision=self.revision, name=self.name, split=self.split)
        return self

    def locate(self, folder: Path) -> tuple[SourceKind, str]:
        """Kind and place; ``folder`` is the suite file's. Raises as `locate_source`."""
        return locate_source(self.path, folder)


def list_data_sources(options: OptionsBase) -> list[tuple[str, DataSource]]:
    """The fields of a measurement's options that say where texts or items come from."""
    return [(name, value) for name, value in options if isinstance(value, DataSource)]


def reads_data(options: type[OptionsBase]) -> bool:
    """Whether a measurement with these options reads texts or items."""
    fields = options.model_fields.values()
    return any(DataSource in (f.annotation, *get_args(f.annotation)) for f in fields)
