"""Two sides measured in turn, each time in fresh processes, and their ratio with its interval.

Sides are two precisions, Python environments or commits. Pairs go A B, B A, A B …, so that what
drifts over minutes falls on both sides alike; the pair is the sample.
"""

import json
import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from harness.errors import InputError
from harness.machine.files import write_atomically
from harness.machine.privacy import scrub
from harness.records.record import Record
from harness.statistics.estimates import Estimate, geometric_mean_interval, paired_ratio_interval

SCHEMA = 1
ENOUGH_PAIRS = 6
_TAIL = 2000


class SideError(Exception):
    """A side that cannot be measured; what was measured before is kept."""


@dataclass(frozen=True)
class Side:
    """A precision in a Python environment; ``python`` is its interpreter.

    ``folder`` is where it is started, ``path`` where Python looks for code first.
    """

    name: Literal["A", "B"]
    precision: str
    python: str
    folder: str = "."
    path: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """A comparison: both sides, and how many pairs; the names are those of the suite.

    A relative ``suite`` is each side's own. ``timeout_s`` is for each measurement.
    """

    suite: Path
    model: str
    measurement: str
    device: str
    sides: tuple[Side, Side]
    pairs: int
    timeout_s: float | None = None


@dataclass(frozen=True)
class Sample:
    """One measurement of one side."""

    pair: int
    side: Literal["A", "B"]
    record: Record
    device: str
    libraries: dict[str, str | None]
    harness: dict[str, Any]


@dataclass(frozen=True)
class Ratio:
    """One value of both sides: geometric means, and B over A with its 95 % interval over pairs."""

    value: str
    unit: str
    better: Literal["lower", "higher"]
    a: float
    b: float
    ratio: Estimate
    pairs: int

    @property
    def better_side(self) -> Literal["A", "B"] | None:
        """The side that is better where the interval leaves 1 out."""
        if self.ratio.low <= 1 <= self.ratio.high:
            return None
        b_is_more = self.ratio.value > 1
        return "B" if b_is_more == (self.better == "higher") else "A"


def check_python(python: str) -> None:
    """Refuse an interpreter that is not there or has no harness; raises `InputError`."""
    command = [python, "-c", "import harness.run.ab_side"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    except OSError as error:
        raise InputError(f"--python {python}: {error.strerror or error}") from error
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        raise InputError(
            f"--python {python} cannot import the harness ({last}): install precision-harness there"
        )


def run_plan(plan: Plan, output: Path, on_sample: Callable[[Sample], None]) -> list[Sample]:
    """Measure all pairs; ``output`` is written anew after each measurement.

    Raises `SideError` where a side gives no record, or one that has failed.
    """
    samples: list[Sample] = []
    _write(plan, samples, output)
    for pair in range(plan.pairs):
        for side in plan.sides if pair % 2 == 0 else plan.sides[::-1]:
            sample = _measure(plan, side, pair)
            samples.append(sample)
            _write(plan, samples, output)
            on_sample(sample)
            if sample.record.validity.status in ("failed", "skipped"):
                raise SideError(f"side {side.name}: {'; '.join(sample.record.validity.reasons)}")
    return samples


def compare_sides(samples: Sequence[Sample]) -> list[Ratio]:
    """Every value that both sides of at least two usable pairs have, in the record's order."""
    whole = list_pairs(samples)
    found = []
    for name, numbers in pair_values(whole).items():
        value = whole[0][0].values[name]
        if value.better is None or len(numbers) < 2:
            continue
        a, b = zip(*numbers)
        # Geometric means, so that their ratio is the ratio shown next to them.
        mean_a, mean_b = (geometric_mean_interval(side).value for side in (a, b))
        ratio = paired_ratio_interval(a, b)
        found.append(Ratio(name, value.unit, value.better, mean_a, mean_b, ratio, len(numbers)))
    return found


def list_pairs(samples: Sequence[Sample]) -> list[tuple[Record, Record]]:
    """The records of A and B of each pair that is whole and usable."""
    pairs: dict[int, dict[str, Record]] = {}
    for sample in samples:
        if sample.record.usable:
            pairs.setdefault(sample.pair, {})[sample.side] = sample.record
    return [(pair["A"], pair["B"]) for pair in pairs.values() if len(pair) == 2]


def pair_values(pairs: Sequence[tuple[Record, Record]]) -> dict[str, list[tuple[float, float]]]:
    """A's and B's number of each value, where all that both sides have are above 0."""
    found = {}
    for name in pairs[0][0].values if pairs else ():
        both = [(a.values.get(name), b.values.get(name)) for a, b in pairs]
        numbers = [
            (float(a.value), float(b.value)) for a, b in both if a and b and a.value and b.value
        ]
        if numbers and min(map(min, numbers)) > 0:
            found[name] = numbers
    return found


def list_differences(samples: Sequence[Sample]) -> list[str]:
    """Differences between the sides in versions of libraries and of the harness, as sentences."""
    first = {side: next((s for s in samples if s.side == side), None) for side in "AB"}
    a, b = first["A"], first["B"]
    if a is None or b is None:
        return []
    lines = [
        f"{name}: {a.libraries.get(name) or 'none'} in A, {b.libraries.get(name) or 'none'} in B"
        for name in a.libraries.keys() | b.libraries.keys()
        if a.libraries.get(name) != b.libraries.get(name)
    ]
    if a.harness != b.harness:
        lines.append("precision-harness itself differs: the two may not measure the same")
    return sorted(lines)


def list_concerns(samples: Sequence[Sample]) -> list[str]:
    """Flags and failures of single measurements; the invalid ones are in no ratio."""
    return list(
        dict.fromkeys(
            f"{sample.side}: {sample.record.validity.status}: {reason}"
            for sample in samples
            for reason in sample.record.validity.reasons
        )
    )


def _measure(plan: Plan, side: Side, pair: int) -> Sample:
    names = [plan.model, side.precision, plan.measurement, plan.device]
    command = [side.python, "-m", "harness.run.ab_side", str(plan.suite), *names]
    path = [*side.path, *filter(None, [os.environ.get("PYTHONPATH")])]
    env = {**os.environ, **({"PYTHONPATH": os.pathsep.join(path)} if path else {})}
    given: dict[str, Any] = {"cwd": side.folder, "env": env, "timeout": plan.timeout_s}
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, **given)  # noqa: S603
    except subprocess.TimeoutExpired:
        raise SideError(f"side {side.name}: timed out after {plan.timeout_s:g} s") from None
    if answer.returncode != 0:
        raise SideError(f"side {side.name}: {answer.stderr.strip()[-_TAIL:]}")
    try:
        found = json.loads(answer.stdout.splitlines()[-1])
        record = Record.model_validate(found["record"])
        return Sample(
            pair, side.name, record, found["device"], found["libraries"], found["harness"]
        )
    except (IndexError, KeyError, ValueError) as error:
        raise SideError(
            f"side {side.name} ({side.python}) gave no record that this version reads: {error}"
        ) from error


def _write(plan: Plan, samples: Sequence[Sample], path: Path) -> None:
    """Write the plan and every sample so far."""
    data = {
        "schema": SCHEMA,
        "plan": scrub({**asdict(plan), "suite": str(plan.suite)}),
        "samples": [
            {**vars(sample), "record": sample.record.model_dump(mode="json")} for sample in samples
        ],
    }
    write_atomically(path, json.dumps(data, indent=1, allow_nan=False) + "\n")
