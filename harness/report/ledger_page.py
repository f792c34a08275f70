"""What every form of the harmful-flip ledger shows: flips, their questions, the sides' names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

from harness.records.questions import Item, Questions, ReadBeside, open_questions
from harness.records.record import Record
from harness.report.plain import on_one_line
from harness.verdicts.flips import Flip, Ledger, list_flips

TIES = "ties, which batch shape alone can flip"


@dataclass(frozen=True)
class LedgerPage:
    """A ledger, the questions of its items or what is the matter with them, how many to show.

    ``sides`` are the names of A and B.
    """

    ledger: Ledger
    questions: Questions | None
    lack: str
    limit: int
    sides: tuple[str, str]

    @property
    def title(self) -> str:
        ledger, (one, other) = self.ledger, self.sides
        cells = ledger.a if ledger.a == ledger.b else f"{ledger.a} → {ledger.b}"
        return f"{cells} {ledger.measurement}: right in {one}, wrong in {other}"

    @property
    def counts(self) -> list[str]:
        """A line per metric."""
        return [
            f"{c.metric}: {c.harmful} of {c.items} items, {c.beneficial} the other way; "
            f"ties apart: {c.tied_harmful} and {c.tied_beneficial}"
            for c in self.ledger.counts
        ]

    def item(self, flip: Flip) -> Item | None:
        return None if self.questions is None else self.questions[flip.number]

    def name(self, flip: Flip) -> str:
        item = self.item(flip)
        if item is not None:
            return item.id
        return f"item {flip.number}" + (f" ({flip.subject})" if flip.subject else "")

    def options(self, flip: Flip, length: int) -> dict[str, str]:
        """By its letter each option as ``B. text``; the letter alone where texts are not known."""
        letters = ascii_uppercase[: len(flip.log_likelihoods_a)]
        item = self.item(flip)
        if item is None or len(item.choices) != len(letters):
            return {letter: letter for letter in letters}
        return {
            letter: f"{letter}. {on_one_line(choice, length)}"
            for letter, choice in zip(letters, item.choices, strict=True)
        }

    def right_answer(self, flip: Flip, length: int) -> str | None:
        """The right option or the published answer; None where it is not known."""
        item = self.item(flip)
        if item is None:
            return self.options(flip, length).get(flip.changes[0].a or "")
        if isinstance(item.answer, int):
            choice = on_one_line(item.choices[item.answer], length)
            return f"{ascii_uppercase[item.answer]}. {choice}"
        return on_one_line(item.answer, length)

    def left_out(self, flips: Sequence[Flip]) -> str:
        """What to say of the flips behind the last one shown; empty where there are none."""
        left = len(flips) - self.limit
        return f"… {left} more; --flips {len(flips)} shows all" if left > 0 else ""


def open_page(
    a: Record,
    b: Record,
    read_a: ReadBeside,
    read_b: ReadBeside,
    limit: int,
    sides: tuple[str, str],
) -> LedgerPage | None:
    """None where the measurement has no right and wrong items; raises as `list_flips`."""
    ledger = list_flips(a, b)
    if ledger is None:
        return None
    found = open_questions(b, read_b)
    if isinstance(found, str):
        # Both name the same items: either's file will do.
        instead = open_questions(a, read_a)
        if isinstance(instead, str):
            return LedgerPage(ledger, None, f"prompts unavailable: {found}", limit, sides)
        found = instead
    return LedgerPage(ledger, found, "", limit, sides)
