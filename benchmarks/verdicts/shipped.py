"""What the shipped suites leave undecided where nothing is wrong, with their own numbers of items.

How many answers flip and how far windows scatter is measured for the smoke suite, on a CPU (the
16-bit formats changed no answer of 504, nf4 five, fp4 eleven), and assumed for the others, whose
models and tasks flip more.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records.values import find_spec
from harness.suite.models import Limit, Suite
from harness.suite.read import load_suite
from verdicts.judges import COMPARE, limit_judge
from verdicts.share import Share
from verdicts.worlds import World, answer_items, diverge, read_chunks, time_processes

if TYPE_CHECKING:
    from verdicts.simulated import Tries

_FOLDER = Path(__file__).resolve().parents[2] / "suites"
SUITES = tuple(
    _FOLDER / f"{name}.yaml" for name in ("nightly", "llama-1b", "smoke", "gpt2", "speed")
)
_MOST = 0.10
# Items of a whole task, windows of a whole text: what `limit` of a suite takes the first of.
_ITEMS = {
    "mmlu": 14_042,
    "hellaswag": 10_042,
    "arc_challenge": 1_172,
    "gsm8k": 1_319,
    "lambada": 5_153,
}
_SUBJECTS = 57  # of mmlu, whose limit is per subject
_SMOKE_ITEMS, _SMOKE_WINDOWS, _SMOKE_CHUNKS = 504, 87, 44
_TOKENS = 287_000  # of WikiText-2's test split, roughly
# By precision: share of answers that flip, standard deviation of a window's mean in nats/token.
_ASSUMED = {"int8": (0.05, 0.005), "nf4": (0.08, 0.02), "nf4-dq": (0.08, 0.02), "fp4": (0.12, 0.15)}
_SIXTEEN_BIT = (0.02, 0.002)
# Of the smoke suite: share that flips, all of them lost.
_MEASURED = {"nf4": 0.010, "nf4-dq": 0.010, "fp4": 0.022}
_BETWEEN_RUNS = {"smoke": 0.002}  # share of answers that flip from one commit to the next
_USUALLY = 0.01
_PROCESS = 0.02
_CORRELATION = 0.26


def check_shipped(tries: Tries, path: Path) -> list[Share]:
    """Limits where the truth is half of what they allow (16-bit formats: none of it; the smoke
    suite's answers: as measured); and margins.

    Margins: a later commit that changes nothing but a few answers, and speeds of the same night.
    """
    suite, shares = load_suite(path, path.parent), []
    for limit in suite.limits:
        spec = find_spec(limit.family, limit.value)
        if spec is not None and spec.sampled:
            shares += [_check_limit(tries, suite, limit, one) for one in limit.precision]
    for spread, most in ((0.01, _MOST), (_PROCESS, None)):
        for speed in ("decode_tokens_per_s[1]", "prefill_tokens_per_s[1]"):
            shares += _check_speed(tries, suite, speed, spread, most)
    for name, items in _list_tasks(suite):
        flips = _BETWEEN_RUNS.get(suite.name, _USUALLY)
        world = answer_items(items, flips)
        label = f"{suite.name}.yaml, {name}: {items:,} items, {flips:.1%} flip"
        found = tries.ask(label, lambda rng, world=world: COMPARE.ask(world, rng, 0.0))
        undecided = sum(one.outcome == "INCONCLUSIVE" for one in found)
        share = Share("compare", label, "undecided", undecided, tries.repeats, at_most=_MOST)
        shares.append(share)
    return shares


def _check_speed(
    tries: Tries, suite: Suite, speed: str, spread: float, most: float | None
) -> list[Share]:
    """Two runs of one night, each of as many processes as the suite asks for; none where of one."""
    for one in suite.measurements:
        processes = one.options.repeats
        if one.name != "throughput" or processes == 1:
            continue
        world = time_processes(speed, spread, processes, processes)
        label = f"{suite.name}.yaml, {world.name}"
        found = tries.ask(label, lambda rng, world=world: COMPARE.ask(world, rng, 0.0))
        undecided = sum(one.outcome == "INCONCLUSIVE" for one in found)
        return [Share("compare", label, "undecided", undecided, tries.repeats, at_most=most)]
    return []


def _check_limit(tries: Tries, suite: Suite, limit: Limit, precision: str) -> Share:
    sides = [(name, b) for name, b in (("max", limit.max), ("min", limit.min)) if b is not None]
    shown = ", ".join(f"{name} {bound:g}" for name, bound in sides)
    label = f"{suite.name}.yaml, {precision}: {limit.metric} {shown}"
    undecided = tries.repeats
    for name, bound in sides:
        world, harm = _make_world(suite, limit, precision, bound)
        judge = limit_judge(_stand_in(limit), name, bound)  # type: ignore[arg-type]
        found = tries.ask(f"{label} {name}", lambda rng, j=judge, w=world, h=harm: j.ask(w, rng, h))
        undecided = min(undecided, sum(one.outcome == "INCONCLUSIVE" for one in found))
    return Share(
        "limit", label, "harmless truth: undecided", undecided, tries.repeats, at_most=_MOST
    )


def _stand_in(limit: Limit) -> str:
    """The same value of a measurement that there are simulated records of."""
    family = "mmlu" if limit.family in _ITEMS else limit.family
    return f"{family}.{limit.value.removesuffix('_norm')}"


def _make_world(suite: Suite, limit: Limit, precision: str, bound: float) -> tuple[World, float]:
    """As large a sample as the suite takes, and a harm of half of what is allowed."""
    flips, scatter = _ASSUMED.get(precision, _SIXTEEN_BIT)
    part = 0.5 if precision in _ASSUMED else 0.0
    smoke = suite.name == "smoke"
    items = dict(_list_tasks(suite)).get(limit.family, 0)
    if smoke and items:
        lost = _MEASURED.get(precision, 0.0)
        return answer_items(items, max(lost, _BETWEEN_RUNS["smoke"])), lost
    if limit.value.startswith("accuracy_drop"):
        return answer_items(items, flips), bound * part
    if limit.value.startswith("retention"):
        return answer_items(items, flips), (1 - bound) * 0.6 * part
    if limit.value == "flip_rate":
        return answer_items(items, flips), 0.0
    if limit.value == "kl_mean":
        return diverge(_SMOKE_CHUNKS, 0.0, mean=bound / 2), 0.0
    if limit.value == "ratio":
        options = next(m.options for m in suite.measurements if m.name == limit.family)
        step = getattr(options, "stride", None) or getattr(options, "context", 1)
        windows = _SMOKE_WINDOWS if smoke else _TOKENS // step
        correlation = 0.0 if smoke else _CORRELATION
        return read_chunks(windows, scatter, correlation=correlation), (bound - 1) * part
    if limit.value == "decode_speedup":
        return time_processes("decode_tokens_per_s[1]", _PROCESS, 3, 3), 0.0
    raise ValueError(f"no world for a limit on {limit.metric}")


def _list_tasks(suite: Suite) -> Iterator[tuple[str, int]]:
    for one in suite.measurements:
        if one.name not in _ITEMS:
            continue
        limit = getattr(one.options, "limit", None)
        if suite.name == "smoke":
            yield one.name, _SMOKE_ITEMS
        elif limit is None:
            yield one.name, _ITEMS[one.name]
        else:
            yield one.name, limit * (_SUBJECTS if one.name == "mmlu" else 1)
