"""What follows from which items were right: shares, their spread, and the comparison by item.

Shared by every task. An item's outcome is one character of a row: ``1`` right, ``0`` wrong, ``-``
not scored. The rows are named ``right``, ``right_norm`` …; what is computed of the second has its
ending in the name, too (``retention_norm``). Pure; no torch.
"""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from string import ascii_uppercase
from typing import Any

from harness.descriptions import Column, Margin, ValueSpec, Weighed
from harness.records.record import Record, Value
from harness.records.values import base_name, make_values, qualify, to_value
from harness.statistics.estimates import Estimate, clustered_interval
from harness.statistics.shares import (
    flip_rate_interval,
    paired_difference,
    share_interval,
    share_ratio_interval,
)

_MARGIN = Margin(absolute=0.01)


def describe_share(text: str, row: str, answers: str | None, per: str | None = None) -> ValueSpec:
    """A share of items: the mean of ``row``, what was answered being in ``answers``."""
    total = per is not None
    return ValueSpec(
        "", "higher", text, per, total, sampled="items", margin=_MARGIN, row=row, answers=answers
    )


def describe_pairs(of: str, ending: str = "", per: str | None = None) -> dict[str, ValueSpec]:
    """The drop and the retention of the share ``of``, compared with the reference."""
    drop = f"reference's {of} - {of}, same items" + (f"; [{per}]: of one" if per else "")
    ratio = f"{of} / reference's {of}, same items"
    more: dict[str, Any] = {"per": per, "total": per is not None, "margin": _MARGIN}
    return {
        f"accuracy{ending}_drop": _paired(of, drop, sampled="items", **more),
        f"retention{ending}": _paired(of, ratio, "higher", sampled="items", neutral=1.0),
    }


def describe_flips(of: str) -> dict[str, ValueSpec]:
    """The items that the share ``of`` gained and lost, compared with the reference."""
    change = "items with another answer, right or wrong"
    return {
        "flip_rate": _paired(of, "items right on one side only", sampled="items"),
        "answer_change_rate": _paired(of, change, sampled="items"),
        "right_to_wrong": _paired(of, "right only in the reference", unit="items"),
        "wrong_to_right": _paired(of, "right only in the candidate", None, unit="items"),
    }


def _paired(of: str, text: str, better: Any = "lower", unit: str = "", **more: Any) -> ValueSpec:
    return ValueSpec(unit, better, text, paired=True, of=of, **more)


def describe_answers() -> dict[str, ValueSpec]:
    """How sure the right answers are, compared with the reference: an early warning, no accuracy.

    Without margins, so that nothing is compared or blessed by them: how many nats a point of
    accuracy costs differs from model to model. A suite may state limits.
    """
    logprob = "mean log-probability of the right option among the options"
    margin = "mean distance of the right option's log-likelihood from the best wrong one's"
    return {
        "answer_logprob": ValueSpec("nats", "higher", logprob, sampled="items"),
        "answer_margin": ValueSpec("nats", "higher", margin, sampled="items"),
        "answer_logprob_drop": _paired(
            "answer_logprob",
            "reference's answer_logprob - answer_logprob, same items; an early warning",
            unit="nats",
            sampled="items",
        ),
        "answer_margin_drop": _paired(
            "answer_margin",
            "reference's answer_margin - answer_margin, same items; an early warning",
            unit="nats",
            sampled="items",
        ),
    }


COUNTS = {
    "items": ValueSpec("items", None, "items scored"),
    "too_long": ValueSpec("items", "lower", "items left out: prompt exceeds the model's context"),
    "tokens_forwarded": ValueSpec("tokens", "lower", "tokens computed, padding excluded"),
    "tokens_unique": ValueSpec("tokens", None, "tokens that differ in what precedes them"),
}
CHOICE_VALUES = {
    "acc": describe_share("share of items right; [subject]: of one", "right", "chosen", "subject"),
    "acc_macro": ValueSpec("", "higher", "mean of the subjects' acc", sampled="items"),
    **COUNTS,
    "ties": ValueSpec("items", None, "items whose two best options are within 1e-3 nats"),
    **describe_pairs("acc", per="subject"),
    **describe_flips("acc"),
    **describe_answers(),
}
NORMED_VALUES = {
    "acc_norm": describe_share(
        "acc by log-likelihood per character; [subject]: of one",
        "right_norm",
        "chosen_norm",
        "subject",
    ),
    **CHOICE_VALUES,
    **describe_pairs("acc_norm", "_norm"),
}


