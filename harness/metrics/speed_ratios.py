"""Speeds compared with the reference's and with the device's peaks, and remarks on both. Pure."""

from collections.abc import Mapping
from itertools import takewhile
from typing import Any

from harness.descriptions import ValueSpec
from harness.metrics.speed_values import VALUES, split_workload
from harness.records.record import Record, Value
from harness.records.values import (
    base_name,
    make_values,
    processes_of,
    qualifier,
    qualify,
    to_value,
)
from harness.statistics.estimates import welch_ratio_interval

_SLOWER = 0.02
# Shares of a peak: how they are called, what is wrong or why it is right where they are above 1.
_SHARES = {
    "mbu": (
        "MBU",
        "more than a copy reaches, so the bytes of a step, the copy or the clock is wrong; or "
        "reading alone outruns copying",
        "all fits into the last-level cache",
    ),
    "prefill_flop_utilisation": (
        "prefill FLOP utilisation",
        "more than a matrix product reaches, so the count of the work, the peak or the clock is "
        "wrong",
        "int8 products, and a peak of floats",
    ),
}


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """Ratios of values that both have, and the batch size from which on decoding pays.

    The latter per prompt length, and apart for compiled decoding. A ratio has an interval where
    either side was measured in several processes.
    """
    found: dict[str, Value] = {}
    for name, spec in VALUES.items():
        for measured, ours in candidate.values.items():
            theirs = reference.values.get(measured)
            if spec.of and base_name(measured) == spec.of and theirs is not None:
                ratio = _divide(ours, theirs, spec)
                if ratio is not None:
                    found[name + measured.removeprefix(spec.of)] = ratio
    for group, speedups in _group(found, "decode_speedup").items():
        name = qualify("pays_from_batch", group) if group else "pays_from_batch"
        found |= make_values(VALUES, {name: pays_from(speedups)})
    return found


def pays_from(speedups: Mapping[int, Value]) -> int | None:
    """The smallest batch size from which on every speedup is at least 1; None for none."""
    by_size = sorted(speedups, reverse=True)
    paying = list(takewhile(lambda batch: (speedups[batch].value or 0) >= 1, by_size))
    return paying[-1] if paying else None


def remarks(record: Record) -> list[str]:
    """How it was measured, where that needs saying, and where a smaller cell decodes slower.

    Also shares of a peak above 1 that have an explanation. Slower by more than 2 %, and by more
    than the reference's own noise where that was measured; of several processes with 97.5 %
    confidence. A sentence per prompt length, and one for compiled decoding.
    """
    method = record.protocol.get("method", {})
    sizes = _group(record.paired, "step_bytes_ratio")
    sentences = _tell_how(record)
    for group, speedups in _group(record.paired, "decode_speedup").items():
        smaller = {batch: value.value or 1 for batch, value in sizes.get(group, {}).items()}
        slower = [
            f"{batch} (×{speedup.value:.2f})"
            for batch, speedup in sorted(speedups.items())
            if smaller.get(batch, 1) < 1 and _is_slower(speedup)
        ]
        if slower:
            words = (f"after {w} tokens" if w.isdigit() else f"when {w}" for w in group.split())
            at = "".join(f" {part}" for part in words)
            pays = pays_from(speedups)
            flagged = record.validity.status == "flagged" or any(s.doubt for s in speedups.values())
            sentences.append(
                "smaller than the reference but slower at batch "
                f"{', '.join(slower)}{at}; it pays "
                + ("at no measured batch size" if pays is None else f"from batch {pays}")
                + ("; in doubt: a number that it rests on is flagged" if flagged else "")
            )
    return [*sentences, *explain_shares(record.values, method)[1]]


def _tell_how(record: Record) -> list[str]:
    """What was compiled and what could not be; on CUDA, kernels that a speed is slow by."""
    method = record.protocol.get("method", {})
    sentences = [
        f"nothing was measured at batch {workload}: {why}"
        for workload, why in method.get("not_compiled", {}).items()
    ]
    if record.protocol.get("compile"):
        sentences.append("decode steps are compiled, prompts are not")
    if not record.cell.device.startswith("cuda"):
        return sentences
    skipped = [name for name, n in method.get("cuda_graphs_skipped", {}).items() if n]
    if skipped:
        sentences.append(
            f"torch.compile went without CUDA graphs at batch {', '.join(skipped)}, in part or "
            "altogether: the host's time to start each kernel is in these speeds"
        )
    kernels = record.protocol.get("attention_kernels") or {}
    by_workload = {name: of for name, of in kernels.items() if isinstance(of, Mapping)}
    whole = [name for name, of in by_workload.items() if "math" in (of.get("prompt") or "")]
    if whole:
        sentences.append(
            f"torch's attention held all scores of a prompt (kernel `math`) at batch "
            f"{', '.join(whole)}: slower than a fused kernel, and its memory grows with the square "
            "of the length"
        )
    return sentences


def explain_shares(
    values: Mapping[str, Value], method: Mapping[str, Any]
) -> tuple[list[str], list[str]]:
    """Sentences on shares of a peak above 1: mistakes, and those that have an explanation.

    Weights that fit into the last-level cache are read from there, faster than from the memory
    whose bandwidth was measured. int8 products are faster than those of the peak.
    """
    mistakes, explained = [], []
    for name, value in values.items():
        share, batch = base_name(name), qualifier(name)
        if share not in _SHARES or value.value is None or value.value <= 1:
            continue
        title, mistake, explanation = _SHARES[share]
        read = values.get(qualify("step_bytes", batch), Value(value=None)).value
        cached = read is not None and read <= (method.get("last_level_cache_bytes") or 0)
        if cached if share == "mbu" else method.get("products") == "int8":
            explained.append(f"{title} above 1 at batch {batch}: {explanation}")
        else:
            mistakes.append(f"{title} {value.value:.2f} at batch {batch}: {mistake}")
    return mistakes, explained


def _divide(ours: Value, theirs: Value, spec: ValueSpec) -> Value | None:
    above, below = processes_of(ours), processes_of(theirs)
    if above is None or below is None:
        return None
    if spec.sampled is None or (above.spread is None and below.spread is None):
        return Value(value=above.mean / below.mean, unit=spec.unit, better=spec.better)
    return to_value(spec, welch_ratio_interval(below, above))


def _is_slower(speedup: Value) -> bool:
    highest = speedup.interval[1] if speedup.interval else speedup.value
    return (highest or speedup.value or 1) < 1 - max(_SLOWER, speedup.floor or 0.0)


def _group(values: Mapping[str, Value], name: str) -> dict[str, dict[int, Value]]:
    """All but the batch size (``""``, ``512``, ``compiled``) -> batch size -> value of ``name``."""
    found: dict[str, dict[int, Value]] = {}
    for full, value in values.items():
        if base_name(full) == name and value.value is not None:
            batch, group = split_workload(qualifier(full))
            found.setdefault(group, {})[batch] = value
    return found
