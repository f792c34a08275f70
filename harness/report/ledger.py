"""The ledger of harmful flips for a reader: the items that B lost, with their questions."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from string import ascii_uppercase
from typing import Any

from harness.catalog import load_measurement
from harness.errors import InputError
from harness.records.questions import Item, ReadBeside, open_questions
from harness.records.record import Record
from harness.report.document import Lines, Paragraph, Part, Section, make_table
from harness.report.plain import on_one_line, shorten
from harness.verdicts.flips import Change, Flip, Ledger, list_flips

_TEXT, _OPTION = 600, 60  # characters shown


@dataclass(frozen=True)
class LedgerPage:
    """A ledger and the questions of its items; ``lacking`` says why either is None.

    ``sides`` is what the two records are called.
    """

    ledger: Ledger | None
    questions: list[Item] | None = None
    lacking: str = ""
    sides: tuple[str, str] = ("run A", "run B")

    def item(self, flip: Flip) -> Item | None:
        return None if self.questions is None else self.questions[flip.number]


def open_ledger(
    a: Record,
    b: Record,
    read_a: ReadBeside,
    read_b: ReadBeside,
    sides: tuple[str, str] = LedgerPage.sides,
) -> LedgerPage | None:
    """None for a measurement without right and wrong items.

    ``read_a`` and ``read_b`` read what was stored with the records' run files.
    """
    try:
        ledger = list_flips(a, b)
    except InputError as error:
        return LedgerPage(None, lacking=str(error))
    if ledger is None:
        return None
    # Both records name the same items: either's file will do.
    found = open_questions(b, read_b)
    instead = open_questions(a, read_a) if isinstance(found, str) else found
    if isinstance(instead, str):
        return LedgerPage(ledger, None, f"prompts unavailable: {found}", sides)
    return LedgerPage(ledger, instead, "", sides)


def show_ledger(page: LedgerPage, limit: int) -> Section:
    """The ``limit`` items that lost most from A to B, and as many ties."""
    ledger = page.ledger
    if ledger is None:
        return Section(f"No ledger of flips: {page.lacking}", ())
    cells = " → ".join(dict.fromkeys((ledger.a, ledger.b)))
    specs = load_measurement(ledger.measurement).values
    counts = [
        f"{c.metric} ({specs[c.metric].help.partition(';')[0]}): {c.harmful} of {c.items} items, "
        f"{c.beneficial} the other way; ties, counted separately: {c.tied_harmful} and "
        f"{c.tied_beneficial}"
        for c in ledger.counts
    ]
    ties = [Lines(("ties, which the batch size alone can flip:",))] if ledger.tied else []
    return Section(
        f"{cells} {ledger.measurement}: right in {page.sides[0]}, wrong in {page.sides[1]}",
        (
            Lines((*counts, *filter(None, [page.lacking]))),
            *_list_entries(page, ledger.harmful, limit),
            *ties,
            *_list_entries(page, ledger.tied, limit),
        ),
    )


def dump_ledger(page: LedgerPage, limit: int) -> dict[str, Any]:
    """The same as plain data, texts whole; ``unavailable`` says why there is no ledger."""
    if page.ledger is None:
        return {"unavailable": page.lacking}
    flips = {
        kind: [
            {**asdict(flip), "shift": flip.shift, "item": item and asdict(item)}
            for flip in found[:limit]
            for item in [page.item(flip)]
        ]
        for kind, found in (("harmful", page.ledger.harmful), ("tied", page.ledger.tied))
    }
    reasons = {"unavailable": None, "questions_unavailable": page.lacking or None}
    return {**asdict(page.ledger), **reasons, **flips}


def _list_entries(page: LedgerPage, flips: Sequence[Flip], limit: int) -> Iterator[Part]:
    for number, flip in enumerate(flips[:limit], 1):
        item = page.item(flip)
        name = f"item {flip.number}" + (f" ({flip.subject})" if flip.subject else "")
        moved = "" if flip.shift is None else f", moved by {flip.shift:.3f} nats"
        title = f"{number}. {name if item is None else item.id}{moved}"
        yield Section(title, tuple(_show(flip, item, page.sides)), entry=True)
    if len(flips) > limit:
        option = "--flips" if page.sides == LedgerPage.sides else "--items"
        yield Lines((f"… {len(flips) - limit} more; {option} {len(flips)} shows all",))


def _show(flip: Flip, item: Item | None, sides: tuple[str, str]) -> Iterator[Part]:
    """Who said what and how surely, the question, and its options or the texts generated."""
    yield Lines(tuple(_explain(change, sides) for change in flip.changes))
    if item is not None:
        yield Paragraph(shorten(item.question, _TEXT))
    if flip.changes[0].margin_a is not None:
        columns = ("option", *sides, "chosen by")
        yield make_table(columns, list(_list_options(flip, item, sides)), ("option", "chosen by"))
        return
    facts = []
    if item is not None:
        answer = item.answer
        if isinstance(answer, int):
            answer = f"{ascii_uppercase[answer]}. {item.choices[answer]}"
        facts.append(f"right: {on_one_line(answer, _TEXT)}")
    for side, text in zip(sides, (flip.text_a, flip.text_b), strict=True):
        if text is not None:
            facts.append(f"{side}: {on_one_line(text, _TEXT)}")
    for x, y in zip(flip.log_likelihoods_a, flip.log_likelihoods_b, strict=True):
        facts.append(f"log-likelihood of the right answer: {sides[0]} {x:.3f}, {sides[1]} {y:.3f}")
    if facts:
        yield Lines(tuple(facts))


def _explain(change: Change, sides: tuple[str, str]) -> str:
    a, b = ("nothing" if x is None else on_one_line(x, _OPTION) for x in (change.a, change.b))
    if change.a is None and change.b is None:
        return f"{change.metric}: {sides[0]} is right, {sides[1]} says something else"
    if change.margin_a is not None and change.margin_b is not None:
        a += f" ({change.margin_a:.3f} nats over {b})"
        b += f" ({change.margin_b:.3f} nats over {change.a})"
    return f"{change.metric}: {sides[0]} says {a}, {sides[1]} says {b}"


def _list_options(
    flip: Flip, item: Item | None, sides: tuple[str, str]
) -> Iterator[tuple[str, ...]]:
    """A row per option: log-likelihoods of both sides, and who chose it; ✓ marks the right one."""
    scores = zip(flip.log_likelihoods_a, flip.log_likelihoods_b, strict=True)
    for i, (x, y) in enumerate(scores):
        text = letter = ascii_uppercase[i]
        if item is not None and len(item.choices) == len(flip.log_likelihoods_a):
            text = f"{letter}. {on_one_line(item.choices[i], _OPTION)}"
        mark = " ✓" if letter == flip.changes[0].a else ""
        chosen_by = {
            sides[0]: [change.metric for change in flip.changes if change.a == letter],
            sides[1]: [change.metric for change in flip.changes if change.b == letter],
        }
        chosen = [f"{side} ({', '.join(names)})" for side, names in chosen_by.items() if names]
        yield f"{text}{mark}", f"{x:.3f}", f"{y:.3f}", "; ".join(chosen)
