"""The values of `divergence`, and how they are computed from per-token numbers. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.descriptions import Margin, ValueSpec
from harness.metrics.text_windows import TOKEN_COUNTS, Window
from harness.records.record import Value
from harness.records.values import base_name, make_values, qualify, to_value
from harness.statistics.estimates import clustered_mean, positive_interval

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

QUARTERS = ("q1", "q2", "q3", "q4")


def _paired(unit: str, better: Any, text: str, **more: Any) -> ValueSpec:
    return ValueSpec(unit, better, text, paired=True, **more)


_KL: dict[str, Any] = {"sampled": "chunks", "margin": Margin(absolute=1e-4, relative=0.05)}
_TOP1: dict[str, Any] = {"sampled": "chunks", "margin": Margin(absolute=0.005)}
DIVERGENCE_VALUES = {
    "kl_mean": _paired(
        "nats/token", "lower", "mean KL(reference‖candidate)", per="quarter", total=True,
        lists=("chunk_kl", "chunk_tokens"), **_KL
    ),
    "kl_median": _paired("nats", "lower", "median over tokens of KL(reference‖candidate)"),
    "kl_p90": _paired("nats", "lower", "its 90th percentile over tokens"),
    "kl_p99": _paired("nats", "lower", "its 99th percentile over tokens"),
    "kl_p999": _paired("nats", "lower", "its 99.9th percentile over tokens"),
    "kl_max": _paired("nats", "lower", "KL at the token farthest from the reference"),
    "kl_increase": _paired(
        "nats/token", "lower", "kl_mean - an earlier run's, same tokens; between runs only",
        of="kl_mean", **_KL,
    ),
    "top1_agreement": _paired(
        "", "higher", "share of tokens with the same likeliest token",
        per="quarter", total=True, neutral=1.0, lists=("chunk_agrees", "chunk_tokens"), **_TOP1,
    ),
    "top1_decrease": _paired(
        "", "lower", "an earlier run's top1_agreement - top1_agreement; between runs only",
        of="top1_agreement", **_TOP1,
    ),
    "delta_p_mean": _paired(
        "", None, "mean of p(true token) - the reference's p(true token)", sampled="chunks"
    ),
    "delta_p_rms": _paired("", "lower", "root mean square of that difference", sampled="chunks"),
    **TOKEN_COUNTS,
    "stored_bytes": ValueSpec("bytes", None, "size of the reference's distribution on disk"),
}  # fmt: skip
# numpy's default: linear between the two nearest ranks.
_PERCENTILES = {"kl_median": 50, "kl_p90": 90, "kl_p99": 99, "kl_p999": 99.9, "kl_max": 100}


def summarise(
    found: npt.NDArray[np.float64], windows: Sequence[Window], context: int
) -> tuple[dict[str, Value], dict[str, list[float]]]:
    """The values, and each window's sums for comparisons between runs.

    ``found`` (3, tokens): `harness.scoring.compare_distributions.compare_logits`, windows in order.
    Standard errors take tokens of one window as dependent. A quarter without scored tokens has no
    values.
    """
    import numpy as np

    kl, agrees, delta_p = found
    window_of = np.repeat(np.arange(len(windows)), [window.scored for window in windows])
    quarter_of = find_quarters(windows, context)
    numbers: dict[str, float | None] = {}
    spread: dict[str, float | None] = {}
    clusters: dict[str, int] = {}
    intervals: dict[str, Value] = {}

    def add_mean(name: str, per_token: npt.NDArray[np.float64], where: Any = ...) -> None:
        counts = np.bincount(window_of[where], minlength=len(windows))
        sums = np.bincount(window_of[where], per_token[where], minlength=len(windows))
        has = counts > 0
        if has.any():
            given = sums[has].tolist(), counts[has].tolist()
            numbers[name], spread[name] = clustered_mean(*given)
            clusters[name] = int(has.sum())
            if base_name(name) == "kl_mean" and (interval := positive_interval(*given)):
                intervals[name] = to_value(DIVERGENCE_VALUES["kl_mean"], interval)

    for name, per_token in (("kl_mean", kl), ("top1_agreement", agrees)):
        add_mean(name, per_token)
        for index, quarter in enumerate(QUARTERS):
            add_mean(qualify(name, quarter), per_token, quarter_of == index)
    add_mean("delta_p_mean", delta_p)
    add_mean("delta_p_rms", delta_p**2)
    rms = numbers["delta_p_rms"] = math.sqrt(numbers["delta_p_rms"] or 0.0)
    squares_stderr = spread["delta_p_rms"]
    # The derivative of a square root: the error of x² is 2x times that of x.
    spread["delta_p_rms"] = squares_stderr / (2 * rms) if squares_stderr and rms else squares_stderr
    for name, percent in _PERCENTILES.items():
        numbers[name] = float(np.percentile(kl, percent))
    items = {
        "chunk_kl": np.bincount(window_of, kl).tolist(),
        "chunk_agrees": np.bincount(window_of, agrees).astype(int).tolist(),
    }
    return make_values(DIVERGENCE_VALUES, numbers, spread, clusters) | intervals, items


def find_quarters(windows: Sequence[Window], context: int) -> npt.NDArray[np.int64]:
    """0 to 3 for each scored token, by how much of ``context`` was in front of it."""
    import numpy as np

    before = [np.arange(w.stop - w.scored, w.stop) - w.start for w in windows]
    return np.minimum(3, 4 * np.concatenate(before) // context)
