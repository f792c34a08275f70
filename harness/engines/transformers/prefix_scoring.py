"""Negative log-likelihoods of single tokens behind prompts that begin alike.

Walks the prefix tree from the root: a prefix goes through the model once, and its KV cache is
handed to all that follow it. Nodes of one level go together in batches bounded in tokens. Prefixes
are batched with others of their own length: padding comes only after scored tokens, never into a
cache, where some models would count it. Only the positions that predict a wanted token go through
the head. One row behind a shared prefix is also computed by itself: if the model's cache gives
other numbers, every row is computed whole.
"""

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import torch

from harness.engines.base import Cost, Target, TokenSink
from harness.engines.shared.batches import free_memory, is_out_of_memory
from harness.engines.shared.prefix_tree import Node, Tokens, build_tree
from harness.engines.transformers.forward import batch_for_logits, keeps_logits
from harness.engines.transformers.logit_picker import LogitPicker
from harness.engines.transformers.prefix_cache import (
    CachedPrefixes,
    can_share,
    longrope_boundary,
    read_cache,
)
from harness.engines.transformers.token_scores import score_tokens

# Cached tokens that a batch may hold for each token that it computes. On a CPU rows are as fast in
# small batches, and short of padding: 114 questions behind 510 shared tokens took 3.0 s and 210 MB
# with 1, 4.1 s and 1,015 MB with 8.
_CACHED_PER_TOKEN = {"cpu": 1, "cuda": 8}


