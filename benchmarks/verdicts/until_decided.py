"""Speeds that are measured until they are decided, by the rounds and the rules that a run uses."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from numpy.random import Generator

from harness.catalog import load_measurement, load_precision
from harness.records.record import Record, Verdict
from harness.run.repeats import merge_repeats
from harness.run.until_decided import Change, ExtraRounds, Key
from harness.suite.cells import Cell
from harness.suite.models import Limit, MeasurementSpec, ModelSpec, PrecisionSpec
from harness.verdicts.limits import judge_limits
from harness.verdicts.looks import keep_verdicts
from verdicts.judges import compare_records_of
from verdicts.share import Share
from verdicts.worlds import time_processes

_SPREAD, _FIRST, _MOST = 0.02, 3, 16
_MARGIN = 0.03  # that of decode speeds between commits, and that of the limit
_VALUE, _SPEEDUP = "decode_tokens_per_s[1]", "throughput.decode_speedup[1]"
_LIMIT = Limit.model_validate(
    {"precision": ("nf4",), "model": ("m",), "metric": _SPEEDUP, "min": 1 - _MARGIN}
)
_SPEC = MeasurementSpec(
    name="throughput", options=load_measurement("throughput").options(processes=_FIRST)
)
_PROCESS = time_processes(_VALUE, _SPREAD, 1, 1)

# (the candidate's record, the reference's) -> verdicts
Rule = Callable[[Record, Record], Sequence[Verdict]]


def _make_cell(name: str) -> Cell:
    options = load_precision(name).options()
    precision = PrecisionSpec(name=name, use=name, options=options)
    return Cell(ModelSpec(name="m", source="simulated"), precision, (_SPEC,))


_REFERENCE, _CANDIDATE = _make_cell("fp32"), _make_cell("nf4")


def judge_by_limit(own: Record, reference: Record) -> Sequence[Verdict]:
    """0.97 of the reference's speed at least."""
    paired = load_measurement("throughput").compare(own, reference)
    return judge_limits([_LIMIT], own.model_copy(update={"paired": paired}), reference, "")


def judge_by_comparison(own: Record, reference: Record) -> Sequence[Verdict]:
    """As `harness compare` judges two commits in one night."""
    [one] = compare_records_of([reference.model_copy(update={"cell": own.cell})], [own])
    outcome = "PASS" if one.verdict == "IDENTICAL" else one.verdict
    return [Verdict(verdict=outcome, metric=_SPEEDUP, bound="", value=one.b, text="")]


@dataclass
class _Night:
    """A candidate that is slower by ``harm``, its reference, and all that is measured of them."""

    rng: Generator
    harm: float
    rule: Rule
    records: dict[Key, Record] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.draw = _PROCESS.begin(self.rng)[1]
        planned = {(cell.id, _SPEC.name): (cell, _SPEC) for cell in (_REFERENCE, _CANDIDATE)}
        keep = self.records.__setitem__
        given = planned, _REFERENCE.precision, self.records, self.judge, self.measure, keep
        self.rounds = ExtraRounds(*given, at_most_s=None, on_notice=lambda text: None)
        for key, (cell, _) in planned.items():
            processes = [self.run_process(cell) for _ in range(_FIRST)]
            self.rounds.processes[key] = processes
            self.records[key] = merge_repeats(processes)

    def run_process(self, cell: Cell) -> Record:
        record = self.draw(self.harm if cell == _CANDIDATE else 0.0)
        facts = {"id": cell.id, "precision": cell.precision.name}
        return record.model_copy(update={"cell": record.cell.model_copy(update=facts)})

    def judge(self, cell: Cell, spec: MeasurementSpec, change: Change) -> Record:
        own, reference = (change(self.records[c.id, spec.name]) for c in (cell, _REFERENCE))
        verdicts = tuple(self.rule(own, reference)) if cell == _CANDIDATE else ()
        return keep_verdicts(own.model_copy(update={"verdicts": verdicts}))

    def measure(self, cell: Cell, spec: MeasurementSpec, processes: list[Record]) -> None:
        processes.append(self.run_process(cell))

    def find_verdict(self) -> str:
        [verdict] = self.judge(_CANDIDATE, _SPEC, lambda record: record).verdicts
        return verdict.verdict


@dataclass(frozen=True)
class Ended:
    """The verdict of the first processes by a single look, the last, and the processes a side."""

    once: str
    last: str
    processes: int


def decide(rng: Generator, harm: float, rule: Rule) -> Ended:
    """One night of a candidate that is slower by ``harm``, measured until it is decided."""
    night = _Night(rng, harm, rule)
    once = night.find_verdict()
    night.rounds.take()
    return Ended(once, night.find_verdict(), len(night.rounds.processes[_CANDIDATE.id, _SPEC.name]))


def watch_until_decided(rule: Rule, repeats: int, rng: Generator) -> Iterator[Share]:
    """A candidate that is as fast, slower by exactly what is allowed, and slower than that."""
    is_limit = rule is judge_by_limit
    judge = f"limit min {1 - _MARGIN:g}" if is_limit else f"compare, margin {_MARGIN:.0%}"
    # Beyond a limit a slowdown has to be surely beyond it, beyond a margin surely there.
    slower = 0.10 if is_limit else 0.05
    same, at_it, worse = (
        [decide(rng, harm, rule) for _ in range(repeats)] for harm in (0.0, _MARGIN, slower)
    )

    def share(what: str, count: int, n: int = repeats, **target: float) -> Share:
        world = f"decode, σ {_SPREAD:.0%}, processes {_FIRST} to {_MOST}"
        return Share(judge, world, f"until decided, {what}", count, n, **target)

    once = sum(one.once == "INCONCLUSIVE" for one in same)
    yield share("as fast: undecided with 3 processes and a single look", once)
    undecided = sum(one.last == "INCONCLUSIVE" for one in same)
    yield share("as fast: undecided", undecided, at_most=0.03)
    yield share("as fast: FAIL", sum(one.last == "FAIL" for one in same), at_most=0.05)
    measured = sum(one.processes for one in same)
    yield share("as fast: measured, of 16 a side", measured, _MOST * repeats, at_most=0.5)
    passed = sum(one.last == "PASS" for one in at_it)
    yield share(f"{_MARGIN:.0%} slower, as is allowed: PASS", passed, at_most=0.05)
    if is_limit:
        failed = sum(one.last == "FAIL" for one in at_it)
        yield share(f"{_MARGIN:.0%} slower, as is allowed: FAIL", failed, at_most=0.05)
    caught = sum(one.last == "FAIL" for one in worse)
    yield share(f"{slower:.0%} slower: FAIL", caught, at_least=0.95)
