"""A plan as a `Document`, and as plain data: what a model takes, and what fits which card."""

from collections.abc import Mapping
from typing import Any

from harness.machine.capacity import Sizes, find_batch, find_context
from harness.report.document import (
    Document,
    Lines,
    Part,
    Section,
    Table,
    list_lines,
    make_table,
)
from harness.run.plan import ModelPlan
from harness.run.plan_suite import SuitePlan
from harness.verdicts.advice import show_time

_NOTES = (
    "GB are 10⁹ bytes. A card is counted 6 % smaller than its name: real ones lack some of it, and "
    "CUDA takes some.",
    "Weights and cache are exact. loading: one matrix of floats stands beside the quantised ones.",
    "needed: weights, cache and an estimate of what reading the prompts takes for a while, which "
    "depends on kernels; `memory` in a suite measures it.",
)


def show_plan(plan: ModelPlan, rooms: Mapping[str, int], tokens: int, batch: int) -> Document:
    """``rooms`` are bytes by a card's name; ``batch`` sequences grow to ``tokens`` each."""
    parts: list[Part] = [Lines(tuple(_describe(plan))), _list_sizes(plan, rooms, tokens, batch)]
    if any(sizes.growth for sizes in plan.sizes.values()):
        found = {n: {c: find_context(s, r, batch) for c, r in rooms.items()} for n, s in _of(plan)}
        title = f"longest context in tokens, {_count(batch, 'sequence')} at once"
        parts.append(Section(title, (_list_fits(found, rooms),)))
        found = {n: {c: find_batch(s, r, tokens) for c, r in rooms.items()} for n, s in _of(plan)}
        title = f"most sequences of {tokens:,} tokens at once"
        parts.append(Section(title, (_list_fits(found, rooms),)))
    failed = [f"{n}: {why}" for n, why in plan.cells.items() if isinstance(why, str)]
    parts.append(Lines((*failed, *_NOTES)))
    return Document(f"Plan of {plan.model.name}", tuple(parts))


def dump_plan(plan: ModelPlan, rooms: Mapping[str, int], tokens: int, batch: int) -> dict[str, Any]:
    """The same for a program; bytes are integers, None is unknown, 0 does not fit."""
    head = plan.head
    cells = {}
    for name, sizes in _of(plan):
        cells[name] = {
            "dtype": sizes.dtype,
            "quantised_bytes": sizes.quantised,
            "constants_bytes": sizes.constants,
            "unquantised_bytes": sizes.unquantised,
            "buffers_bytes": sizes.buffers,
            "total_bytes": sizes.total,
            "load_peak_bytes": sizes.load_peak,
            "kv_bytes_per_token": sizes.kv_per_token,
            "needed_bytes": sizes.peak(tokens, batch),
            "cards": {
                card: {
                    "bytes": room,
                    "weights_fit": sizes.load_peak <= room,
                    "largest_context": find_context(sizes, room, batch),
                    "largest_batch": find_batch(sizes, room, tokens),
                }
                for card, room in rooms.items()
            },
        }
    first = next(iter(plan.sizes.values()))
    return {
        "model": plan.model.name,
        "revision": head.revision,
        "parameters": dict(first.parameters),
        "max_context": first.max_context,
        "file_bytes": head.file_bytes,
        "download_bytes": head.download_bytes,
        "context": tokens,
        "batch": batch,
        "precisions": cells,
        "failed": {n: why for n, why in plan.cells.items() if isinstance(why, str)},
    }


def _of(plan: ModelPlan) -> list[tuple[str, Sizes]]:
    """The largest first."""
    return sorted(plan.sizes.items(), key=lambda item: -item[1].total)


def _describe(plan: ModelPlan) -> list[str]:
    sizes = next(iter(plan.sizes.values()))
    parts = [f"{_short(count)} {kind}" for kind, count in sizes.parameters.items()]
    total = sum(sizes.parameters.values())
    lines = [f"{plan.model.name}: {_short(total)} parameters ({', '.join(parts)})"]
    head = plan.head
    if head.tensors:
        dtypes = "/".join(sorted({dtype for dtype, _ in head.tensors.values()}))
        fetched = "not downloaded yet" if head.download_bytes else "on this machine"
        lines.append(f"files: {_short(head.file_bytes or 0)}B of {dtypes}, {fetched}")
    elif head.folder is not None:
        lines.append("files: only the config is known here")
    if sizes.max_context is not None:
        lines.append(f"made for up to {sizes.max_context:,} tokens")
    if sizes.kv_per_token is None:
        lines.append(
            "its cache is no plain one of keys and values, so contexts and batches are unknown: "
            "measure them with `memory` in a suite"
        )
    return lines