def headline(title: str, value: str = "acc", ending: str = "") -> tuple[Column, ...]:
    """The summary's columns of a task: a share and what the precision costs of it."""
    heading, drop = (f"{title}\n{value}", f"{ending[1:]} drop") if ending else (title, "drop")
    return (
        Column(heading, value, ".3f"),
        Column(drop, f"accuracy{ending}_drop", "+.3f", stderr=True),
    )


def weigh_drop(columns: Sequence[Column]) -> dict[Weighed, Column]:
    """What a precision is chosen by: the drop that `headline` shows, in points."""
    drop = replace(columns[-1], title="accuracy lost, points", format="+.1f", scale=0.01)
    return {"quality": drop}


def summarise_rows(
    specs: Mapping[str, ValueSpec], rows: Mapping[str, Any], subjects: Mapping[str, int]
) -> dict[str, Value]:
    """The shares that ``specs`` describes, with their spread, from a record's ``rows``.

    ``subjects`` maps each to its number of items, in the items' order; with more than one there
    is also a share per subject, and ``acc_macro``, the mean of theirs.
    """
    shares: dict[str, Estimate] = {}
    for name, spec in specs.items():
        groups = {name: rows[spec.row]} if spec.row else {}
        if spec.row and len(subjects) > 1:
            parts = split_subjects(rows[spec.row], subjects)
            groups |= {qualify(name, subject): part for subject, part in parts.items()}
        for full, group in groups.items():
            if scored := group.replace("-", ""):
                shares[full] = share_interval(scored.count("1"), len(scored))
    values = {name: to_value(specs[base_name(name)], share) for name, share in shares.items()}
    values |= _summarise_answers(specs, score_answers(rows))
    if "acc_macro" not in specs:
        return values
    each = [shares[name] for name in shares if name.startswith("acc[")] or [shares["acc"]]
    macro = math.fsum(share.value for share in each) / len(each)
    spread = [share.stderr for share in each]
    stderr = None if None in spread else math.hypot(*(s for s in spread if s)) / len(each)
    n = {"acc_macro": sum(share.n for share in each)}
    return values | make_values(specs, {"acc_macro": macro}, {"acc_macro": stderr}, n)


def compare_items(
    specs: Mapping[str, ValueSpec],
    candidate: Record,
    reference: Record,
    normalise: Callable[[str], str] = str,
) -> dict[str, Value]:
    """The paired values of two records of one task; none where their items do not match.

    Items that either side left out are left out. Two answers are the same where ``normalise``
    makes the same text of them.
    """
    ours, theirs = candidate.items, reference.items
    found: dict[str, Value] = {}
    for row, answers in [(spec.row, spec.answers) for spec in specs.values() if spec.row]:
        marks = [side.get(row, "") for side in (ours, theirs)]
        if pairs := _pair_up(*marks):
            found |= _compare_pairs(specs, pairs, row.removeprefix("right"))
        if pairs and row == "right" and answers in ours and answers in theirs:
            rows = (*marks, ours[answers], theirs[answers])
            changed = sum(
                count
                for (*outcomes, a, b), count in Counter(zip(*rows, strict=True)).items()
                if "-" not in outcomes and normalise(a or "") != normalise(b or "")
            )
            rate = flip_rate_interval(changed, pairs.total())
            found["answer_change_rate"] = to_value(specs["answer_change_rate"], rate)
    found |= _compare_answers(specs, score_answers(ours), score_answers(theirs))
    subjects = ours.get("subjects", {})
    if len(subjects) > 1 and subjects == theirs.get("subjects"):
        own, other = (split_subjects(side["right"], subjects) for side in (ours, theirs))
        for subject in subjects:
            if pairs := _pair_up(own[subject], other[subject]):
                drop = _compare_pairs(specs, pairs)["accuracy_drop"]
                found[qualify("accuracy_drop", subject)] = drop
    return found


