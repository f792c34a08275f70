"""Values, validity, verdicts, and the record of one measurement: frozen data.

Does not know how a number was measured, judged or shown.
"""

import json
import math
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator

Outcome = Literal["PASS", "FAIL", "INCONCLUSIVE"]
Status = Literal["ok", "flagged", "invalid", "failed", "skipped"]


class Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Value(Frozen):
    """One number: ``value`` is None where it is unavailable or was not finite.

    ``stderr`` is the standard error in the value's own unit, ``interval`` the 95 % interval where
    that says more, ``bounds`` the one-sided 95 % bounds that verdicts are made of, ``p`` the
    two-sided p-value of no difference, unadjusted, ``n`` the number of chunks, items or
    rounds (rounds of one process are not independent, and get no ``stderr``), ``df`` the degrees of
    freedom of ``stderr`` where they are fewer than n - 1 or known otherwise. ``floor`` is the
    reference's value when it is compared with itself: a value no farther from equality is noise.
    ``doubt`` says why a comparison with the reference may be wrong: what flags the reference.
    """

    value: int | float | None
    unit: str = ""
    better: Literal["lower", "higher"] | None = None
    stderr: float | None = None
    n: int | None = None
    interval: tuple[float, float] | None = None
    bounds: tuple[float, float] | None = None
    p: float | None = None
    df: float | None = None
    floor: float | None = None
    doubt: str = ""

    @field_validator("value", "stderr", "floor", mode="before")
    @classmethod
    def _no_bare_nan(cls, number: Any) -> Any:
        return None if isinstance(number, float) and not math.isfinite(number) else number


class Validity(Frozen):
    """Whether a record's numbers may be used, and why not."""

    status: Status = "ok"
    reasons: tuple[str, ...] = ()


_BY_SEVERITY: tuple[Status, ...] = ("ok", "flagged", "invalid", "skipped", "failed")


def join_validity(*found: Validity) -> Validity:
    """The worst status of all, and every reason once."""
    worst = max((_BY_SEVERITY.index(one.status) for one in found), default=0)
    reasons = dict.fromkeys(reason for one in found for reason in one.reasons)
    return Validity(status=_BY_SEVERITY[worst], reasons=tuple(reasons))


LEFT_OUT = "left_out"  # a key of `Measured.samples`


class Measured(Frozen):
    """What a metric's ``measure`` returns from the worker.

    ``items`` holds compact per-item outcomes for paired comparison, ``samples`` every round of a
    timing (`LEFT_OUT`: those of processes that do not count), ``protocol`` everything that the
    values' meaning depends on.
    """

    values: dict[str, Value]
    protocol: dict[str, Any] = {}
    items: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    validity: Validity = Validity()


class CellFacts(Frozen):
    """The cell a record belongs to: what was declared and what was really loaded."""

    id: str
    model: str
    precision: str
    device: str
    source: str | dict[str, Any]
    revision: str | None = None
    weights_sha256: str | None = None
    tokenizer_sha256: str | None = None
    declared: dict[str, Any] = {}
    attested: dict[str, Any] | None = None


class Verdict(Frozen):
    """One limit, threshold or earlier run judged on one value; ``text`` is what a person reads.

    ``bounds`` are the value's one-sided bounds, each wrong as often as ``error`` says,
    ``smallest_detectable`` the smallest harm that would have been called FAIL four times in five,
    in the value's unit, ``enough`` the number of samples with which four of five runs would decide
    what is open. ``position`` is where the suite states the limit, file:line:column.
    ``suspicious``: a speed that by this run's own processes may be worse than blessed by more than
    its margin; what was blessed, measured again beside it, would tell.
    """

    verdict: Outcome
    metric: str
    bound: str
    value: float | None
    text: str
    against: Literal["limit", "threshold", "run"] = "limit"
    bounds: tuple[float, float] | None = None
    error: float = 0.05
    smallest_detectable: float | None = None
    enough: int | None = None
    position: str = ""
    suspicious: bool = False

    @property
    def outcomes(self) -> frozenset[str]:
        """The verdict, and "unjudged" where there was no number to judge or nothing to judge by."""
        is_unjudged = self.verdict == "INCONCLUSIVE" and self.value is None
        return frozenset({self.verdict} | ({"unjudged"} if is_unjudged else set()))

    @property
    def was_cleared(self) -> bool:
        """Whether a suspicious speed passed by what was measured beside it in the same night."""
        return self.suspicious and self.verdict == "PASS"