def _list_sizes(plan: ModelPlan, rooms: Mapping[str, int], tokens: int, batch: int) -> Table:
    largest = max(sizes.load_peak for sizes in plan.sizes.values())
    unit, scale = ("GB", 1e9) if largest >= 1e9 else ("MB", 1e6)

    def show(size: int | None) -> str:
        return "unknown" if size is None else f"{size / scale:.2f}"

    titles = (
        *("precision", f"weights\n{unit}", "of these\nfloats", "bits per\nparameter"),
        *("cache\nB/token", f"loading\n{unit}"),
        f"needed {unit},\n{batch} x {tokens:,} tokens",
        "smallest\ncard",
    )
    rows = []
    for name, sizes in _of(plan):
        peak = sizes.peak(tokens, batch)
        most = max(peak or 0, sizes.load_peak)
        card = next((card for card, room in rooms.items() if most <= room), "none")
        rows.append(
            (
                *(name, show(sizes.total), show(sizes.unquantised + sizes.buffers)),
                f"{8 * sizes.total / sum(sizes.parameters.values()):.2f}",
                "unknown" if sizes.kv_per_token is None else f"{sizes.kv_per_token:,}",
                *(show(sizes.load_peak), show(peak)),
                card if peak is not None or card == "none" else f"{card}?",
            )
        )
    return make_table(titles, rows, ("precision",))


def _list_fits(found: Mapping[str, Mapping[str, int | None]], rooms: Mapping[str, int]) -> Table:
    rows = [
        (name, *("?" if n is None else f"{n:,}" if n else "no" for n in of.values()))
        for name, of in found.items()
    ]
    return make_table(("precision", *rooms), rows, ("precision",))


def _short(count: int) -> str:
    """``8.03 B``, ``262 M``."""
    for unit, size in (("B", 10**9), ("M", 10**6), ("k", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def show_suite_plan(plan: SuitePlan) -> Document:
    """Cells with their sizes and times, what is fetched, what limits need, and every mistake."""
    skipped = sum(bool(cell.skipped) for cell in plan.cells)
    count = f"{_count(len(plan.cells), 'cell')}" + (f", {skipped} of them skipped" * bool(skipped))
    lines = [f"{plan.suite.name}: {count}; {plan.machine.description}"]
    for model, size in plan.downloads.items():
        if size is None:
            lines.append(f"{model}: what must be downloaded is unknown")
        elif size:
            lines.append(f"{model}: {_short(size)}B to download")
    lines += [f"{name}: {_count(items, 'item')}" for name, items in plan.items.items()]
    seconds = plan.seconds
    if seconds is not None and plan.earlier:
        lines.append(f"time: {show_time(seconds)}, as in {plan.earlier}")
    else:
        why = f"not all of it was measured in {plan.earlier}" if plan.earlier else "no earlier run"
        lines.append(f"time: unknown, {why} on this device")
    rows = [
        (
            one.cell.id,
            "unknown" if one.sizes is None else f"{one.sizes.total / 1e6:,.1f}",
            "unknown" if one.seconds is None else show_time(one.seconds),
        )
        for one in plan.cells
    ]
    reasons: dict[str, list[str]] = {}
    for one in plan.cells:
        if one.skipped:
            reasons.setdefault(one.skipped, []).append(one.cell.id)
    lacking = [f"{', '.join(ids)}: {why}" for why, ids in reasons.items()]
    return Document(
        f"Plan of {plan.suite.name}",
        (
            *list_lines("Mistakes:", plan.mistakes),
            Lines(tuple(lines)),
            make_table(("cell", "weights\nMB", "time"), rows, ("cell",)),
            *list_lines("Cannot be had here and now:", (*lacking, *plan.lacking)),
            *list_lines(
                "Items that limits need:",
                [f"{limit}: {needed:,}" for limit, needed in plan.needs.items()],
            ),
            *list_lines("Limits that this suite cannot decide:", plan.limits),
        ),
    )


def dump_suite_plan(plan: SuitePlan) -> dict[str, Any]:
    """The same for a program."""
    return {
        "suite": plan.suite.name,
        "device": plan.machine.device.device,
        "mistakes": list(plan.mistakes),
        "lacking": list(plan.lacking),
        "items_needed": dict(plan.needs),
        "undecidable_limits": list(plan.limits),
        "download_bytes": dict(plan.downloads),
        "items": dict(plan.items),
        "seconds": plan.seconds,
        "seconds_from": plan.earlier or None,
        "cells": [
            {
                "cell": one.cell.id,
                "measurements": [m.name for m in one.cell.measurements],
                "total_bytes": None if one.sizes is None else one.sizes.total,
                "load_peak_bytes": None if one.sizes is None else one.sizes.load_peak,
                "seconds": one.seconds,
                "skipped": one.skipped or None,
            }
            for one in plan.cells
        ],
    }
