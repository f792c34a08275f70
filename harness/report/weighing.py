"""What a precision is chosen by: every cell's quality, memory and speed, and the answer in words.

Which values these are, the descriptions say (`Metric.weighs`). A run may have several of a kind;
those that the suite sets limits on come first, then the suite's order decides.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

from harness.catalog import load_measurement
from harness.descriptions import Column, ValueSpec, Weighed
from harness.records.record import Record, Value
from harness.records.run_file import Run
from harness.records.values import base_name, compared_name, qualifier, qualify
from harness.report.document import Lines, Section
from harness.report.matrix import format_number, list_measured

_QUALITIES = 2  # values named in a sentence


@dataclass(frozen=True)
class Weight:
    """One value to choose by; ``column`` says how it is titled and shown."""

    measurement: str
    value: str
    column: Column
    spec: ValueSpec
    reference: str | None

    def read(self, choice: "Choice") -> Value | None:
        """The cell's number; the reference has that of no difference. None where there is none."""
        record = choice.records.get(self.measurement)
        if record is None or not record.usable:
            return None
        if self.spec.paired and choice.is_reference:
            return Value(value=self.spec.neutral)
        found = record.find(self.value)
        return None if found is None or found.value is None else found

    def ratio(self, choice: "Choice") -> Value | None:
        """The number over the reference's, where the run has it."""
        record = choice.records.get(self.measurement)
        if record is None or choice.is_reference:
            return None
        specs = load_measurement(self.measurement).values
        alike = (
            found
            for name, found in record.paired.items()
            for spec in [specs[base_name(name)]]
            if spec.neutral == 1.0 and spec.of and compared_name(name, spec) == self.value
        )
        return next(alike, None)

    def is_better(self, a: float, b: float) -> bool:
        """Whether ``a`` is the better of two numbers."""
        return a < b if self.spec.better == "lower" else a > b

    def describe(self, choice: "Choice") -> str:
        """``1.01 MB weights (0.26 × fp32's)``; empty where there is no number."""
        found = self.read(choice)
        if found is None or found.value is None:
            return ""
        noun, _, unit = self.column.title.rpartition(", ")
        number = format_number(found.value, self.column)
        if self.column.stderr and found.stderr is not None:
            number += f" ±{format_number(found.stderr, self.column).lstrip('+')}"
        ratio = self.ratio(choice)
        beside = ""
        if ratio is not None and ratio.value is not None:
            beside = f" ({ratio.value:.2f} × {self.reference}'s)"
        record = choice.records[self.measurement]
        mark = "*" if record.validity.status == "flagged" else ""
        return f"{number}{mark} {unit} {noun}{beside}"


@dataclass(frozen=True)
class Choice:
    """A cell as something to choose, with its records by measurement.

    ``broken`` and ``undecided`` name the limits and measurements that stand against it.
    """

    model: str
    precision: str
    is_reference: bool
    records: Mapping[str, Record]
    limits: int
    broken: tuple[str, ...]
    undecided: tuple[str, ...]

    @property
    def outcome(self) -> Literal["broken", "undecided", "holds", "unjudged"]:
        """What its limits, and measurements that failed, say about it."""
        if self.broken:
            return "broken"
        if self.undecided:
            return "undecided"
        return "holds" if self.limits else "unjudged"


def list_choices(run: Run) -> dict[str, list[Choice]]:
    """Every model's cells in the run's order, without the reference's second measurement."""
    cells: dict[str, dict[str, Record]] = {}
    for record in run.records:
        if not record.noise:
            cells.setdefault(record.cell.id, {})[record.measurement] = record
    found: dict[str, list[Choice]] = {}
    for records in cells.values():
        choice = _make_choice(records, run.suite.get("reference"))
        found.setdefault(choice.model, []).append(choice)
    return found


def find_weights(run: Run, about: Weighed) -> list[Weight]:
    """The run's values of one kind, the one that counts most first."""
    limited = [str(limit.get("metric")) for limit in run.suite.get("limits", ())]
    found = [weight for name in list_measured(run) for weight in _list_weights(run, name, about)]

    def rank(weight: Weight) -> int:
        names = {f"{weight.measurement}.{name}" for name in _list_aliases(weight)}
        return next((i for i, metric in enumerate(limited) if metric in names), len(limited))

    return sorted(found, key=rank)


def answer(run: Run) -> tuple[Section, ...]:
    """The question that a run is made for: a sentence per model, and below it what it rests on."""
    weights = {about: find_weights(run, about) for about in get_args(Weighed)}
    return tuple(_answer(model, choices, weights) for model, choices in list_choices(run).items())


def describe_choice(run: Run, choice: Choice) -> str:
    """A cell in a line: its precision, and what it is chosen by."""
    weights = {about: find_weights(run, about) for about in get_args(Weighed)}
    return f"{choice.precision}: {_describe(choice, weights)}"