def score_answers(rows: Mapping[str, Any]) -> list[tuple[float, float] | None]:
    """Per item the right option's log-probability among the options and its margin, in nats.

    None for an item without two finite log-likelihoods; [] for a record that does not say which
    options are right.
    """
    found: list[tuple[float, float] | None] = []
    for scores, letter in zip(rows.get("log_likelihoods", ()), rows.get("correct", "")):
        if scores is None or len(scores) < 2 or not all(map(math.isfinite, scores)):
            found.append(None)
            continue
        right = scores[ascii_uppercase.index(letter)]
        others = [*scores]
        others.remove(right)
        highest = max(scores)
        total = highest + math.log(math.fsum(math.exp(x - highest) for x in scores))
        found.append((right - total, right - max(others)))
    return found


def _summarise_answers(
    specs: Mapping[str, ValueSpec], scores: Sequence[tuple[float, float] | None], ending: str = ""
) -> dict[str, Value]:
    """Means over items, each of which is independent; ``ending`` is that of the values' names."""
    known = [one for one in scores if one is not None]
    names = [f"answer_{kind}{ending}" for kind in ("logprob", "margin")]
    means = (
        (name, clustered_interval(each, [1] * len(each), in_order=False))
        for name, each in zip(names, zip(*known))
        if name in specs
    )
    return {name: to_value(specs[name], mean) for name, mean in means if mean is not None}


def _compare_answers(
    specs: Mapping[str, ValueSpec],
    ours: Sequence[tuple[float, float] | None],
    theirs: Sequence[tuple[float, float] | None],
) -> dict[str, Value]:
    if len(ours) != len(theirs):
        return {}
    drops = [a and b and (b[0] - a[0], b[1] - a[1]) for a, b in zip(ours, theirs)]
    return _summarise_answers(specs, drops, "_drop")


def _compare_pairs(
    specs: Mapping[str, ValueSpec], pairs: Counter[tuple[str, str]], ending: str = ""
) -> dict[str, Value]:
    """The values of items' outcomes, (candidate's, reference's), by `harness.statistics`."""
    lost, won, both = (pairs[one] for one in (("0", "1"), ("1", "0"), ("1", "1")))
    n, kept, had = pairs.total(), both + won, both + lost
    drop = paired_difference(lost, won, n)
    name, ratio = f"accuracy{ending}_drop", f"retention{ending}"
    values = {name: to_value(specs[name], drop)}
    wide, narrow = (share_ratio_interval(both, won, lost, level) for level in (0.95, 0.9))
    if wide is None or narrow is None:
        values |= make_values(specs, {ratio: kept / had if had else None}, n={ratio: n})
    else:
        estimate = Estimate(kept / had, *wide, *narrow, None, n, drop.p)
        values[ratio] = to_value(specs[ratio], estimate)
    if not ending:
        values["flip_rate"] = to_value(specs["flip_rate"], flip_rate_interval(lost + won, n))
        counts = {"right_to_wrong": lost, "wrong_to_right": won}
        values |= make_values(specs, counts, n=dict.fromkeys(counts, n))
    return values


def _pair_up(ours: str, theirs: str) -> Counter[tuple[str, str]]:
    """How many items have each pair of outcomes, of those that both sides scored.

    None where the rows do not match.
    """
    if len(ours) != len(theirs):
        return Counter()
    pairs = Counter(zip(ours, theirs, strict=True))
    return Counter({pair: count for pair, count in pairs.items() if "-" not in pair})


def split_subjects(row: str, subjects: Mapping[str, int]) -> dict[str, str]:
    """A row of one character per item, cut into the subjects' parts."""
    ends = list(accumulate(subjects.values(), initial=0))
    return {name: row[a:b] for name, a, b in zip(subjects, ends, ends[1:], strict=False)}
