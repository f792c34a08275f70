"""The floor under a measurement: what the bare model takes for the tokens that must be computed.

Distinct tokens go through the model's body once; its head and a logsumexp run where a token is
predicted. Nothing is tokenised, cached, padded or kept.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

import torch
from torch.nn.functional import linear

# What suits a CPU: long passes, and logits that stay in its cache.
_PASS_TOKENS = 1024
_HEAD_ROWS = 128


@dataclass(frozen=True)
class Distinct:
    """Tokens to compute, in rows of ``length``; ``predicts`` marks those that need the head."""

    ids: torch.Tensor
    predicts: torch.Tensor
    length: int


@dataclass(frozen=True)
class Reference:
    """What another model's logits at the same tokens come from: states (n, width) and a head."""

    states: torch.Tensor
    weight: torch.Tensor


def lay_out_text(ids: Sequence[int], length: int) -> Distinct:
    """Every token of a text, in disjoint windows of ``length``."""
    stream = torch.tensor(ids)
    return Distinct(stream, torch.ones_like(stream, dtype=torch.bool), length)


def lay_out_prompts(
    rows: Sequence[Sequence[int]], predicts: Iterable[tuple[int, int]], longest: int
) -> Distinct:
    """The distinct tokens of ``rows``: those that differ in themselves or in what precedes them.

    ``predicts`` are (row, position). The rows they go in are made so long, up to ``longest``, that
    attention looks back as far as it does in the prompts.
    """
    positions: dict[int, list[int]] = {}
    for row, position in predicts:
        positions.setdefault(row, []).append(position)
    ids: list[int] = []
    needed: set[int] = set()
    place: list[int] = []  # of each token of the row before among the distinct ones
    before: Sequence[int] = ()
    looks_back = 0
    for number in sorted(range(len(rows)), key=rows.__getitem__):
        row = rows[number]
        alike = (a == b for a, b in zip(before, row, strict=False))
        shared = sum(1 for _ in takewhile(bool, alike))
        place = [*place[:shared], *range(len(ids), len(ids) + len(row) - shared)]
        ids += row[shared:]
        looks_back += sum(range(shared, len(row)))
        needed.update(place[at] for at in positions.get(number, ()))
        before = row
    mask = torch.zeros(len(ids), dtype=torch.bool)
    mask[list(needed)] = True
    # In a row of n tokens they look back at (n - 1) / 2 others on average.
    return Distinct(torch.tensor(ids), mask, min(longest, 1 + round(2 * looks_back / len(ids))))


def run_bare(model: Any, work: Distinct, reference: Reference | None = None) -> None:
    """Compute ``work``: logsumexps, and beside a ``reference`` its logits too."""
    head, done = model.get_output_embeddings(), 0
    with torch.inference_mode():
        for states in _run_body(model, work):
            for part in states.split(_HEAD_ROWS):
                head(part).logsumexp(-1)
                if reference is not None:
                    linear(reference.states[done : done + len(part)], reference.weight)
                done += len(part)


def keep_states(model: Any, work: Distinct) -> Reference:
    """A model's states and head, for `run_bare` with another model on the same work."""
    with torch.inference_mode():
        states = torch.cat(list(_run_body(model, work)))
    return Reference(states, model.get_output_embeddings().weight.detach().clone())


def _run_body(model: Any, work: Distinct) -> Iterator[torch.Tensor]:
    """Pass after pass, the states (n, width) that the head needs."""
    whole = len(work.ids) // work.length * work.length
    rows = max(1, _PASS_TOKENS // work.length)
    passes = [
        *zip(
            work.ids[:whole].view(-1, work.length).split(rows),
            work.predicts[:whole].view(-1, work.length).split(rows),
            strict=True,
        ),
        (work.ids[None, whole:], work.predicts[None, whole:]),
    ]
    for ids, predicts in passes:
        if ids.numel():
            states = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
            yield states[predicts]
