"""Harmful flips: the items that A answers right and B wrong, from two records. Pure.

A is the reference or the earlier run, B the candidate or the later one. Where the two best options
are within 1e-3 nats on either side, the batch size alone can flip the item: such ties are kept
separate. Which rows of a record say what was right and what was answered, its description says.
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from string import ascii_uppercase
from typing import Any

from harness.catalog import load_measurement
from harness.errors import InputError
from harness.records.record import Record
from harness.records.run_file import Run

_PER_ITEM = ("tied", "log_likelihoods", "texts")
_HARMFUL, _BENEFICIAL = ("1", "0"), ("0", "1")


@dataclass(frozen=True)
class Change:
    """An item that one metric calls right in A and wrong in B.

    ``a`` and ``b`` are the letters of the options chosen, or the answers found in what was
    generated; None where there is none or it is not kept. ``margin_a`` is by how many nats A's
    log-likelihood of the right option exceeds that of the option B chose, ``margin_b`` the reverse
    in B; with a metric that divides by the length first, either may be negative.
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
    ``text_b`` what was generated, shortened.
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
        """How far the right answer fell against B's, or by itself where it is the only option."""
        first = self.changes[0]
        if first.margin_a is not None and first.margin_b is not None:
            return first.margin_a + first.margin_b
        if self.log_likelihoods_a:
            return self.log_likelihoods_a[0] - self.log_likelihoods_b[0]
        return None


@dataclass(frozen=True)
class Counts:
    """Of the ``items`` that both sides answered: right in A only, right in B only, ties separate.

    ``changed`` counts other answers, right or wrong; None where the answers are not kept.
    """

    metric: str
    items: int
    harmful: int
    beneficial: int
    tied_harmful: int
    tied_beneficial: int
    changed: int | None = None


@dataclass(frozen=True)
class Ledger:
    """Every harmful flip, the largest shift first; those of ties in ``tied``."""

    a: str
    b: str
    measurement: str
    counts: tuple[Counts, ...]
    harmful: tuple[Flip, ...]
    tied: tuple[Flip, ...]


_Row = tuple[str, str, str]  # a metric, its row of outcomes, its row of answers or ""


def list_flips(a: Record, b: Record) -> Ledger | None:
    """The ledger of one measurement of two cells, or of one cell in two runs.

    None for a measurement without right and wrong items. Raises `InputError` where the items of
    the two do not match, or one has none.
    """
    rows = _list_rows(a, b)
    if not rows:
        return None
    _check_same_items(a, b, rows)
    ours, theirs = a.items, b.items
    tied = {
        i for one in (ours, theirs) for i, mark in enumerate(one.get("tied", "")) if mark == "1"
    }
    counts = []
    changes: dict[int, list[Change]] = {}
    for metric, right, answers in rows:
        if right not in ours or right not in theirs:
            continue
        pairs = list(zip(ours[right], theirs[right], strict=True))  # 1 right, 0 wrong, - not scored
        both = [i for i, pair in enumerate(pairs) if "-" not in pair]
        found = Counter((pairs[i], i in tied) for i in both)
        harmful, beneficial, tied_harmful, tied_beneficial = (
            found[pair, tie] for tie in (False, True) for pair in (_HARMFUL, _BENEFICIAL)
        )
        changed = None
        if ours.get(answers) is not None and theirs.get(answers) is not None:
            changed = sum(ours[answers][i] != theirs[answers][i] for i in both)
        counts.append(
            Counts(metric, len(both), harmful, beneficial, tied_harmful, tied_beneficial, changed)
        )
        for i in both:
            if pairs[i] == _HARMFUL:
                changes.setdefault(i, []).append(_describe(metric, answers, ours, theirs, i))
    subjects = [name for name, n in ours.get("subjects", {}).items() for _ in range(n)]
    flips = [
        Flip(
            i,
            subjects[i] if subjects else None,
            tuple(alike),
            _read_scores(ours, i),
            _read_scores(theirs, i),
            ours["texts"][i] if "texts" in ours else None,
            theirs["texts"][i] if "texts" in theirs else None,
        )
        for i, alike in changes.items()
    ]
    flips.sort(key=lambda flip: (-(flip.shift or 0.0), flip.number))
    harmful_flips = tuple(flip for flip in flips if flip.number not in tied)
    tied_flips = tuple(flip for flip in flips if flip.number in tied)
    return Ledger(a.cell.id, b.cell.id, a.measurement, tuple(counts), harmful_flips, tied_flips)


