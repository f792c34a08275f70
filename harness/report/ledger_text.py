"""The harmful-flip ledger for a terminal."""

from __future__ import annotations

from textwrap import wrap

from harness.report.ledger_page import TIES, LedgerPage
from harness.report.plain import clean, on_one_line, shorten
from harness.verdicts.flips import Change, Flip

_TEXT, _OPTION = 600, 60  # characters shown
_WIDTH = 100


def render_text(page: LedgerPage) -> str:
    """Title, counts, then an entry per flip: the question, its options, who chose what."""
    lines = [clean(page.title), *page.counts]
    if page.lack:
        lines.append(clean(page.lack))
    for heading, flips in (("", page.ledger.harmful), (TIES, page.ledger.tied)):
        if heading and flips:
            lines += ["", f"{heading}:"]
        for number, flip in enumerate(flips[: page.limit], 1):
            lines += ["", *_tell(page, flip, number)]
        if page.left_out(flips):
            lines += ["", page.left_out(flips)]
    return "\n".join(lines)


def _tell(page: LedgerPage, flip: Flip, number: int) -> list[str]:
    item = page.item(flip)
    moved = "" if flip.shift is None else f", moved by {flip.shift:.3f} nats"
    lines = [_explain(page, change) for change in flip.changes]
    if item is not None:
        lines += _fold(shorten(clean(item.question), _TEXT))
    if flip.changes[0].margin_a is not None:
        lines += _list_options(page, flip)
    else:
        right = page.right_answer(flip, _TEXT)
        lines += [f"right: {right}"] if right is not None else []
        lines += _list_texts(page, flip)
    return [f"{number}. {clean(page.name(flip))}{moved}", *(f"   {line}" for line in lines)]


def _explain(page: LedgerPage, change: Change) -> str:
    """What either side answered, by which metric, and how sure it was."""
    one, other = page.sides
    a, b = (_show(answer) for answer in (change.a, change.b))
    if change.margin_a is None or change.margin_b is None:
        if change.a is None and change.b is None:
            return f"{change.metric}: {one} is right, {other} says something else"
        return f"{change.metric}: {one} says {a}, {other} says {b}"
    undivided = "" if change.metric == "acc" else ", before division by their lengths"
    return (
        f"{change.metric}: {one} says {a} ({change.margin_a:.3f} nats over {b}), "
        f"{other} says {b} ({change.margin_b:.3f} nats over {a}){undivided}"
    )


def _show(answer: str | None) -> str:
    return "nothing" if answer is None else on_one_line(answer, _OPTION)


def _list_options(page: LedgerPage, flip: Flip) -> list[str]:
    """A row per option: log-likelihoods of both sides, and whose answer it is."""
    options = page.options(flip, _OPTION)
    width = max(map(len, options.values()))
    one, other = page.sides
    columns = [max(9, len(side)) for side in page.sides]
    lines = [f"  {'':{width}}  {one:>{columns[0]}}  {other:>{columns[1]}}"]
    rows = zip(options.items(), flip.log_likelihoods_a, flip.log_likelihoods_b, strict=True)
    for (letter, text), x, y in rows:
        mark = "✓" if letter == flip.changes[0].a else " "
        whose = _whose(page, flip, letter)
        lines.append(f"{mark} {text:{width}}  {x:{columns[0]}.3f}  {y:{columns[1]}.3f}{whose}")
    return lines


def _whose(page: LedgerPage, flip: Flip, letter: str) -> str:
    told = []
    for side, name in zip(("a", "b"), page.sides, strict=True):
        metrics = [c.metric for c in flip.changes if getattr(c, side) == letter]
        if metrics:
            told.append(f"{name} ({', '.join(metrics)})")
    return f"  ← {'; '.join(told)}" if told else ""


def _list_texts(page: LedgerPage, flip: Flip) -> list[str]:
    """What either side generated, or how likely it found the one right answer."""
    one, other = page.sides
    lines = []
    for side, text in ((one, flip.text_a), (other, flip.text_b)):
        if text is not None:
            lines.append(f"{side}: {on_one_line(text, _TEXT)}")
    for x, y in zip(flip.log_likelihoods_a, flip.log_likelihoods_b, strict=True):
        lines.append(f"log-likelihood of the right answer: {one} {x:.3f}, {other} {y:.3f}")
    return lines


def _fold(text: str) -> list[str]:
    """The text's own lines, none wider than a terminal."""
    return [part for line in text.split("\n") for part in wrap(line, _WIDTH) or [""]]
