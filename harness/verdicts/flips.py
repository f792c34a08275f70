"""The harmful-flip ledger: items that A gets right and B wrong, from two records. Pure.

A is the reference or the earlier run, B the candidate or the later one. Two best options within
1e-3 nats on either side are a tie, which batch shape alone can flip: such items stand apart.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from harness.errors import InputError
from harness.records.record import Record

# Metric, its row of outcomes and its row of answers.
_CHOICES = (("acc", "right", "chosen"), ("acc_norm", "right_norm", "chosen_norm"))
_GENERATED = (
    ("exact_match", "right", "answers"),
    ("exact_match_flexible", "right_flexible", "answers_flexible"),
)
_PER_ITEM = ("tied", "log_likelihoods", "texts")


@dataclass(frozen=True)
class Change:
    """An item that one metric calls right in A and wrong in B.

    ``a`` and ``b`` are the letters of the options chosen, or the answers found in what was
    generated; None where there is none or it is not kept. ``margin_a`` is by how many nats A's
    log-likelihood of the right option exceeds that of the option B chose, ``margin_b`` the reverse
    in B; with acc_norm, which divides by the length first, either may be negative.
    """

    metric: str
    a: str | None
    b: str | None
    margin_a: float | None = None
    margin_b: float | None = None


@dataclass(frozen=True)
class Flip:
    """One item: ``number`` in the record's rows, from 0, and every metric by which it flipped.

    ``log_likelihoods_a`` and ``log_likelihoods_b`` hold one per option, in nats, ``text_a`` and
    ``text_b`` what was generated, shortened. ``shift`` is how far the right answer fell against
    the one that B gives, or against itself where there is one option, in nats.
    """

    number: int
    subject: str | None
    changes: tuple[Change, ...]
    log_likelihoods_a: tuple[float, ...] = ()
    log_likelihoods_b: tuple[float, ...] = ()
    text_a: str | None = None
    text_b: str | None = None

    @property
    def shift(self) -> float | None:
        first = self.changes[0]
        if first.margin_a is not None and first.margin_b is not None:
            return first.margin_a + first.margin_b
        if self.log_likelihoods_a:
            return self.log_likelihoods_a[0] - self.log_likelihoods_b[0]
        return None


@dataclass(frozen=True)
class Counts:
    """Of the ``items`` that both sides answered: right in A only, right in B only, ties apart."""

    metric: str
    items: int
    harmful: int
    beneficial: int
    tied_harmful: int
    tied_beneficial: int


@dataclass(frozen=True)
class Ledger:
    """Every harmful flip, the largest shift first; those of ties in ``tied``."""

    a: str
    b: str
    measurement: str
    counts: tuple[Counts, ...]
    harmful: tuple[Flip, ...]
    tied: tuple[Flip, ...]


def list_flips(a: Record, b: Record) -> Ledger | None:
    """The ledger of one measurement of two cells, or of one cell in two runs.

    None for a measurement without right and wrong items. Raises `InputError` where the items of
    the two do not match, or one has none.
    """
    if "right" not in a.items and "right" not in b.items:
        return None
    _check_same_items(a, b)
    rows = _GENERATED if "answers" in a.items else _CHOICES
    tied = {
        i for side in (a, b) for i, mark in enumerate(side.items.get("tied", "")) if mark == "1"
    }
    counts = []
    changes: dict[int, list[Change]] = {}
    for metric, right, answers in rows:
        if right not in a.items or right not in b.items:
            continue
        pairs = list(zip(a.items[right], b.items[right], strict=True))
        harmful = [i for i, pair in enumerate(pairs) if pair == ("1", "0")]
        beneficial = [i for i, pair in enumerate(pairs) if pair == ("0", "1")]
        counts.append(
            Counts(
                metric,
                sum("-" not in pair for pair in pairs),
                sum(i not in tied for i in harmful),
                sum(i not in tied for i in beneficial),
                sum(i in tied for i in harmful),
                sum(i in tied for i in beneficial),
            )
        )
        for i in harmful:
            changes.setdefault(i, []).append(_describe(metric, answers, a.items, b.items, i))
    subjects = [name for name, n in a.items.get("subjects", {}).items() for _ in range(n)]
    flips = [
        _make_flip(i, subjects[i] if subjects else None, tuple(found), a.items, b.items)
        for i, found in changes.items()
    ]
    flips.sort(key=lambda flip: (-(flip.shift or 0.0), flip.number))
    return Ledger(
        a=a.cell.id,
        b=b.cell.id,
        measurement=a.measurement,
        counts=tuple(counts),
        harmful=tuple(flip for flip in flips if flip.number not in tied),
        tied=tuple(flip for flip in flips if flip.number in tied),
    )


def _check_same_items(a: Record, b: Record) -> None:
    """Raise `InputError` where a row of one does not belong to the same item as that of the other.

    Also where the rows of one record are not as long as each other: it was edited.
    """
    names = [f"{side.cell.id} {side.measurement}" for side in (a, b)]
    if a.measurement != b.measurement:
        raise InputError(f"{names[0]} and {names[1]}: two measurements have no items in common")
    for side, name in zip((a, b), names, strict=True):
        if not side.usable or "right" not in side.items:
            why = "; ".join(side.validity.reasons) or "no reason was given"
            raise InputError(f"{name} has no items to compare: {side.validity.status}, {why}")
    hashes = [side.protocol.get("items_sha256") for side in (a, b)]
    if hashes[0] != hashes[1]:
        shown = " and ".join(str(one)[:10] for one in hashes)
        raise InputError(f"{names[0]} and {names[1]} asked different items: items_sha256 {shown}")
    if a.items.get("subjects") != b.items.get("subjects"):
        raise InputError(f"{names[0]} and {names[1]} asked different items: the subjects differ")
    n = len(a.items["right"])
    per_item = {*_PER_ITEM, *(key for row in (*_CHOICES, *_GENERATED) for key in row[1:])}
    for side, name in zip((a, b), names, strict=True):
        for key in sorted(per_item & side.items.keys()):
            row = side.items[key]
            if not isinstance(row, str | list) or len(row) != n:
                found = f"{len(row)} items" if isinstance(row, str | list) else repr(row)
                raise InputError(
                    f"{name}: items.{key} holds {found}, {n} items were expected; "
                    "was the run file edited?"
                )
    if sum(a.items.get("subjects", {}).values()) not in (0, n):
        raise InputError(f"{names[0]}: items.subjects do not add up to {n} items")


def _describe(
    metric: str, answers: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], number: int
) -> Change:
    a, b = (side[answers][number] if answers in side else None for side in (ours, theirs))
    scores_a, scores_b = (_likelihoods(side, number) for side in (ours, theirs))
    if answers not in ("chosen", "chosen_norm") or a is None or b is None or not scores_a:
        return Change(metric, a, b)
    right, wrong = ascii_uppercase.find(a), ascii_uppercase.find(b)
    if min(right, wrong) < 0 or max(right, wrong) >= min(len(scores_a), len(scores_b)):
        raise InputError(
            f"item {number}: options {a} and {b} were chosen of {len(scores_a)} and "
            f"{len(scores_b)}; was the run file edited?"
        )
    return Change(
        metric,
        a,
        b,
        margin_a=scores_a[right] - scores_a[wrong],
        margin_b=scores_b[wrong] - scores_b[right],
    )


def _make_flip(
    number: int,
    subject: str | None,
    changes: tuple[Change, ...],
    ours: Mapping[str, Any],
    theirs: Mapping[str, Any],
) -> Flip:
    texts = (side["texts"][number] if "texts" in side else None for side in (ours, theirs))
    return Flip(
        number,
        subject,
        changes,
        _likelihoods(ours, number),
        _likelihoods(theirs, number),
        *texts,
    )


def _likelihoods(items: Mapping[str, Any], number: int) -> tuple[float, ...]:
    """Of each option; of the one word of lambada; empty where there are none."""
    found = items["log_likelihoods"][number] if "log_likelihoods" in items else None
    if found is None:
        return ()
    scores = tuple(found) if isinstance(found, list) else (found,)
    if not all(isinstance(score, int | float) for score in scores):
        raise InputError(f"item {number}: {found!r} is no log-likelihood; was the file edited?")
    return scores