def list_pairs(run: Run) -> Iterator[tuple[Record, Record]]:
    """Each record of a run that was compared with its reference, behind the reference's."""
    name = run.suite.get("reference")
    references = {
        (r.cell.model, r.measurement): r
        for r in run.records
        if r.cell.precision == name and not r.noise
    }
    for record in run.records:
        reference = references.get((record.cell.model, record.measurement))
        if reference is not None and record.paired and not record.noise:
            yield reference, record


def _list_rows(a: Record, b: Record) -> list[_Row]:
    """The metrics with a row of right and wrong items on either side; the plain one first."""
    found = {
        (name, spec.row, spec.answers or "")
        for name, spec in load_measurement(a.measurement).values.items()
        for side in (a, b)
        if spec.row and spec.row in side.items and not isinstance(side.items[spec.row], list)
    }
    return sorted(found, key=lambda row: row[1])


def _check_same_items(a: Record, b: Record, rows: Sequence[_Row]) -> None:
    """Raise `InputError` where the rows of the two do not belong to the same items.

    Also where the rows of one record differ in length: it was edited.
    """
    names = [f"{side.cell.id} {side.measurement}" for side in (a, b)]
    both = " and ".join(names)
    if a.measurement != b.measurement:
        raise InputError(f"{both}: two measurements have no items in common")
    for side, name in zip((a, b), names, strict=True):
        if not side.usable or not any(right in side.items for _, right, _ in rows):
            why = "; ".join(side.validity.reasons) or "no reason was given"
            raise InputError(f"{name} has no items to compare: {side.validity.status}, {why}")
    hashes = [side.protocol.get("items_sha256") for side in (a, b)]
    if hashes[0] != hashes[1]:
        shown = " and ".join(str(one)[:10] for one in hashes)
        raise InputError(f"{both} asked different items: items_sha256 {shown}")
    if a.items.get("subjects") != b.items.get("subjects"):
        raise InputError(f"{both} asked different items: the subjects differ")
    n = len(next(a.items[right] for _, right, _ in rows if right in a.items))
    per_item = {*_PER_ITEM, *(key for row in rows for key in row[1:])}
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
    metric: str, row: str, ours: Mapping[str, Any], theirs: Mapping[str, Any], number: int
) -> Change:
    a, b = (side[row][number] if side.get(row) else None for side in (ours, theirs))
    scores_a, scores_b = (_read_scores(side, number) for side in (ours, theirs))
    if a is None or b is None or not scores_a or isinstance(ours[row], list):
        return Change(metric, a, b)
    try:
        right, wrong = ascii_uppercase.index(a), ascii_uppercase.index(b)
        margin_a, margin_b = scores_a[right] - scores_a[wrong], scores_b[wrong] - scores_b[right]
    except (ValueError, IndexError):
        raise InputError(
            f"item {number}: options {a} and {b} were chosen of {len(scores_a)} and "
            f"{len(scores_b)}; was the run file edited?"
        ) from None
    return Change(metric, a, b, margin_a, margin_b)


def _read_scores(items: Mapping[str, Any], number: int) -> tuple[float, ...]:
    """Log-likelihoods in nats: one per option, or of the right answer alone; perhaps none."""
    found = items["log_likelihoods"][number] if "log_likelihoods" in items else []
    scores = tuple(found) if isinstance(found, list) else (found,)
    if not all(isinstance(score, int | float) for score in scores):
        raise InputError(f"item {number}: {found!r} is no log-likelihood; was the file edited?")
    return scores
