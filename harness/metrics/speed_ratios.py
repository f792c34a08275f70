"""Speeds beside the reference's, and what a reader must be told of them. Pure; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import takewhile

from harness.descriptions import ValueSpec
from harness.metrics.speed_repeats import processes_of
from harness.records.record import Record, Value
from harness.records.values import base_name, make_values, qualifier, qualify, to_value
from harness.statistics.estimates import welch_ratio_interval

_SLOWER = 0.02
_RATIOS = {
    "prefill_speedup": "prefill_tokens_per_s",
    "decode_speedup": "decode_tokens_per_s",
    "step_bytes_ratio": "step_bytes",
}


def name_shape(batch: int, prompt_tokens: int | None) -> str:
    """``8``, or ``8x512`` where there is more than one length of prompt."""
    return str(batch) if prompt_tokens is None else f"{batch}x{prompt_tokens}"


def compare_speeds(
    candidate: Record, reference: Record, specs: Mapping[str, ValueSpec]
) -> dict[str, Value]:
    """Ratios of what both have, and per prompt length the batch size from which decoding pays.

    A ratio has an interval where a side was measured in several processes.
    """
    found: dict[str, Value] = {}
    for name, of in _RATIOS.items():
        for measured, ours in candidate.values.items():
            theirs = reference.values.get(measured)
            if base_name(measured) == of and theirs is not None:
                ratio = _divide(ours, theirs, specs[name])
                if ratio is not None:
                    found[name + measured.removeprefix(of)] = ratio
    numbers = {name: value.value for name, value in found.items()}
    for prompt, speedups in _by_prompt(numbers, "decode_speedup").items():
        name = qualify("pays_from_batch", prompt) if prompt else "pays_from_batch"
        found |= make_values(specs, {name: pays_from(speedups)})
    return found


def _divide(ours: Value, theirs: Value, spec: ValueSpec) -> Value | None:
    above, below = processes_of(ours), processes_of(theirs)
    if above is None or below is None:
        return None
    if spec.sampled is None or (above.spread is None and below.spread is None):
        return Value(value=above.mean / below.mean, unit=spec.unit, better=spec.better)
    return to_value(spec, welch_ratio_interval(below, above))


def pays_from(speedups: Mapping[int, float]) -> int | None:
    """The smallest batch size from which on every speedup is at least 1; None for none."""
    paying = list(takewhile(lambda batch: speedups[batch] >= 1, sorted(speedups, reverse=True)))
    return paying[-1] if paying else None


def tell_smaller_but_slower(record: Record) -> list[str]:
    """A sentence per prompt length at which a smaller cell decodes slower than the reference.

    Slower by more than 2 %, and than the reference differs from itself where that was measured;
    surely so, where several processes gave an interval.
    """
    paired = {name: value.value for name, value in record.paired.items()}
    floors = {name: value.floor or 0.0 for name, value in record.paired.items()}
    highest = {
        name: value.interval[1] if value.interval else value.value
        for name, value in record.paired.items()
    }
    sizes = _by_prompt(paired, "step_bytes_ratio")
    told = []
    for prompt, speedups in _by_prompt(paired, "decode_speedup").items():
        slower = [
            f"{batch} (×{speedup:.2f})"
            for batch, speedup in sorted(speedups.items())
            if sizes.get(prompt, {}).get(batch, 1) < 1
            for name in [_speedup_at(batch, prompt)]
            if (highest[name] or speedup) < 1 - max(_SLOWER, floors[name])
        ]
        if slower:
            at = f" after {prompt} tokens" if prompt else ""
            pays = pays_from(speedups)
            told.append(
                f"{record.cell.precision} is smaller than the reference but slower at batch "
                f"{', '.join(slower)}{at}; it pays "
                + ("at no measured batch size" if pays is None else f"from batch {pays}")
            )
    return told


def judge_shares(
    numbers: Mapping[str, int | float | None], cache_bytes: int | None, int8: bool
) -> tuple[list[str], list[str]]:
    """Shares of a peak that are above 1: those nobody can have, and those with an explanation.

    ``cache_bytes`` is the last-level cache: what fits is read from there, faster than the memory
    that the bandwidth is of. ``int8`` products are faster than those of the peak.
    """
    mistakes, explained = [], []
    for name, number in numbers.items():
        if number is None or number <= 1:
            continue
        of = qualifier(name)
        if base_name(name) == "mbu":
            read = numbers.get(qualify("step_bytes", of))
            if read is not None and cache_bytes is not None and read <= cache_bytes:
                explained.append(f"MBU above 1 at batch {of}: all fits into the last-level cache")
            else:
                mistakes.append(
                    f"MBU {number:.2f} at batch {of}: more than a copy reaches, so the bytes of a "
                    "step, the copy or the clock is wrong; or reading alone outruns copying"
                )
        elif base_name(name) == "prefill_flop_utilisation":
            if int8:
                explained.append(
                    f"prefill above the peak at batch {of}: int8 products beside a peak of floats"
                )
            else:
                mistakes.append(
                    f"prefill FLOP utilisation {number:.2f} at batch {of}: more than a matrix "
                    "product reaches, so the count of the work, the peak or the clock is wrong"
                )
    return mistakes, explained


def _speedup_at(batch: int, prompt: str) -> str:
    return qualify("decode_speedup", f"{batch}x{prompt}" if prompt else batch)


def _by_prompt(
    numbers: Mapping[str, int | float | None], name: str
) -> dict[str, dict[int, int | float]]:
    """Prompt length ('' for the only one) -> batch size -> the value called ``name``."""
    found: dict[str, dict[int, int | float]] = {}
    for full, number in numbers.items():
        if base_name(full) == name and number is not None:
            batch, _, prompt = qualifier(full).partition("x")
            found.setdefault(prompt, {})[int(batch)] = number
    return found
