"""The harmful-flip ledger as GitHub Markdown: a row per item."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.ledger_page import TIES, LedgerPage
from harness.report.markdown import draw_table, escape
from harness.report.plain import clean, on_one_line
from harness.verdicts.flips import Change, Flip

_TEXT = 300  # characters shown in a cell


def render_markdown(page: LedgerPage) -> str:
    """Heading, counts, and a table of flips, one more of those of ties."""
    parts = [
        f"#### {escape(clean(page.title))}",
        "\n".join(f"- {escape(line)}" for line in page.counts),
    ]
    if page.lack:
        parts.append(escape(clean(page.lack)))
    for heading, flips in (("", page.ledger.harmful), (TIES, page.ledger.tied)):
        if heading and flips:
            parts.append(f"{heading[0].upper()}{heading[1:]}:")
        if flips[: page.limit]:
            parts.append(_draw(page, flips[: page.limit]))
        if page.left_out(flips):
            parts.append(page.left_out(flips))
    return "\n\n".join(parts)


def _draw(page: LedgerPage, flips: Sequence[Flip]) -> str:
    titles = ["item", "question", "right answer", *page.sides, "nats moved"]
    numbers = [False, False, False, False, False, True]
    return draw_table(list(map(escape, titles)), [_make_row(page, flip) for flip in flips], numbers)


def _make_row(page: LedgerPage, flip: Flip) -> list[str]:
    item = page.item(flip)
    options = page.options(flip, _TEXT)
    cells = [
        clean(page.name(flip)),
        "—" if item is None else on_one_line(item.question, _TEXT),
        page.right_answer(flip, _TEXT) or "—",
        _tell_side("a", flip, options),
        _tell_side("b", flip, options),
        "—" if flip.shift is None else f"{flip.shift:.3f}",
    ]
    return list(map(escape, cells))


def _tell_side(side: str, flip: Flip, options: dict[str, str]) -> str:
    """One side's answer by each metric, then its log-likelihoods or what it generated."""
    answers: dict[str, list[str]] = {}
    for change in flip.changes:
        answers.setdefault(_answer(side, change, options), []).append(change.metric)
    told = "; ".join(f"{answer} ({', '.join(metrics)})" for answer, metrics in answers.items())
    scores = flip.log_likelihoods_a if side == "a" else flip.log_likelihoods_b
    text = flip.text_a if side == "a" else flip.text_b
    if text is not None:
        return f"{told}: {on_one_line(text, _TEXT)}"
    if flip.changes[0].margin_a is None:
        return told + "".join(f": right answer {score:.3f}" for score in scores)
    return f"{told}: " + ", ".join(
        f"{letter} {score:.3f}" for letter, score in zip(options, scores, strict=True)
    )


def _answer(side: str, change: Change, options: dict[str, str]) -> str:
    answer = change.a if side == "a" else change.b
    if answer is not None:
        return on_one_line(options.get(answer, answer), _TEXT)
    if change.a is None and change.b is None:
        return "right" if side == "a" else "something else"
    return "nothing"
