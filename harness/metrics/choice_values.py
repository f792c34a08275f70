"""What follows from which items were right: accuracy, its spread, and the reference item by item.

Pure and torch-free, shared by every task that asks questions. An item's outcome is one character:
``1`` right, ``0`` wrong, ``-`` not scored; its answer is a letter, ``-`` where there is none.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from statistics import NormalDist
from typing import Any

from harness.descriptions import Column, Margin, ValueSpec
from harness.records.record import Record, Value
from harness.records.values import base_name, make_values, qualify, to_value
from harness.statistics.estimates import (
    Estimate,
    flip_rate_interval,
    paired_difference,
    share_interval,
    wilson,
)

ACC_MARGIN = Margin(absolute=0.01)


def _share(text: str, **more: Any) -> ValueSpec:
    return ValueSpec("", "higher", text, sampled="items", **more)


CHOICE_VALUES = {
    "acc": _share(
        "share of items right; [subject]: of one",
        per="subject",
        total=True,
        margin=ACC_MARGIN,
        row="right",
        answers="chosen",
    ),
    "acc_macro": _share("mean of the subjects' acc"),
    "items": ValueSpec("items", None, "items scored"),
    "ties": ValueSpec("items", None, "items whose two best options are within 1e-3 nats"),
    "too_long": ValueSpec("items", "lower", "items left out: prompt exceeds the model's context"),
    "tokens_forwarded": ValueSpec("tokens", "lower", "tokens computed, padding excluded"),
    "tokens_unique": ValueSpec("tokens", None, "tokens that differ in what precedes them"),
    "accuracy_drop": ValueSpec(
        "",
        "lower",
        "reference acc - acc, same items; [subject]: of one",
        per="subject",
        total=True,
        paired=True,
        of="acc",
        sampled="items",
        margin=ACC_MARGIN,
    ),
    "retention": ValueSpec(
        "",
        "higher",
        "acc / reference acc, same items",
        paired=True,
        of="acc",
        neutral=1.0,
        sampled="items",
    ),
    "flip_rate": ValueSpec(
        "", "lower", "items right on one side only", paired=True, of="acc", sampled="items"
    ),
    "answer_change_rate": ValueSpec(
        "",
        "lower",
        "items answered otherwise, right or wrong",
        paired=True,
        of="acc",
        sampled="items",
    ),
    "right_to_wrong": ValueSpec("items", "lower", "right only in the reference", paired=True),
    "wrong_to_right": ValueSpec("items", None, "right only in the candidate", paired=True),
}
NORMED_VALUES = {
    "acc_norm": _share(
        "acc by log-likelihood per character; [subject]: of one",
        per="subject",
        total=True,
        margin=ACC_MARGIN,
        row="right_norm",
        answers="chosen_norm",
    ),
    **CHOICE_VALUES,
    "accuracy_norm_drop": ValueSpec(
        "",
        "lower",
        "reference acc_norm - acc_norm, same items",
        paired=True,
        of="acc_norm",
        sampled="items",
        margin=ACC_MARGIN,
    ),
    "retention_norm": ValueSpec(
        "",
        "higher",
        "acc_norm / reference acc_norm, same items",
        paired=True,
        of="acc_norm",
        neutral=1.0,
        sampled="items",
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
    shares = {
        name: share_interval(sum(group), len(group)) for name, group in groups.items() if group
    }
    values = to_values(specs, shares)
    each = [shares[name] for name in shares if name.startswith("acc[")] or [shares["acc"]]
    macro = math.fsum(share.value for share in each) / len(each)
    spread = [share.stderr for share in each]
    stderr = None if None in spread else math.hypot(*(s for s in spread if s)) / len(each)
    n = {"acc_macro": sum(share.n for share in each)}
    return values | make_values(specs, {"acc_macro": macro}, {"acc_macro": stderr}, n)


@dataclass(frozen=True)
class Count:
    """A number over ``n`` items that has no interval."""

    value: float | int | None
    n: int


Found = Mapping[str, Estimate | Count]


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
        changed = sum(a != b for a, b in pairs)
        found["answer_change_rate"] = flip_rate_interval(changed, len(pairs))
    for subject, row, other in _by_subject(ours, theirs):
        lost, won, _, n = _tally(row, other)
        if n:
            found[qualify("accuracy_drop", subject)] = paired_difference(lost, won, n)
    if "right_norm" in ours:
        normed = compare_outcomes(ours["right_norm"], theirs.get("right_norm", ""))
        if normed:
            found["accuracy_norm_drop"] = normed["accuracy_drop"]
            found["retention_norm"] = normed["retention"]
    return to_values(NORMED_VALUES, found)


def to_values(specs: Mapping[str, ValueSpec], found: Found) -> dict[str, Value]:
    """What `compare_outcomes` found, with the units and directions of ``specs``."""
    return {
        name: to_value(specs[base_name(name)], one)
        if isinstance(one, Estimate)
        else make_values(specs, {name: one.value}, n={name: one.n})[name]
        for name, one in found.items()
    }


def compare_outcomes(ours: str, theirs: str) -> dict[str, Estimate | Count]:
    """What items right on one side only amount to, by `harness.statistics.estimates`.

    Empty where the rows do not match.
    """
    lost, won, both, n = _tally(ours, theirs) if len(ours) == len(theirs) else (0, 0, 0, 0)
    if not n:
        return {}
    drop = paired_difference(lost, won, n)
    return {
        "accuracy_drop": drop,
        "retention": _retention(both, won, lost, n, drop.p),
        "flip_rate": flip_rate_interval(lost + won, n),
        "right_to_wrong": Count(lost, n),
        "wrong_to_right": Count(won, n),
    }


def _tally(ours: str, theirs: str) -> tuple[int, int, int, int]:
    """Items right only in ``theirs``, only in ``ours``, in both, and all that both have scored."""
    pairs = _pairs(ours, theirs)
    return (
        pairs.count(("0", "1")),
        pairs.count(("1", "0")),
        pairs.count(("1", "1")),
        len(pairs),
    )


def _retention(both: int, won: int, lost: int, n: int, p: float | None) -> Estimate | Count:
    two_sided, one_sided = (ratio_interval(both, won, lost, level) for level in (0.95, 0.9))
    if two_sided is None or one_sided is None:
        return Count((both + won) / (both + lost) if both + lost else None, n)
    return Estimate((both + won) / (both + lost), *two_sided, *one_sided, None, n, p)


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
    (low, high), (other_low, other_high) = wilson(ours, n, z), wilson(theirs, n, z)
    return low / other_high, high / other_low


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