class SameNight(Frozen):
    """A blessed commit, measured again in turn with the code of this run: fresh processes in pairs.

    ``pairs`` holds the two numbers of each pair by value, the commit's first. ``doubts`` are flags
    that speak against a verdict. ``changed`` names what even that commit has otherwise than when it
    was blessed, such as a library's version. ``lacking`` says why pairs are missing, ``file`` where
    the single measurements are.
    """

    commit: str
    pairs: dict[str, tuple[tuple[float, float], ...]] = {}
    doubts: dict[Outcome, str] = {}
    changed: str = ""
    lacking: str = ""
    file: str = ""


class Looks(Frozen):
    """How often a record was judged while its processes became more, until its limits were clear.

    ``at``: how many processes there were each time, none before the first look; ``most``: how many
    there would be at most. ``verdicts`` are those of the last look on limits of processes, or for
    what was decided before, of the look that decided it. ``first`` holds the values of as many
    processes as the suite asks for: by them thresholds and other runs are judged.
    """

    at: tuple[int, ...]
    most: int
    verdicts: tuple[Verdict, ...] = ()
    first: dict[str, Value] = {}

    def again(self, n: int) -> "Looks":
        """With one more, at ``n`` processes; what is decided stays so."""
        return self.reopened().model_copy(update={"at": (*self.at, n)})

    def reopened(self) -> "Looks":
        """Without the verdicts that are open, so that they are judged again."""
        decided = tuple(one for one in self.verdicts if one.verdict != "INCONCLUSIVE")
        return self.model_copy(update={"verdicts": decided})

    @property
    def fractions(self) -> tuple[float, ...]:
        """The share of all processes that was there at each look."""
        return tuple(n / self.most for n in self.at)


class Record(Frozen):
    """The frozen result of one measurement on one cell.

    ``paired`` and ``verdicts`` are derived from the records and the suite when the run file is
    built; ``telemetry`` summarises the machine's state, once per process (see
    `harness.machine.telemetry`). ``reference_only``: measured only because another cell is compared
    with it; ``reused_from``: the run in which a cached record was measured; ``noise``: the
    reference measured again, in another process and other batches, to see how large that
    difference is. ``looks``: only of a record that was measured until it was decided.
    ``same_night``: what was blessed, measured again beside it.
    """

    cell: CellFacts
    measurement: str
    protocol: dict[str, Any] = {}
    values: dict[str, Value] = {}
    items: dict[str, Any] = {}
    samples: dict[str, Any] = {}
    validity: Validity = Validity()
    seconds: dict[str, float] = {}
    telemetry: tuple[dict[str, Any], ...] = ()
    reference_only: bool = False
    noise: bool = False
    looks: Looks | None = None
    reused_from: str | None = None
    traceback: str = ""
    same_night: SameNight | None = None
    paired: dict[str, Value] = {}
    verdicts: tuple[Verdict, ...] = ()

    @property
    def usable(self) -> bool:
        """True where the values may be compared and judged."""
        return self.validity.status in ("ok", "flagged")

    def find(self, name: str) -> Value | None:
        """The value called ``name``, measured or paired."""
        return self.values.get(name) or self.paired.get(name)


def dump_json(model: BaseModel, indent: int | None = None) -> str:
    """JSON with short keys by alias; a NaN or infinity anywhere is written as null."""
    data = model.model_dump(mode="json", by_alias=True)
    return json.dumps(data, allow_nan=False, ensure_ascii=False, indent=indent)
