"""The harmful-flip ledger for a reader: text, Markdown or JSON, with the questions."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any, Literal

from harness.errors import InputError
from harness.records.questions import ReadBeside
from harness.records.record import Record
from harness.report.ledger_markdown import render_markdown
from harness.report.ledger_page import LedgerPage, open_page
from harness.report.ledger_text import render_text
from harness.report.markdown import escape
from harness.report.plain import clean
from harness.verdicts.flips import Flip


def render_flips_ledger(
    a: Record,
    b: Record,
    read_a: ReadBeside,
    read_b: ReadBeside,
    limit: int,
    form: Literal["text", "md", "json"] = "text",
    sides: tuple[str, str] = ("run A", "run B"),
) -> str:
    """The ``limit`` items that lost most from A to B, and as many of ties; no last line end.

    ``read_a`` and ``read_b`` read what lies beside the records' run files. Empty (``null`` in JSON)
    for a measurement without right and wrong items; where the items do not match it says so.
    """
    if form == "json":
        return json.dumps(describe_ledger(a, b, read_a, read_b, limit))
    try:
        page = open_page(a, b, read_a, read_b, limit, sides)
    except InputError as error:
        text = clean(f"no ledger of flips: {error}")
        return escape(text) if form == "md" else text
    if page is None:
        return ""
    return render_markdown(page) if form == "md" else render_text(page)


def describe_ledger(
    a: Record, b: Record, read_a: ReadBeside, read_b: ReadBeside, limit: int
) -> dict[str, Any] | None:
    """The same as plain data, texts whole; None for a measurement without right and wrong items.

    ``unavailable`` says why there is no ledger, ``questions_unavailable`` why no questions.
    """
    try:
        page = open_page(a, b, read_a, read_b, limit, ("a", "b"))
    except InputError as error:
        cells = {"a": a.cell.id, "b": b.cell.id, "measurement": a.measurement}
        return {**cells, "unavailable": str(error)}
    if page is None:
        return None
    ledger = page.ledger
    return {
        "a": ledger.a,
        "b": ledger.b,
        "measurement": ledger.measurement,
        "unavailable": None,
        "questions_unavailable": page.lack or None,
        "counts": [asdict(one) for one in ledger.counts],
        "harmful": [_describe(page, flip) for flip in ledger.harmful[:limit]],
        "tied": [_describe(page, flip) for flip in ledger.tied[:limit]],
    }


def _describe(page: LedgerPage, flip: Flip) -> dict[str, Any]:
    item = page.item(flip)
    asked = {"id": None, "question": None, "choices": None, "answer": None}
    return {
        **(asked if item is None else asdict(item)),
        "number": flip.number,
        "subject": flip.subject,
        "shift": flip.shift,
        "changes": [asdict(change) for change in flip.changes],
        "log_likelihoods": {"a": flip.log_likelihoods_a, "b": flip.log_likelihoods_b},
        "texts": {"a": flip.text_a, "b": flip.text_b},
    }
