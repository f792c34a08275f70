"""The ``limits:`` of a suite: what each bounds, and whether they fit the suite and each other.

Judges nothing: `harness.verdicts.pairing` compares them with records.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from harness.catalog import describe_unknown, load_measurement
from harness.descriptions import OptionsBase, ValueSpec
from harness.suite.models import Limit, LimitEntry
from harness.suite.plain_errors import prefix, validate
from harness.suite.yaml_positions import Document, Location

_METRIC = re.compile(r"(?P<family>[^.\[\]]+)\.(?P<value>[^.\[\]]+)(\[(?P<qualifier>[^\[\]]+)\])?")


@dataclass(frozen=True)
class LimitScope:
    """The names that limits may use, as written in the suite, wrong entries included.

    ``measured`` maps each name under ``measure:`` to its options, None where they are invalid.
    """

    models: tuple[str, ...]
    precisions: tuple[str, ...]
    reference: str | None
    measured: Mapping[str, OptionsBase | None]
    shown_path: str


def read_limit(
    document: Document, location: Location, item: Any, scope: LimitScope
) -> Limit | None:
    """One entry of ``limits:``, or None with its mistakes reported."""
    before = len(document.problems)
    entry = validate(LimitEntry, item, document, location)
    if not isinstance(item, dict):
        return None
    precisions, models = _names_in(item, "precision"), _names_in(item, "model")
    _check_names(document, (*location, "precision"), precisions, "precision", scope.precisions)
    _check_names(document, (*location, "model"), models, "model", scope.models)
    metric = item.get("metric")
    if isinstance(metric, str):
        spec = _check_metric(document, (*location, "metric"), metric, scope)
        if spec is not None and spec.paired:
            _check_paired(document, location, metric, precisions, scope)
    bounded = entry.precision if entry else None
    bounded = bounded or tuple(p for p in scope.precisions if p != scope.reference)
    if not bounded and scope.precisions:
        message = "no precision beside the reference: name one with `precision:`"
        document.report(location, prefix(location, message))
    if entry is None or len(document.problems) > before:
        return None
    place = document.place(location)
    return Limit(
        precision=bounded,
        model=entry.model or scope.models,
        metric=entry.metric,
        max=entry.max,
        min=entry.min,
        position=f"{scope.shown_path}:{place.line}:{place.column}",
    )


def check_contradictions(document: Document, limits: list[tuple[Location, Limit]]) -> None:
    """Report each pair of limits on one cell and value that repeats or excludes the other."""
    for index, (location, later) in enumerate(limits):
        for earlier_location, earlier in limits[:index]:
            if later.metric != earlier.metric:
                continue
            models = [name for name in later.model if name in earlier.model]
            precisions = [name for name in later.precision if name in earlier.precision]
            clash = _find_clash(earlier, later)
            if models and precisions and clash:
                first = document.place(earlier_location)
                cell = f"{models[0]}[{precisions[0]}]"
                message = (
                    f"{later.metric} of {cell} {clash}; "
                    f"the other limit is at {first.line}:{first.column}"
                )
                document.report(location, prefix(location, message))


def _find_clash(earlier: Limit, later: Limit) -> str | None:
    for side in ("max", "min"):
        if getattr(earlier, side) is not None and getattr(later, side) is not None:
            return f"has two limits `{side}`"
    for low, high in ((earlier.min, later.max), (later.min, earlier.max)):
        if low is not None and high is not None and low > high:
            return f"must be at least {low:g} and at most {high:g}: nothing can pass"
    return None


def _check_metric(
    document: Document, location: Location, metric: str, scope: LimitScope
) -> ValueSpec | None:
    parts = _METRIC.fullmatch(metric)
    if parts is None:
        message = f"expected family.value such as 'perplexity.ratio', found {metric!r}"
        document.report(location, prefix(location, message))
        return None
    family, value, qualifier = parts["family"], parts["value"], parts["qualifier"]
    if family not in scope.measured:
        message = describe_unknown("metric family", family, scope.measured)
        document.report(location, prefix(location, f"{message} (under `measure:`)"))
        return None
    try:
        module = load_measurement(family)
    except ValueError:
        return None  # reported under `measure:`
    if value not in module.values:
        message = describe_unknown(f"value of {family}", value, module.values)
        document.report(location, prefix(location, message))
        return None
    spec: ValueSpec = module.values[value]
    wrong = _check_qualifier(f"{family}.{value}", spec, qualifier, scope.measured[family])
    if wrong:
        document.report(location, prefix(location, wrong))
    return spec


def _check_qualifier(
    name: str, spec: ValueSpec, qualifier: str | None, options: OptionsBase | None
) -> str | None:
    """What is wrong with ``[qualifier]``; a value per batch size has no total without one."""
    if spec.per is None:
        return f"{name} takes no [{qualifier}]: it is a single number" if qualifier else None
    own = "qualifiers" if spec.per == "batch size" else spec.per.replace(" ", "_") + "s"
    given = getattr(options, own, None)
    known = [str(item) for item in given] if given else []
    if qualifier is None:
        if spec.per != "batch size":
            return None
        example = " or ".join(f"{name}[{item}]" for item in known) or f"{name}[…]"
        return f"{name} is reported per {spec.per}: write {example}"
    if known and qualifier not in known:
        return describe_unknown(f"{spec.per} of {name}", qualifier, known)
    return None


def _names_in(item: dict[str, Any], key: str) -> list[str]:
    """The names as written; what is no name is reported by the model."""
    given = item.get(key)
    if isinstance(given, list):
        return [name for name in given if isinstance(name, str)]
    return [given] if isinstance(given, str) else []


def _check_names(
    document: Document,
    location: Location,
    names: list[str],
    what: str,
    known: tuple[str, ...],
) -> None:
    for index, name in enumerate(names):
        if name not in known:
            message = f"{describe_unknown(what, name, known)} (under `{what}s:`)"
            document.report((*location, index), prefix(location, message))
        elif name in names[:index]:
            document.report((*location, index), prefix(location, f"{what} {name!r} is named twice"))


def _check_paired(
    document: Document, location: Location, metric: str, precisions: list[str], scope: LimitScope
) -> None:
    if scope.reference is None:
        at = (*location, "metric")
        message = f"{metric} compares with a reference, and the suite has no `reference:`"
        document.report(at, prefix(at, message))
    elif scope.reference in precisions:
        at = (*location, "precision", precisions.index(scope.reference))
        message = f"{metric} compares with the reference, which {scope.reference!r} itself is"
        document.report(at, prefix(at[:-1], message))