def _make_choice(records: Mapping[str, Record], reference: str | None) -> Choice:
    cell = next(iter(records.values())).cell
    verdicts = [verdict for record in records.values() for verdict in record.verdicts]
    lost = [name for name, r in records.items() if r.validity.status in ("failed", "invalid")]
    missing = [name for name, r in records.items() if r.validity.status == "skipped"]
    return Choice(
        cell.model,
        cell.precision,
        cell.precision == reference,
        records,
        sum(verdict.against == "limit" for verdict in verdicts),
        tuple(dict.fromkeys([*(v.metric for v in verdicts if v.verdict == "FAIL"), *lost])),
        tuple(
            dict.fromkeys([*(v.metric for v in verdicts if v.verdict == "INCONCLUSIVE"), *missing])
        ),
    )


def _list_weights(run: Run, measurement: str, about: Weighed) -> Iterator[Weight]:
    described = load_measurement(measurement)
    column = described.weighs.get(about)
    if column is None:
        return
    spec, reference = described.values[base_name(column.value)], run.suite.get("reference")
    own = [r for r in run.records if r.measurement == measurement and r.usable and not r.noise]
    present = dict.fromkeys(n for r in own for n in (*r.values, *r.paired) if r.find(n))
    whole = [name for name in present if name == column.value]
    for name in whole or [n for n in present if base_name(n) == column.value]:
        title = column.title.replace("{}", qualifier(name).replace("x", "×"))
        if about == "quality" and not title.startswith(measurement):
            title = f"{measurement} {title}"  # several tasks lose accuracy
        yield Weight(measurement, name, replace(column, title=title), spec, reference)


def _list_aliases(weight: Weight) -> Iterator[str]:
    """The names under which a limit may mean this value: its own, and those compared with it."""
    specs = load_measurement(weight.measurement).values
    alike = [name for name, spec in specs.items() if spec.of == base_name(weight.value)]
    for name in (base_name(weight.value), *alike):
        yield name
        yield qualify(name, qualifier(weight.value))


def _answer(
    model: str, choices: Sequence[Choice], weights: Mapping[Weighed, Sequence[Weight]]
) -> Section:
    others = [choice for choice in choices if not choice.is_reference]
    if not others:
        only = ", ".join(choice.precision for choice in choices)
        return Section(f"{model}: only {only} was measured, so there is nothing to choose.", ())
    judged = any(choice.limits for choice in others)
    eligible = [c for c in others if c.outcome == ("holds" if judged else "unjudged")]
    best = {about: _find_best(eligible, weights[about][:1]) for about in ("memory", "speed")}
    named = {choice.precision: choice for choice in best.values() if choice is not None}
    sentence = _decide(best["memory"], best["speed"], judged)
    against = [
        f"{choice.precision} {words} {_name(choice)}"
        for outcome, words in (("broken", "breaks"), ("undecided", "is undecided on"))
        for choice in others
        if choice.outcome == outcome
    ]
    facts = [f"{choice.precision}: {_describe(choice, weights)}" for choice in named.values()]
    return Section(
        f"{model}: {sentence}.", (Lines((*facts, *against)),) if facts or against else ()
    )


def _decide(smallest: Choice | None, fastest: Choice | None, judged: bool) -> str:
    which = "that holds all its limits" if judged else "measured; no limit was set"
    if smallest is None and fastest is None:
        return "no precision is known to hold all its limits" if judged else "nothing to compare"
    if smallest is None or fastest is None:
        one, best = (smallest, "smallest") if smallest else (fastest, "fastest")
        assert one is not None
        return f"{one.precision} is the {best} {which}"
    if smallest is fastest:
        return f"{smallest.precision} is the smallest and the fastest {which}"
    ending = "" if judged else "; no limit was set"
    which = which.partition(";")[0]
    return f"{smallest.precision} is the smallest {which}, {fastest.precision} the fastest{ending}"


def _find_best(choices: Sequence[Choice], weights: Sequence[Weight]) -> Choice | None:
    """The best by the first of the weights; None where none has a number."""
    best: tuple[float, Choice] | None = None
    for choice in choices:
        for weight in weights:
            found = weight.read(choice)
            if found is None or found.value is None:
                continue
            if best is None or weight.is_better(found.value, best[0]):
                best = (found.value, choice)
    return best and best[1]


def _describe(choice: Choice, weights: Mapping[Weighed, Sequence[Weight]]) -> str:
    shown = [
        *weights["memory"][:1],
        *weights["quality"][:_QUALITIES],
        *weights["speed"][:1],
    ]
    return ", ".join(filter(None, (weight.describe(choice) for weight in shown)))


def _name(choice: Choice) -> str:
    names = choice.broken or choice.undecided
    more = f" and {len(names) - _QUALITIES} more" if len(names) > _QUALITIES else ""
    return ", ".join(names[:_QUALITIES]) + more
