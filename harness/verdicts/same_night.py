"""A suspicious speed, judged by pairs of processes: the blessed commit and this run's code. Pure.

Both were measured in turn in one night, so what a night does to a machine falls on both alike.
"""

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, variance

from harness.records.record import Record, Verdict
from harness.statistics.estimates import t_quantile
from harness.statistics.moderated import Prior, fit_scale, squeeze
from harness.verdicts.decide import Harm, decide
from harness.verdicts.looks import ERROR
from harness.verdicts.thresholds import Blessed, Threshold
from harness.verdicts.wording import show_change

# Under `--confirm` a speed has two tries. Of every error this share is the pairs', the rest the
# first judgement's, so that both together err no more often than one does without it.
PAIRS_SHARE = 0.2


def is_suspicious(record: Record) -> bool:
    """Whether one of its verdicts is, and nothing was measured yet to confirm it."""
    return record.same_night is None and any(one.suspicious for one in record.verdicts)


def confirm(
    verdict: Verdict, record: Record, blessed: Blessed, process: Prior, largest_p: float
) -> Verdict:
    """The verdict that the pairs give, or the same one where they decide nothing; both say so.

    FAIL and PASS follow the rule of the verdict that is replaced and its margin, with `PAIRS_SHARE`
    of the errors: of 5 %, and of ``largest_p``, which is both tries' of a FAIL. ``process`` is what
    all blessed speeds say of the variance of one process. A PASS needs all
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
    speeds = [found.pairs[one] for one in blessed.values if one in found.pairs]
    error = ERROR * PAIRS_SHARE
    harm, ends = compare_pairs(pairs, threshold, expect_spread(speeds, process), error)
    decision = decide(harm, threshold.margin, "change", largest_p * PAIRS_SHARE, found.doubts)
    sign = 1 if threshold.better == "lower" else -1
    ratio = 1 + sign * harm.estimate / threshold.value
    low, high = (show_change(end, is_ratio=True) for end in ends)
    shown = f"{show_change(ratio, is_ratio=True)} ({100 * (1 - error):.0f} % bounds {low} to {high}"
    shown += f", {len(pairs)} pairs)"
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


def expect_spread(speeds: Iterable[Sequence[tuple[float, float]]], process: Prior) -> Prior:
    """What the variance of one pair is expected to be: twice that of ``process``, or tonight's.

    The blessed nights say how speeds differ in their spread. How much all of them vary tonight, the
    pairs of all ``speeds`` of the record say; where that is more, it is what counts. Either way no
    variance is taken to be surer than tonight's pairs make it.
    """
    alike = [one for one in speeds if len(one) > 1]
    usual = Prior(2 * process.variance, process.df, process.pooled)
    if not alike:
        return usual
    n = max(map(len, alike))
    return fit_scale(usual, [variance(_compare(one)) for one in alike if len(one) == n], n - 1)


def compare_pairs(
    pairs: Sequence[tuple[float, float]], threshold: Threshold, pair: Prior, error: float = ERROR
) -> tuple[Harm, tuple[float, float]]:
    """The harm of this code in the threshold's unit; the one-sided bounds of its ratio.

    x = ln(now / commit) of each pair, mean ± t·s/√pairs. s² is moderated by ``pair``, what the
    variance of a pair is expected to be. ``error`` is how often one of the bounds may be wrong.
    Raises ValueError for fewer than two pairs.
    """
    logs = _compare(pairs)
    n, mean = len(logs), fmean(logs)
    square, df = squeeze(variance(logs), n - 1, pair)
    stderr = math.sqrt(square / n)
    reach = t_quantile(1 - error, df) * stderr
    low, high = math.exp(mean - reach), math.exp(mean + reach)
    sign, value = 1 if threshold.better == "lower" else -1, threshold.value
    worst = sorted(sign * (end - 1) * value for end in (low, high))
    estimate = sign * math.expm1(mean) * value
    ends, spread = (worst[0], worst[1]), stderr * value
    return Harm(estimate, ends, spread, df, "pairs", n, error=error), (low, high)


def _compare(pairs: Sequence[tuple[float, float]]) -> list[float]:
    return [math.log(now / before) for before, now in pairs]


def _add(verdict: Verdict, sentence: str) -> Verdict:
    return verdict.model_copy(update={"text": f"{verdict.text} {sentence}"})
