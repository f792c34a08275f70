"""A recommendation as a `Document`, and as plain data."""

from collections.abc import Sequence
from typing import Any

from harness.catalog import list_names, load_precision
from harness.report.document import (
    Cell,
    Document,
    Section,
    Table,
    TableColumn,
    list_lines,
    make_table,
)
from harness.verdicts.recommend import Candidate, Demands, Recommendation

_STYLES = {"PASS": "good", "FAIL": "bad", "INCONCLUSIVE": "doubtful"}


def show_recommendation(
    found: Recommendation, demands: Demands, device: str, card: str | None, use: str | None
) -> Document:
    """The answer first, then every precision, why not, and what is open."""
    failed = [c for c in found.candidates if c.outcome == "FAIL"]
    why = [f.text for c in failed for f in c.findings if f.outcome == "FAIL"]
    if found.chosen is not None:
        end = found.candidates.index(found.chosen) + 1
        larger = [c.precision for c in found.candidates[end:] if c.outcome != "FAIL"]
        why += [f"larger: {', '.join(larger)}"] if larger else []
    notes = [f"measured on {device}"]
    if "memory" in demands.about and device.startswith("cpu"):
        notes.append(
            "bytes are those of a CPU, where quantised models keep the rest in float32: a GPU "
            "takes others; run the suite there, or see `harness plan`"
        )
    return Document(
        "",
        (
            Section(say_answer(found), (_list_candidates(found, demands),)),
            *list_lines("Why not:", why),
            *list_lines(
                "Undecided:",
                [f.text for c in found.open for f in c.findings if f.outcome == "INCONCLUSIVE"],
            ),
            *list_lines("Rules of thumb, not evidence:", list_rules(found, demands, card, use)),
            *list_lines("Notes:", notes),
        ),
    )


def say_answer(found: Recommendation) -> str:
    """The answer in a sentence or two."""
    chosen = found.chosen
    smaller = ", ".join(c.precision for c in found.open)
    if chosen is not None:
        text = f"{found.model}: {chosen.precision}, the smallest whose evidence holds every demand."
        return f"{text} Smaller and undecided: {smaller}." if smaller else text
    if smaller:
        return (
            f"{found.model}: undecided. Every demand may hold for {smaller}, and surely for none."
        )
    return f"{found.model}: none of the {len(found.candidates)} precisions holds every demand."


def list_rules(
    found: Recommendation, demands: Demands, card: str | None, use: str | None
) -> list[str]:
    """What is usually chosen, where something demanded was not measured at all."""
    missing = [about for about in demands.about if found.lacks_evidence(about)]
    if not missing:
        return []
    rules = []
    for name in list_names("precisions"):
        for where, rule in load_precision(name).rules_of_thumb.items():
            if where in (card, use):
                rules.append(f"{where}: {name}, {rule}")
    about = " and ".join(missing)
    return [f"nothing was measured about {about}", *sorted(rules)]


def dump_recommendation(
    found: Recommendation, demands: Demands, device: str, card: str | None, use: str | None
) -> dict[str, Any]:
    """The same for a program."""
    return {
        "model": found.model,
        "device": device,
        "chosen": None if found.chosen is None else found.chosen.precision,
        "open": [c.precision for c in found.open],
        "demands": {
            "vram_bytes": demands.vram,
            "max_drop": demands.max_drop,
            "min_tokens_per_s": demands.min_tokens_per_s,
            "batch": demands.batch,
        },
        "precisions": [_dump(c) for c in found.candidates],
        "rules_of_thumb": list_rules(found, demands, card, use),
    }


def _dump(candidate: Candidate) -> dict[str, Any]:
    return {
        "precision": candidate.precision,
        "bytes": candidate.bytes,
        "verdict": candidate.outcome,
        "findings": [
            {"about": f.about, "verdict": f.outcome, "text": f.text, "evidence": f.is_evidence}
            for f in candidate.findings
        ],
    }


def _list_candidates(found: Recommendation, demands: Demands) -> Table:
    sizes = ["?" if c.bytes is None else f"{c.bytes / 1e6:,.2f}" for c in found.candidates]
    rows = [(c.precision, size) for c, size in zip(found.candidates, sizes, strict=True)]
    table = make_table(("precision", "MB"), rows, ("precision",))
    titles = (*demands.about, "all")
    columns = [_list_outcomes(found.candidates, title) for title in titles]
    return Table(table.keys, (*table.blocks, tuple(columns)))


def _list_outcomes(candidates: Sequence[Candidate], about: str) -> TableColumn:
    cells = []
    for candidate in candidates:
        own = [f.outcome for f in candidate.findings if about in (f.about, "all")]
        outcome = next((o for o in ("FAIL", "INCONCLUSIVE") if o in own), "PASS")
        cells.append(Cell(outcome, _STYLES[outcome]))  # type: ignore[arg-type]
    return TableColumn(about, tuple(cells), numbers=False)