def predict_tokens(
    model: Any,
    device: str,
    rows: Sequence[Tokens],
    targets: Sequence[Target],
    on_token: TokenSink,
    batch_tokens: int,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Cost:
    """Predict every target's token; ``rows`` are distinct and non-empty.

    A batch that does not fit into memory is halved, and so are those after it; one sequence that
    does not fit raises.
    """
    wanted: dict[int, list[Target]] = {}
    for target in targets:
        wanted.setdefault(target.row, []).append(target)
    unshared = ""
    for share in (True, False) if can_share(model) else (False,):
        tree = build_tree(rows, share)
        scorer = _Scorer(
            model, device, LogitPicker(model, device), rows, wanted, on_progress, batch_tokens
        )
        try:
            with torch.inference_mode():
                scorer.descend([(child, 0) for child in tree.root.children], None)
            break
        except _CacheDiffersError as error:
            unshared = str(error)
    for found in scorer.found:
        on_token(*found)
    return Cost(
        tokens_forwarded=scorer.forwarded,
        tokens_unique=tree.unique,
        tokens_padding=scorer.padding,
        passes=scorer.passes,
        batch_tokens=scorer.batch_tokens,
        unshared=unshared,
    )


class _CacheDiffersError(Exception):
    """The model keeps no cache to go on from, or its numbers behind it differ (the message)."""


@dataclass
class _Scorer:
    model: Any
    device: str
    picker: LogitPicker
    rows: Sequence[Tokens]
    wanted: dict[int, list[Target]]
    on_progress: Callable[[int, int], None]
    batch_tokens: int
    forwarded: int = 0
    padding: int = 0
    passes: int = 0
    finished: int = 0
    found: list[tuple[Hashable, float, bool]] = field(default_factory=list)
    _checked: bool = False
    _last: Target | None = None
    _positions: dict[Node, list[Target]] = field(default_factory=dict)

    def descend(self, nodes: list[tuple[Node, int]], parent: CachedPrefixes | None) -> None:
        """Compute ``nodes``, each with the row of its prefix in ``parent``, then all below them.

        Leaves go first: they hand nothing on, so that less is held while the others descend.
        """
        boundary = longrope_boundary(self.model)

        def group(pair: tuple[Node, int]) -> tuple[bool, int]:
            """Leaves together, on one side of the boundary; prefixes with those as long."""
            node, _ = pair
            if node.children:
                return True, len(node.tokens)
            return False, int(boundary is not None and node.stop > boundary)

        ordered = sorted(nodes, key=lambda pair: (*group(pair), -len(pair[0].tokens)))
        for (inner, _), level in groupby(ordered, key=group):
            waiting = list(level)
            while waiting:
                waiting = waiting[self._advance(waiting, parent, inner) :]

    def _advance(
        self, level: list[tuple[Node, int]], parent: CachedPrefixes | None, inner: bool
    ) -> int:
        """Compute the first nodes of ``level`` and all below them; returns how many they were."""
        size = self._fit(level, parent)
        while True:
            batch = level[:size]
            full = False
            try:
                cached = self._forward(batch, parent, keep=inner)
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                full = True
            if not full:
                break
            size //= 2
            longest = len(level[0][0].tokens)
            self.batch_tokens = max(1, min(self.batch_tokens // 2, size * longest))
            free_memory()
        if parent is not None:
            self._check()  # out of the loop: a batch whose tokens are scored is not tried again
        if inner:
            below = [(child, i) for i, (node, _) in enumerate(batch) for child in node.children]
            self.descend(below, cached)
        return len(batch)

    def _fit(self, level: list[tuple[Node, int]], parent: CachedPrefixes | None) -> int:
        """How many of the nodes, longest first, go together."""
        longest = len(level[0][0].tokens)
        past = 0 if parent is None else parent.length
        size = min(
            self.batch_tokens // longest,
            _for_device(_CACHED_PER_TOKEN, self.device) * self.batch_tokens // (past + longest),
            len(level),
        )
        while size > 1:
            fitting = self._fit_logits([node for node, _ in level[:size]], longest)
            if fitting >= size:
                break
            size = max(fitting, size // 2)
        return max(1, size)

    def _fit_logits(self, nodes: list[Node], longest: int) -> int:
        """How many of as many rows as ``nodes`` may go together for their logits to fit."""
        places = [(t.position - n.start, i) for i, n in enumerate(nodes) for t in self._targets(n)]
        if self.picker.picks:
            computed = math.ceil(len(set(places)) / len(nodes))
        else:
            computed = len({p for p, _ in places}) if keeps_logits(self.model) else longest
        return batch_for_logits(self.model, computed, len(nodes))

    def _targets(self, node: Node) -> list[Target]:
        """The targets whose predicting position lies in ``node``.

        Rows that share the node may want the same token at the same place.
        """
        if node not in self._positions:
            self._positions[node] = [
                target
                for row in node.covered
                for target in self.wanted.get(row, ())
                if node.start <= target.position < node.stop
            ]
        return self._positions[node]

    def _forward(
        self, batch: list[tuple[Node, int]], parent: CachedPrefixes | None, keep: bool
    ) -> CachedPrefixes | None:
        """One pass over the tokens of ``batch``, padded on the right; scores every target in it."""
        nodes = [node for node, _ in batch]
        length = max(len(node.tokens) for node in nodes)
        ids = torch.zeros(len(nodes), length, dtype=torch.long)
        for i, node in enumerate(nodes):
            ids[i, : len(node.tokens)] = torch.tensor(node.tokens)
        places = sorted(
            {(i, t.position - n.start) for i, n in enumerate(nodes) for t in self._targets(n)}
        )
        rows = [row for _, row in batch]
        open_cache = None if parent is None else partial(parent.take, rows)
        logits, cache = self.picker.read(ids, places, keep, open_cache)
        start = 0 if parent is None else parent.length
        kept = read_cache(cache, start + length) if keep else None
        if keep and kept is None:
            raise _CacheDiffersError
        self._score(nodes, places, logits)
        self.passes += 1
        tokens = sum(len(node.tokens) for node in nodes)
        self.forwarded += tokens
        self.padding += ids.numel() - tokens
        return kept

    def _score(
        self, nodes: list[Node], places: list[tuple[int, int]], logits: torch.Tensor
    ) -> None:
        row = {place: i for i, place in enumerate(places)}
        wanted = [
            (row[i, target.position - node.start], target)
            for i, node in enumerate(nodes)
            for target in self._targets(node)
        ]
        values = score_tokens(logits, [(at, target.token) for at, target in wanted])
        self.found += [
            (target.key, *value) for (_, target), value in zip(wanted, values, strict=True)
        ]
        self._last = wanted[-1][1] if wanted else None
        for node in nodes:
            self._positions.pop(node, None)
        self.finished += sum(len(node.rows) for node in nodes)
        self.on_progress(self.finished, len(self.rows))

    def _check(self) -> None:
        """Once: the last target behind a shared prefix, computed again from its whole row."""
        if self._checked or self._last is None:
            return
        self._checked = True
        target = self._last
        row = torch.tensor([self.rows[target.row][: target.position + 1]])
        logits, _ = self.picker.read(row, [(0, target.position)], keep_cache=False)
        [(expected, _)] = score_tokens(logits, [(0, target.token)])
        apart = abs(self.found[-1][1] - expected)
        if apart > _tolerance(self.model):
            raise _CacheDiffersError(
                f"behind a cached prefix a token's log-likelihood is {apart:.2g} nats from that of "
                "the whole prompt: the model does not go on from its cache as it should"
            )


def _tolerance(model: Any) -> float:
    """Nats that one token may differ by: rounding, or the effect of the batch on quantisation."""
    exact = model.dtype == torch.float32 and not getattr(model, "is_quantized", False)
    return 1e-3 if exact else 0.25


def _for_device(table: dict[str, int], device: str) -> int:
    return table.get(device.split(":")[0], table["cuda"])
