"""What follows from which items were right: shares, their spread, and the comparison by item.

Shared by every task. An item's outcome is one character of a row: ``1`` right, ``0`` wrong, ``-``
not scored. The rows are named ``right``, ``right_norm`` …; what is computed of the second has its
ending in the name, too (``retention_norm``). Pure; no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
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

_MARGIN = Margin(absolute=0.01)
_MAIN_ROW = "right"
_Items = Mapping[str, Any]


def describe_share(text: str, row: str, answers: str | None, per: str | None = None) -> ValueSpec:
    """A share of items: the mean of ``row``, what was answered being in ``answers``."""
    return ValueSpec(
        "",
        "higher",
        text,
        per=per,
        total=per is not None,
        sampled="items",
        margin=_MARGIN,
        row=row,
        answers=answers,
    )


def describe_pairs(of: str, ending: str = "", per: str | None = None) -> dict[str, ValueSpec]:
    """The drop and the retention of the share ``of``, compared with the reference."""
    by_part = f"; [{per}]: of one" if per else ""
    return {
        f"accuracy{ending}_drop": ValueSpec(
            "",
            "lower",
            f"reference's {of} - {of}, same items{by_part}",
            per=per,
            total=per is not None,
            paired=True,
            of=of,
            sampled="items",
            margin=_MARGIN,
        ),
        f"retention{ending}": ValueSpec(
            "",
            "higher",
            f"{of} / reference's {of}, same items",
            paired=True,
            of=of,
            neutral=1.0,
            sampled="items",
        ),
    }


def describe_flips(of: str) -> dict[str, ValueSpec]:
    """The items that the share ``of`` gained and lost, compared with the reference."""

    def rate(text: str) -> ValueSpec:
        return ValueSpec("", "lower", text, paired=True, of=of, sampled="items")

    return {
        "flip_rate": rate("items right on one side only"),
        "answer_change_rate": rate("items with another answer, right or wrong"),
        "right_to_wrong": ValueSpec(
            "items", "lower", "right only in the reference", paired=True, of=of
        ),
        "wrong_to_right": ValueSpec(
            "items", None, "right only in the candidate", paired=True, of=of
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


def summarise_rows(
    specs: Mapping[str, ValueSpec], rows: Mapping[str, Any], subjects: Mapping[str, int]
) -> dict[str, Value]:
    """The shares that ``specs`` describes, with their spread, from a record's ``rows``.

    ``subjects`` maps each to its number of items, in the items' order; with more than one there
    is also a share per subject, and ``acc_macro``, the mean of theirs.
    """
    groups: dict[str, str] = {}
    for name, spec in specs.items():
        if spec.row:
            groups[name] = rows[spec.row].replace("-", "")
            parts = split_subjects(rows[spec.row], subjects) if len(subjects) > 1 else {}
            groups |= {qualify(name, s): part.replace("-", "") for s, part in parts.items()}
    shares = {
        name: share_interval(group.count("1"), len(group))
        for name, group in groups.items()
        if group
    }
    values = to_values(specs, shares)
    if "acc_macro" not in specs:
        return values
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
    found: dict[str, Estimate | Count] = {}
    for spec in specs.values():
        if spec.row is None or not (pairs := _pair_up(ours, theirs, spec.row)):
            continue
        ending = spec.row.removeprefix(_MAIN_ROW)
        found |= {_add_ending(name, ending): one for name, one in _compare(pairs).items()}
        if not ending:
            found |= _compare_answers(ours, theirs, spec.answers or "", normalise)
            found |= _compare_subjects(ours, theirs)
    known = {name: one for name, one in found.items() if base_name(name) in specs}
    return to_values(specs, known) if "accuracy_drop" in found else {}


def to_values(
    specs: Mapping[str, ValueSpec], found: Mapping[str, Estimate | Count]
) -> dict[str, Value]:
    """Values of estimates and counts, with the units and directions of ``specs``."""
    return {
        name: to_value(specs[base_name(name)], one)
        if isinstance(one, Estimate)
        else make_values(specs, {name: one.value}, n={name: one.n})[name]
        for name, one in found.items()
    }


def ratio_interval(
    both: int, candidate_only: int, reference_only: int, confidence: float = 0.95
) -> tuple[float, float] | None:
    """Two-sided interval of (both + candidate only) / (both + reference only), paired shares.

    Bonett and Price 2006, Statistics in Medicine 25, 3039-3047: Wilson's intervals of either
    share, with the critical value shrunk for what the two have in common. None without any item
    right on one side.
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


def _compare(pairs: Sequence[tuple[str, str]]) -> dict[str, Estimate | Count]:
    """What items right on one side only amount to; ``pairs`` are (candidate's, reference's)."""
    lost, won, both = (pairs.count(one) for one in (("0", "1"), ("1", "0"), ("1", "1")))
    n = len(pairs)
    drop = paired_difference(lost, won, n)
    retention: Estimate | Count
    two_sided, one_sided = (ratio_interval(both, won, lost, level) for level in (0.95, 0.9))
    if two_sided is None or one_sided is None:
        retention = Count((both + won) / (both + lost) if both + lost else None, n)
    else:
        ratio = (both + won) / (both + lost)
        retention = Estimate(ratio, *two_sided, *one_sided, None, n, drop.p)
    return {
        "accuracy_drop": drop,
        "retention": retention,
        "flip_rate": flip_rate_interval(lost + won, n),
        "right_to_wrong": Count(lost, n),
        "wrong_to_right": Count(won, n),
    }


def _compare_answers(
    ours: _Items, theirs: _Items, answers: str, normalise: Callable[[str], str]
) -> dict[str, Estimate | Count]:
    """The rate of changed answers, where both records hold them (a text, a letter or None each)."""
    if answers not in ours or answers not in theirs:
        return {}
    sides = ((side[_MAIN_ROW], side[answers]) for side in (ours, theirs))
    (marks, given), (other_marks, other_given) = sides
    changed = [
        normalise(a or "") != normalise(b or "")
        for mark, other, a, b in zip(marks, other_marks, given, other_given, strict=True)
        if "-" not in (mark, other)
    ]
    return {"answer_change_rate": flip_rate_interval(sum(changed), len(changed))}


def _compare_subjects(ours: _Items, theirs: _Items) -> dict[str, Estimate | Count]:
    subjects = ours.get("subjects", {})
    if len(subjects) < 2 or subjects != theirs.get("subjects"):
        return {}
    own, other = (split_subjects(side[_MAIN_ROW], subjects) for side in (ours, theirs))
    pairs = {name: _scored_pairs(own[name], other[name]) for name in subjects}
    return {
        qualify("accuracy_drop", name): _compare(part)["accuracy_drop"]
        for name, part in pairs.items()
        if part
    }


def _pair_up(ours: _Items, theirs: _Items, row: str) -> list[tuple[str, str]]:
    """The outcomes of the items that both sides scored; none where the rows do not match."""
    own, other = ours.get(row, ""), theirs.get(row, "")
    return _scored_pairs(own, other) if len(own) == len(other) else []


def _scored_pairs(ours: str, theirs: str) -> list[tuple[str, str]]:
    return [(a, b) for a, b in zip(ours, theirs, strict=True) if "-" not in (a, b)]


def _add_ending(name: str, ending: str) -> str:
    """``accuracy_norm_drop`` of ``accuracy_drop``, ``retention_norm`` of ``retention``."""
    return f"accuracy{ending}_drop" if name == "accuracy_drop" else f"{name}{ending}"
