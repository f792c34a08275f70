"""What the YAML of a suite may hold, as one pydantic model made from the catalog."""

from functools import cache, reduce
from operator import or_
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    BaseModel,
    Discriminator,
    Field,
    Tag,
    create_model,
    model_validator,
)
from pydantic.json_schema import SkipJsonSchema

from harness.catalog import (
    check_name,
    list_engines,
    list_measurements,
    list_names,
    load_measurement,
    load_precision,
)
from harness.descriptions import OptionsBase
from harness.suite.limits import LimitEntry
from harness.suite.models import Heading, ModelSpec, Name, Named


class PrecisionEntry(Named):
    """An entry of ``precisions:``; those that use a known precision have its options too."""

    WRITTEN_AS: ClassVar[str] = "a name or a mapping"

    use: str | None = None
    engine: str = ""

    @model_validator(mode="before")
    @classmethod
    def _read_name(cls, given: Any) -> Any:
        return {"name": given} if isinstance(given, str) else given


class _UnknownPrecision(PrecisionEntry, extra="ignore"):
    """An entry that uses no precision of the catalog; reading one ends with that message."""

    @model_validator(mode="after")
    def _refuse(self) -> "_UnknownPrecision":
        known = list_names("precisions")
        if self.use is None:
            check_name("precision", self.name, known, " (a name of your own needs `use:`)")
        else:
            check_name("precision", self.use, known, " (under `use:`)")
        return self


class Measure(OptionsBase):
    """What to measure, by metric or task."""

    KEYS: ClassVar[str] = "metric or task"

    @model_validator(mode="before")
    @classmethod
    def _read_nothing(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        return {name: {} if options is None else options for name, options in given.items()}

    @model_validator(mode="after")
    def _check_not_empty(self) -> "Measure":
        if not self.model_fields_set:
            raise ValueError("expected a mapping of metrics and tasks, found an empty one")
        return self


class SuiteFile(Heading):
    """Models x precisions, what to measure on each, and the limits to hold."""

    models: tuple[ModelSpec, ...] = Field(min_length=1)
    precisions: tuple[PrecisionEntry, ...] = Field(min_length=1)
    measure: Measure
    limits: tuple[LimitEntry, ...] | None = None


@cache
def suite_file_model() -> type[SuiteFile]:
    """`SuiteFile` with the options of every precision, metric and task in the catalog."""
    names = list_names("precisions")
    entries: Any = [Annotated[_make_entry(name), Tag(name)] for name in names]
    entries.append(SkipJsonSchema[Annotated[_UnknownPrecision, Tag("unknown")]])
    entry: Any = Annotated[reduce(or_, entries), Discriminator(_name_entry)]
    fields: dict[str, Any] = {}
    for name in list_measurements():
        metric = load_measurement(name)
        about = Field(default=None, description=metric.help.strip().split("\n")[0])
        fields[name] = (metric.options, about)
    measure = create_model("Measure", __base__=Measure, __doc__=Measure.__doc__, **fields)
    parts: Any = {"precisions": (tuple[entry, ...], Field(min_length=1)), "measure": (measure, ...)}
    return create_model("SuiteFile", __base__=SuiteFile, __doc__=SuiteFile.__doc__, **parts)


def _make_entry(name: str) -> type[BaseModel]:
    """A precision's options, and the keys that every entry of ``precisions:`` may have."""
    precision = load_precision(name)
    needs_use = {"anyOf": [{"required": ["use"]}, {"properties": {"name": {"const": name}}}]}
    own_name: Any = Literal[name]
    engines: Any = Literal[list_engines()]
    return create_model(
        name,
        __base__=(PrecisionEntry, precision.options),
        __doc__=f"{precision.help.strip()}\n\n{precision.options.__doc__}",
        __cls_kwargs__={"json_schema_extra": needs_use},
        name=(Name, ...),
        use=(own_name, name),
        engine=(engines, Field(default=precision.engine, description="loads and asks the model")),
    )


def _name_entry(given: Any) -> str:
    """Which of the union's branches reads an entry of ``precisions:``."""
    use = given.get("use", given.get("name")) if isinstance(given, dict) else given
    return use if isinstance(use, str) and use in list_names("precisions") else "unknown"
