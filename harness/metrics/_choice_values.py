"""What follows from which items were right: accuracy, its spread, and the reference item by item.

Pure and torch-free, shared by every task that asks questions. An item's outcome is one character:
``1`` right, ``0`` wrong, ``-`` not scored; its answer is a letter, ``-`` where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist
from typing import Any

from harness.options import Column, ValueSpec
from harness.record import Record, Value
from harness.values import make_values, qualify

CHOICE_VALUES = {
    "acc": ValueSpec("", "higher", "share of items right; [subject]: of one", "subject"),
    "acc_macro": ValueSpec("", "higher", "mean of the subjects' acc"),
    "items": ValueSpec("items", None, "items scored"),
    "ties": ValueSpec("items", None, "items whose two best options are within 1e-3 nats"),
    "too_long": ValueSpec("items", "lower", "items left out: prompt exceeds the model's context"),
    "tokens_forwarded": ValueSpec("tokens", "lower", "tokens computed, padding excluded"),
    "tokens_unique": ValueSpec("tokens", None, "tokens that differ in what precedes them"),
    "accuracy_drop": ValueSpec(
        "",
        "lower",
        "reference acc - acc, same items; [subject]: of one",
        "subject",
        paired=True,
        of="acc",
    ),
    "retention": ValueSpec(
        "", "higher", "acc / reference acc, same items", paired=True, of="acc", neutral=1.0
    ),
    "flip_rate": ValueSpec("", "lower", "items right on one side only", paired=True, of="acc"),
    "answer_change_rate": ValueSpec(
        "", "lower", "items answered otherwise, right or wrong", paired=True, of="acc"
    ),
    "right_to_wrong": ValueSpec("items", "lower", "right only in the reference", paired=True),
    "wrong_to_right": ValueSpec("items", None, "right only in the candidate", paired=True),
}
NORMED_VALUES = {
    "acc_norm": ValueSpec(
        "", "higher", "acc by log-likelihood per character; [subject]: of one", "subject"
    ),
    **CHOICE_VALUES,
    "accuracy_norm_drop": ValueSpec(
        "", "lower", "reference acc_norm - acc_norm, same items", paired=True, of="acc_norm"
    ),
    "retention_norm": ValueSpec(
        "",
        "higher",
        "acc_norm / reference acc_norm, same items",
        paired=True,
        of="acc_norm",
        neutral=1.0,
    ),
}


def headline(title: str, norm: bool = False) -> tuple[Column, ...]:
    """The summary's columns of a task: its accuracy and what the precision costs of it."""
    if norm:
        return (
            Column(f"{title}\nacc_norm", "acc_norm", ".3f"),
            Column("norm drop", "accuracy_norm_drop", "+.3f", stderr=True),
        )
    return (Column(title, "acc", ".3f"), Column("drop", "accuracy_drop", "+.3f", stderr=True))


def accuracy_stderr(right: Sequence[bool]) -> float | None:
    """Standard error of a share of n items: sqrt(p(1-p)/(n-1)); None for fewer than two."""
    n = len(right)
    p = sum(right) / n if n else 0.0
    return math.sqrt(p * (1 - p) / (n - 1)) if n > 1 else None


def summarise_groups(
    specs: Mapping[str, ValueSpec], outcomes: Mapping[str, str], subjects: Mapping[str, int]
) -> dict[str, Value]:
    """Accuracies with their standard errors from outcomes such as ``{"acc": "01-1"}``.

    ``subjects`` maps each to its number of items, in the items' order; with more than one there
    is also an accuracy per subject, and ``acc_macro``, their mean.
    """
    groups: dict[str, list[bool]] = {}
    for name, row in outcomes.items():
        groups[name] = _scored(row)
        if len(subjects) > 1:
            parts = {s: _scored(part) for s, part in split_subjects(row, subjects).items()}
            groups |= {qualify(name, s): part for s, part in parts.items() if part}
    means = {name: sum(group) / len(group) for name, group in groups.items() if group}
    spread = {name: accuracy_stderr(groups[name]) for name in means}
    values = make_values(specs, means, spread, {name: len(groups[name]) for name in means})
    by_subject = [means[name] for name in means if name.startswith("acc[")] or [means["acc"]]
    macro = math.fsum(by_subject) / len(by_subject)
    return values | make_values(specs, {"acc_macro": macro})


@dataclass(frozen=True)
class Estimate:
    """A paired number over ``n`` items, with its standard error or 95 % interval."""

    value: float | int | None
    n: int
    stderr: float | None = None
    interval: tuple[float, float] | None = None


