"""The values of throughput and how they are shown. Pure; no torch."""

from typing import Any

from harness.descriptions import Chart, Column, Margin, ValueSpec, Weighed

# A prompt is a single pass, and so less steady than the many steps of decoding.
_PREFILL, _DECODE = Margin(relative=0.05), Margin(relative=0.03)


def _per_batch(unit: str, better: Any, text: str, **given: Any) -> ValueSpec:
    """A value per workload, which varies from process to process."""
    return ValueSpec(unit, better, text, **{"per": "batch size", "sampled": "processes"} | given)


def _time(text: str) -> ValueSpec:
    return _per_batch("s", "lower", text)


def _speedup_of(name: str, margin: Margin) -> ValueSpec:
    return _per_batch(
        "", "higher", "over the reference", paired=True, of=name, neutral=1.0, margin=margin
    )


VALUES = {
    "prefill_tokens_per_s": _per_batch(
        "tokens/s", "higher", "batch*prompt/TTFT", margin=_PREFILL
    ),
    "decode_tokens_per_s": _per_batch("tokens/s", "higher", "batch/TPOT", margin=_DECODE),
    "ttft_s": _time("time to first token, median"),
    "tpot_s": _time("time per output token, median"),
    "itl_p50_s": _time("single gap between tokens, over all rounds: median"),
    "itl_p90_s": _time("its 90th percentile"),
    "itl_p99_s": _time("its 99th percentile, from 1,000 gaps on"),
    "ttft_device_s": _time("time to first token by CUDA events"),
    "tpot_device_s": _time("time per output token by CUDA events"),
    "compile_s": _time("torch.compile, and the first generation with it"),
    "energy_j_per_token": _per_batch("J", "lower", "of the whole GPU per new token, with prompt"),
    "step_bytes": _per_batch(
        "bytes", "lower", "read per decode step: weights, and cache at the mean context",
        sampled=None,
    ),
    "mbu": _per_batch("", "higher", "step_bytes/TPOT over the bandwidth"),
    "prefill_flop_utilisation": _per_batch("", "higher", "FLOP of the prompt/TTFT over the peak"),
    "load_s": _per_batch("s", "lower", "loading the model", per=None),
    "bandwidth_bytes_per_s": ValueSpec("bytes/s", None, "copy in this process, read plus write"),
    "matmul_flop_per_s": ValueSpec("FLOP/s", None, "matrix product in this process, at best"),
    "prefill_speedup": _speedup_of("prefill_tokens_per_s", _PREFILL),
    "decode_speedup": _speedup_of("decode_tokens_per_s", _DECODE),
    "step_bytes_ratio": _per_batch(
        "", "lower", "over the reference's", sampled=None, paired=True, of="step_bytes", neutral=1.0
    ),
    "pays_from_batch": ValueSpec(
        "sequences", "lower", "smallest batch from which on decoding is no slower than the "
        "reference's", "prompt length", total=True, paired=True, neutral=None,
    ),
}  # fmt: skip
COMPILED = " compiled"  # ends the name of a workload that is measured compiled beside the other
# A prompt is never compiled, so such a workload has no values of it.
OF_PROMPT = frozenset({"prefill_tokens_per_s", "ttft_s", "ttft_device_s"})
HEADLINE = (
    Column("prefill\ntok/s\nbatch {}", "prefill_tokens_per_s", ",.0f"),
    Column("decode\ntok/s\nbatch {}", "decode_tokens_per_s", ",.1f"),
    Column("decode\n×ref\nbatch {}", "decode_speedup", ".2f", stderr=True),
)
WEIGHS: dict[Weighed, Column] = {
    "speed": Column("decoding at batch {}, tokens/s", "decode_tokens_per_s", ",.1f", stderr=True)
}
CHARTS = (
    Chart(
        "decode speed by batch size",
        (Column("decode, tokens/s", "decode_tokens_per_s", ",.1f", stderr=True),),
        share="mbu",
    ),
    Chart(
        "prefill speed by batch size",
        (Column("prefill, tokens/s", "prefill_tokens_per_s", ",.0f", stderr=True),),
        share="prefill_flop_utilisation",
    ),
)
DETAILS = (
    Column("load\ns", "load_s", ".2f"),
    Column("copy\nGB/s", "bandwidth_bytes_per_s", ",.1f", 1e9),
    Column("products\nTFLOP/s", "matmul_flop_per_s", ",.2f", 1e12),
    Column("TTFT\nms", "ttft_s", ",.2f", 1e-3),
    Column("TPOT\nms", "tpot_s", ",.2f", 1e-3),
    Column("ITL p50\nms", "itl_p50_s", ",.2f", 1e-3),
    Column("ITL p90\nms", "itl_p90_s", ",.2f", 1e-3),
    Column("ITL p99\nms", "itl_p99_s", ",.2f", 1e-3),
    Column("MBU", "mbu", ".2f"),
    Column("prefill\nFLOP share", "prefill_flop_utilisation", ".2f"),
    Column("J per\ntoken", "energy_j_per_token", ".3f"),
)


def split_workload(name: str) -> tuple[int, str]:
    """The batch size of ``8x512 compiled``, and the rest, ``512 compiled``."""
    size, _, mode = name.partition(" ")
    batch, _, prompt = size.partition("x")
    return int(batch), " ".join(filter(None, (prompt, mode)))
