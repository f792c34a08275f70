"""A suspicious speed, judged by pairs of processes: the blessed commit and this run's code. Pure.

Both were measured in turn in one night, so what a night does to a machine falls on both alike.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from statistics import fmean, variance

from harness.records.record import Record, Verdict
from harness.statistics.estimates import t_quantile
from harness.statistics.moderated import Prior, squeeze
from harness.verdicts.decide import Harm, decide
from harness.verdicts.thresholds import Blessed, Threshold
from harness.verdicts.wording import show_change


def is_suspicious(record: Record) -> bool:
    """Whether one of its verdicts is, and nothing was measured yet to confirm it."""
    return record.same_night is None and any(one.suspicious for one in record.verdicts)


def confirm(
    verdict: Verdict, record: Record, blessed: Blessed, process: Prior, largest_p: float
) -> Verdict:
    """The verdict that the pairs give, or the same one where they decide nothing; both say so.

    FAIL and PASS follow the rule of the verdict that is replaced: its margin, and ``largest_p``.
    ``process`` is what all blessed speeds say of the variance of one process. A PASS needs all
    pairs, and that nothing but the code has changed since the blessing: both sides have today's
    libraries.
    """
    found = record.same_night
    if found is None or not verdict.suspicious or found.commit != blessed.commit:
        return verdict
    name, commit = verdict.metric.partition(".")[2], found.commit[:10]
    pairs = found.pairs.get(name, ())
    if len(pairs) < 2:
        why = found.lacking or f"two processes are needed on either side that give {name}"
        return _add(verdict, f"Not confirmed: {why}.")
    threshold = blessed.values[name]
    harm, ends = compare_pairs(pairs, threshold, process)
    decision = decide(harm, threshold.margin, "change", largest_p, found.doubts)
    sign = 1 if threshold.better == "lower" else -1
    ratio = 1 + sign * harm.estimate / threshold.value
    low, high = (show_change(end, is_ratio=True) for end in ends)
    shown = f"{show_change(ratio, is_ratio=True)} (95 % bounds {low} to {high}, {len(pairs)} pairs)"
    differs = f"in the same night it differs from {commit} by {shown}"
    outcome = decision.outcome
    if outcome == "FAIL":
        text = f"Confirmed: slower than {commit} in the same night: {shown}"
    elif outcome == "INCONCLUSIVE":
        text = f"In the same night it differs from {commit} by {shown}: {decision.why}"
    elif found.lacking:  # what is missing may be what is slow, or no longer runs
        text, outcome = f"Not cleared: {differs}, but not all was measured", "INCONCLUSIVE"
    elif found.changed:
        text, outcome = f"Not the code: {differs}; what is left is the machine, or ", "INCONCLUSIVE"
        text += f"what has changed for both: {found.changed}"
    else:
        text = f"The machine, not the code: {differs}"
    text += f"; pairs are missing: {found.lacking}." if found.lacking else "."
    if outcome == "INCONCLUSIVE":
        return _add(verdict, text)
    update = {"verdict": outcome, "smallest_detectable": decision.smallest_detectable}
    return _add(verdict.model_copy(update={**update, "enough": None}), text)


def compare_pairs(
    pairs: Sequence[tuple[float, float]], threshold: Threshold, process: Prior
) -> tuple[Harm, tuple[float, float]]:
    """The harm of this code in the threshold's unit; the one-sided 95 % bounds of its ratio.

    x = ln(now / commit) of each pair, mean ± t·s/√pairs. s² is moderated by what one process
    varies by: a pair has twice its variance. Raises ValueError for fewer than two pairs.
    """
    logs = [math.log(now / before) for before, now in pairs]
    n, mean = len(logs), fmean(logs)
    square, df = squeeze(variance(logs), n - 1, replace(process, variance=2 * process.variance))
    stderr = math.sqrt(square / n)
    reach = t_quantile(0.95, df) * stderr
    low, high = math.exp(mean - reach), math.exp(mean + reach)
    sign, value = 1 if threshold.better == "lower" else -1, threshold.value
    worst = sorted(sign * (end - 1) * value for end in (low, high))
    estimate = sign * math.expm1(mean) * value
    return Harm(estimate, (worst[0], worst[1]), stderr * value, df, "pairs", n), (low, high)


def _add(verdict: Verdict, sentence: str) -> Verdict:
    return verdict.model_copy(update={"text": f"{verdict.text} {sentence}"})