def compare_choices(candidate: Record, reference: Record) -> dict[str, Value]:
    """The paired values of two records of one task; none where their items do not match.

    Items that either side left out are left out.
    """
    ours, theirs = candidate.items, reference.items
    found = compare_outcomes(ours.get("right", ""), theirs.get("right", ""))
    if not found:
        return {}
    pairs = _pairs(ours.get("chosen", ""), theirs.get("chosen", ""))
    if pairs:
        changed = sum(a != b for a, b in pairs) / len(pairs)
        found["answer_change_rate"] = _share(changed, len(pairs))
    for subject, row, other in _by_subject(ours, theirs):
        part = compare_outcomes(row, other)
        if part:
            found[qualify("accuracy_drop", subject)] = part["accuracy_drop"]
    if "right_norm" in ours:
        normed = compare_outcomes(ours["right_norm"], theirs.get("right_norm", ""))
        if normed:
            found["accuracy_norm_drop"] = normed["accuracy_drop"]
            found["retention_norm"] = normed["retention"]
    return make_values(
        NORMED_VALUES,
        {name: estimate.value for name, estimate in found.items()},
        {name: estimate.stderr for name, estimate in found.items()},
        {name: estimate.n for name, estimate in found.items()},
        {name: estimate.interval for name, estimate in found.items()},
    )


def compare_outcomes(ours: str, theirs: str) -> dict[str, Estimate]:
    """D = (b - c)/n and f = (b + c)/n with SE(D) = sqrt((f - D**2)/n), and what else they give.

    b counts the items only the reference has right, c those only the candidate has. Empty where
    the rows do not match.
    """
    pairs = _pairs(ours, theirs) if len(ours) == len(theirs) else []
    if not pairs:
        return {}
    n = len(pairs)
    lost, won = pairs.count(("0", "1")), pairs.count(("1", "0"))
    both = pairs.count(("1", "1"))
    drop, flips = (lost - won) / n, (lost + won) / n
    # Without a flip there is no spread to be seen, and up to 3/n of the items may yet flip.
    unseen = None if flips else (-min(1.0, 3 / n), min(1.0, 3 / n))
    stderr = math.sqrt((flips - drop**2) / n) if flips else None
    return {
        "accuracy_drop": Estimate(drop, n, stderr, unseen),
        "retention": Estimate(
            (both + won) / (both + lost) if both + lost else None,
            n,
            interval=ratio_interval(both, won, lost),
        ),
        "flip_rate": _share(flips, n),
        "right_to_wrong": Estimate(lost, n),
        "wrong_to_right": Estimate(won, n),
    }


def ratio_interval(
    both: int, candidate_only: int, reference_only: int, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Two-sided interval of (both + candidate only) / (both + reference only), paired shares.

    Bonett and Price 2006, Statistics in Medicine 25, 3039-3047: Wilson's intervals of either
    share, with the critical value shrunk for what the two have in common. Without any item right
    on either side there is none.
    """
    ours, theirs = both + candidate_only, both + reference_only
    n = both + candidate_only + reference_only
    if not ours or not theirs:
        return None
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    difference = math.sqrt((candidate_only + reference_only + 2) / ((ours + 1) * (theirs + 1)))
    alone = sum(math.sqrt((1 - (x + 1) / (n + 2)) / (x + 1)) for x in (ours, theirs))
    z *= difference / alone
    (low, high), (other_low, other_high) = _wilson(ours, n, z), _wilson(theirs, n, z)
    return low / other_high, high / other_low


def _wilson(x: int, n: int, z: float) -> tuple[float, float]:
    half = z * math.sqrt(z**2 + 4 * x * (1 - x / n))
    return tuple((2 * x + z**2 + sign * half) / (2 * (n + z**2)) for sign in (-1, 1))  # type: ignore[return-value]


def _share(share: float, n: int) -> Estimate:
    """A share with its standard error; where none was seen, up to 3/n are possible at 95 %."""
    if share == 0:
        return Estimate(share, n, interval=(0.0, min(1.0, 3 / n)))
    return Estimate(share, n, math.sqrt(share * (1 - share) / n))


def split_subjects(row: str, subjects: Mapping[str, int]) -> dict[str, str]:
    """A row of one character per item, cut into the subjects' parts."""
    ends = list(accumulate(subjects.values(), initial=0))
    return {name: row[a:b] for name, a, b in zip(subjects, ends, ends[1:], strict=False)}


def _by_subject(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    subjects = ours.get("subjects", {})
    if len(subjects) < 2 or subjects != theirs.get("subjects"):
        return []
    own, other = (split_subjects(side["right"], subjects) for side in (ours, theirs))
    return [(name, own[name], other[name]) for name in subjects]


def _pairs(ours: str, theirs: str) -> list[tuple[str, str]]:
    return [(a, b) for a, b in zip(ours, theirs, strict=False) if "-" not in (a, b)]


def _scored(row: str) -> list[bool]:
    return [outcome == "1" for outcome in row if outcome != "-"]
