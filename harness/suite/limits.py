"""The ``limits:`` of a suite: what each bounds, and whether they fit the suite and each other.

Decides no verdict: `harness.verdicts` compares limits with records.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    ValidationInfo,
    WithJsonSchema,
    model_validator,
)

from harness.catalog import UnknownNameError, check_name, load_measurement
from harness.descriptions import OptionsBase, ValueSpec
from harness.suite.yaml_file import Location, YamlFile

_METRIC = re.compile(r"(?P<family>[^.\[\]]+)\.(?P<value>[^.\[\]]+)(\[(?P<qualifier>[^\[\]]+)\])?")


@dataclass(frozen=True)
class Scope:
    """What the entries of a suite file refer to, as written, wrong entries included.

    The context of validation; without it, other models check single entries only.
    ``measured`` maps each name under ``measure:`` to its options, None where they are invalid.
    """

    folder: Path
    models: tuple[str, ...]
    precisions: tuple[str, ...]
    reference: str | None
    measured: Mapping[str, OptionsBase | None]


def check_listed(name: str, info: ValidationInfo) -> str:
    """Refuse a model's or precision's name that the suite does not list."""
    kind = "model" if info.field_name == "model" else "precision"
    if info.context is not None:
        known = getattr(info.context, f"{kind}s")
        if known:
            check_name(kind, name, known, f" (under `{kind}s:`)")
    return name


def _as_tuple(given: Any) -> Any:
    return (given,) if isinstance(given, str) else tuple(given) if type(given) is list else given


def _check_distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    if twice := [name for name in names if names.count(name) > 1]:
        raise ValueError(f"{twice[0]!r} is named twice")
    return names


_SEVERAL = {"type": "array", "items": {"type": "string"}, "minItems": 1, "uniqueItems": True}
Names = Annotated[
    tuple[Annotated[str, AfterValidator(check_listed)], ...],
    Field(min_length=1),
    BeforeValidator(_as_tuple),
    AfterValidator(_check_distinct),
    WithJsonSchema({"anyOf": [{"type": "string"}, _SEVERAL]}),
]


def _check_metric(metric: str, info: ValidationInfo) -> str:
    parts = _METRIC.fullmatch(metric)
    if parts is None:
        raise ValueError(f"expected family.value such as 'perplexity.ratio', found {metric!r}")
    scope = info.context
    assert isinstance(scope, Scope), "limits are read in the scope of their file"
    family, value = parts["family"], parts["value"]
    check_name("metric family", family, scope.measured, " (under `measure:`)")
    spec = _find_value(family, value)
    if spec is None:
        return metric
    if spec.paired and scope.reference is None:
        raise ValueError(f"{metric} compares with a reference: the suite has no `reference:`")
    name, qualifier, options = f"{family}.{value}", parts["qualifier"], scope.measured[family]
    known: tuple[str, ...] | None = ()
    if spec.per is not None:
        known = None if options is None else options.list_qualifiers(spec.per)
    if qualifier is not None and known == ():
        raise ValueError(f"{name} takes no [{qualifier}]: it is a single number")
    if qualifier is None and spec.per is not None and not spec.total:
        example = " or ".join(f"{name}[{item}]" for item in known or ()) or f"{name}[…]"
        raise ValueError(f"{name} is reported per {spec.per}: write {example}")
    if qualifier is not None and known is not None:
        check_name(f"{spec.per} of {name}", qualifier, known)
    return metric


def _find_value(family: str, value: str) -> ValueSpec | None:
    """The description of a value; None for an unknown family, which is reported elsewhere."""
    try:
        values = load_measurement(family).values
    except UnknownNameError:
        return None
    return values[check_name(f"value of {family}", value, values)]


_BOUNDED: dict[str, Any] = {"anyOf": [{"required": ["max"]}, {"required": ["min"]}]}


class LimitEntry(OptionsBase, json_schema_extra=_BOUNDED):
    """One promise, ``{precision: nf4, metric: perplexity.ratio, max: 1.1}``.

    ``precision`` and ``model`` are a name or a list; without them it holds for all (without
    ``precision``: for all but the reference). ``metric`` is ``family.value`` or
    ``family.value[qualifier]``.
    """

    precision: Names | None = Field(
        default=None, description="name or names; default: all but reference"
    )
    model: Names | None = Field(default=None, description="name or names; default: all models")
    metric: Annotated[str, AfterValidator(_check_metric)] = Field(
        description="family.value or family.value[qualifier]"
    )
    max: float | None = Field(default=None, description="the value may not be above this")
    min: float | None = Field(default=None, description="the value may not be below this")

    @model_validator(mode="after")
    def _check_fit(self, info: ValidationInfo) -> "LimitEntry":
        if self.max is None and self.min is None:
            raise ValueError("a limit needs `max`, `min` or both")
        if self.max is not None and self.min is not None and self.min > self.max:
            raise ValueError(f"min {self.min:g} is above max {self.max:g}: nothing can pass")
        scope = info.context
        assert isinstance(scope, Scope)
        if scope.precisions and not self.list_precisions(scope):
            raise ValueError("the reference is the only precision: name it with `precision:`")
        spec = _find_value(*self.metric.split("[")[0].split("."))
        if spec is not None and spec.paired and scope.reference in (self.precision or ()):
            raise ValueError(
                f"precision {scope.reference!r} is the reference, which {self.metric} compares with"
            )
        return self

    def list_precisions(self, scope: Scope) -> tuple[str, ...]:
        """The precisions that the limit bounds in its suite."""
        every = tuple(name for name in scope.precisions if name != scope.reference)
        return self.precision or every


class Limit(OptionsBase):
    """A `LimitEntry` with its names filled in; ``position`` is ``file:line:column``."""

    precision: tuple[str, ...]
    model: tuple[str, ...]
    metric: str
    max: float | None = None
    min: float | None = None
    position: str = ""

    @property
    def family(self) -> str:
        """The measurement, ``throughput`` of ``throughput.decode_tokens_per_s[8]``."""
        return self.metric.split(".", 1)[0]

    @property
    def value(self) -> str:
        """The value's name, ``decode_tokens_per_s`` of ``throughput.decode_tokens_per_s[8]``."""
        return self.metric.split(".", 1)[1].split("[", 1)[0]

    @property
    def qualifier(self) -> str | None:
        """The part in brackets, ``8`` of ``throughput.decode_tokens_per_s[8]``."""
        return self.metric.split("[", 1)[1].rstrip("]") if "[" in self.metric else None


def check_contradictions(file: YamlFile, limits: list[tuple[Location, Limit]]) -> None:
    """Report each pair of limits on one cell and value that repeats or excludes the other."""
    for (_, earlier), (location, later) in combinations(limits, 2):
        models = [name for name in later.model if name in earlier.model]
        precisions = [name for name in later.precision if name in earlier.precision]
        clash = _find_clash(earlier, later)
        if later.metric == earlier.metric and models and precisions and clash:
            what = f"{later.metric} of {models[0]}[{precisions[0]}]"
            file.report(location, f"{what} {clash}; the other limit is at {earlier.position}")


def _find_clash(earlier: Limit, later: Limit) -> str | None:
    for side in ("max", "min"):
        if getattr(earlier, side) is not None and getattr(later, side) is not None:
            return f"has two limits `{side}`"
    low = later.min if earlier.min is None else earlier.min
    high = later.max if earlier.max is None else earlier.max
    if low is None or high is None or low <= high:
        return None
    return f"must be at least {low:g} and at most {high:g}: nothing can pass"
