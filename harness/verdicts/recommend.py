"""Which precision to ship: the smallest whose evidence holds what is demanded. Pure.

A demand is judged as a limit of a suite is, by the bounds of what was measured and not by its
middle. Which values are weighed, the descriptions say (`Metric.weighs`).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from harness.catalog import load_measurement
from harness.descriptions import Weighed
from harness.errors import InputError
from harness.records.record import Outcome, Record
from harness.records.run_file import Run
from harness.records.values import base_name, qualifier
from harness.suite.models import Limit
from harness.verdicts.advice import advise
from harness.verdicts.doubts import leave_open
from harness.verdicts.limits import judge_limits
from harness.verdicts.power_warnings import is_drop


@dataclass(frozen=True)
class Demands:
    """What must hold: bytes of memory, share of answers lost, tokens/s of decoding ``batch``."""

    vram: int | None = None
    max_drop: float | None = None
    min_tokens_per_s: float | None = None
    batch: int = 1

    @property
    def about(self) -> tuple[Weighed, ...]:
        """What is demanded at all."""
        given: tuple[tuple[Weighed, object], ...] = (
            ("memory", self.vram),
            ("quality", self.max_drop),
            ("speed", self.min_tokens_per_s),
        )
        return tuple(about for about, number in given if number is not None)


@dataclass(frozen=True)
class Finding:
    """One demand on one precision; ``text`` ends with what would decide it where it is open."""

    about: Weighed
    outcome: Outcome
    text: str
    is_evidence: bool = True


@dataclass(frozen=True)
class Candidate:
    """One precision: its bytes, the loss in quality that breaks ties, and its findings."""

    precision: str
    bytes: int | None
    loss: float
    findings: tuple[Finding, ...]

    @property
    def outcome(self) -> Outcome:
        """The worst of its findings."""
        found = {finding.outcome for finding in self.findings}
        return "FAIL" if "FAIL" in found else "INCONCLUSIVE" if "INCONCLUSIVE" in found else "PASS"


@dataclass(frozen=True)
class Recommendation:
    """The answer for one model; candidates are sorted by size, those of unknown size last."""

    model: str
    candidates: tuple[Candidate, ...]

    @property
    def chosen(self) -> Candidate | None:
        """The smallest that holds every demand."""
        return next((c for c in self.candidates if c.outcome == "PASS"), None)

    @property
    def open(self) -> tuple[Candidate, ...]:
        """Those that may hold and, where one is chosen, would be smaller."""
        end = len(self.candidates) if self.chosen is None else self.candidates.index(self.chosen)
        return tuple(c for c in self.candidates[:end] if c.outcome == "INCONCLUSIVE")

    def lacks_evidence(self, about: Weighed) -> bool:
        """Whether nothing at all was measured about a demand."""
        return not any(
            f.is_evidence for c in self.candidates for f in c.findings if f.about == about
        )


def recommend(run: Run, model: str, demands: Demands) -> Recommendation:
    """Judge each precision of ``model``; raises `InputError` where there is nothing to choose."""
    records = [r for r in run.records if r.cell.model == model and not r.noise]
    precisions = list(dict.fromkeys(r.cell.precision for r in records))
    suite = str(run.suite.get("file", run.suite.get("name")))
    if len(precisions) < 2:
        raise InputError(
            f"this run has one precision of {model} only ({', '.join(precisions)}): nothing to "
            f"choose between; list more under `precisions:` in {suite} and run it"
        )
    limits = list(_make_limits(records, precisions, model, demands))
    reference = run.suite.get("reference")
    candidates = []
    for precision in precisions:
        own = [r for r in records if r.cell.precision == precision]
        findings = tuple(
            finding
            for about in demands.about
            for finding in _judge(about, own, records, limits, reference, suite)
        )
        candidates.append(
            Candidate(precision, _read_bytes(own, records), _read_loss(own), findings)
        )
    candidates.sort(key=lambda c: (c.bytes is None, c.bytes or 0, c.loss))
    return Recommendation(model, tuple(candidates))


def _make_limits(
    records: Sequence[Record], precisions: Sequence[str], model: str, demands: Demands
) -> Iterator[tuple[Weighed, Limit]]:
    """Each demand on each value that it is about."""
    for measurement in dict.fromkeys(r.measurement for r in records):
        own = [r for r in records if r.measurement == measurement]
        for about in demands.about:
            for name in _list_weighed(measurement, about, own):
                batch = qualifier(name).partition("x")[0]  # of [8], [8x512]; not of [8 compiled]
                if about == "speed" and batch != str(demands.batch):
                    continue
                yield (
                    about,
                    Limit(
                        precision=tuple(precisions),
                        model=(model,),
                        metric=f"{measurement}.{name}",
                        max={"memory": demands.vram, "quality": demands.max_drop}.get(about),
                        min=demands.min_tokens_per_s if about == "speed" else None,
                        position="demanded",
                    ),
                )


def _list_weighed(measurement: str, about: Weighed, records: Sequence[Record]) -> list[str]:
    """The names of the values that a demand is about; of quality the drops of shares only."""
    described = load_measurement(measurement)
    column = described.weighs.get(about)
    if column is None:
        return []
    if about == "quality" and not is_drop(measurement, described.values[base_name(column.value)]):
        return []
    present = dict.fromkeys(name for r in records for name in (*r.values, *r.paired))
    if column.value in present or about != "speed":
        return [column.value]
    return [name for name in present if base_name(name) == column.value]


def _judge(
    about: Weighed,
    own: Sequence[Record],
    records: Sequence[Record],
    limits: Sequence[tuple[Weighed, Limit]],
    reference: str | None,
    suite: str,
) -> Iterator[Finding]:
    """The findings of one precision about one demand; one at least."""
    precision, found = own[0].cell.precision, False
    for record in own:
        chosen = [
            limit for of, limit in limits if of == about and limit.family == record.measurement
        ]
        if not chosen:
            continue
        found = True
        if about == "quality" and precision == reference:
            yield Finding(about, "PASS", f"{record.cell.id} is what the others are compared with")
            continue
        if not record.usable:
            why = "; ".join(record.validity.reasons)
            text = f"{record.cell.id}: {record.measurement} has no number that counts: {why}"
            yield Finding(about, "INCONCLUSIVE", text)
            continue
        theirs = next(
            (
                r
                for r in records
                if r.cell.precision == reference and r.measurement == record.measurement
            ),
            None,
        )
        # With all limits, so that chance among many counts.
        every = [limit for _, limit in limits]
        asked = {limit.metric for limit in chosen}
        for verdict in judge_limits(every, record, theirs, "the run has no reference"):
            if verdict.metric not in asked:
                continue
            verdict = advise(leave_open(verdict, record, theirs), record, reference, suite)
            is_peak = load_measurement(record.measurement).fresh_process
            if about == "memory" and not is_peak and verdict.verdict == "PASS":
                if any(load_measurement(r.measurement).fresh_process for r in own if r.usable):
                    continue  # its peak was measured as well
                text = (
                    f"{record.cell.id}: its weights fit, but what running it takes was not "
                    f"measured; to decide: add `memory: {{}}` to {suite}"
                )
                yield Finding(about, "INCONCLUSIVE", text)
            else:
                yield Finding(about, verdict.verdict, verdict.text)
    if not found:
        text = f"{own[0].cell.id}: nothing was measured that tells about {about}; to decide: "
        wanted = {"memory": "`memory`", "quality": "a task", "speed": "`throughput` of that batch"}
        yield Finding(
            about, "INCONCLUSIVE", f"{text}measure {wanted[about]} in {suite}", is_evidence=False
        )


def _read_bytes(own: Sequence[Record], records: Sequence[Record]) -> int | None:
    """Of the first value of memory that every precision has; else of the first it has itself."""
    sizes = {}
    cells = {r.cell.precision for r in records}
    for record in own:
        for name in _list_weighed(record.measurement, "memory", [record]):
            value = record.values.get(name)
            if record.usable and value is not None and value.value is not None:
                others = {r.cell.precision for r in records if r.usable and name in r.values}
                is_peak = load_measurement(record.measurement).fresh_process
                sizes[others != cells, is_peak] = int(value.value)
    return sizes[min(sizes)] if sizes else None


def _read_loss(own: Sequence[Record]) -> float:
    """The sum of the drops, 0 where none was measured."""
    drops = (
        value.value or 0.0
        for r in own
        for name in _list_weighed(r.measurement, "quality", [r])
        if (value := r.paired.get(name)) is not None
    )
    return float(sum(drops))
