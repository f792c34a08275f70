"""Negative log-likelihoods of single tokens behind prompts that begin alike. Runs in the worker.

Walks the tree of `harness.metrics._prefix_tree` from the root: a prefix goes through the model
once, its KV cache is handed to all that follow it. Nodes of one level go together, sorted by
length, in batches bounded in tokens; only the positions that predict a wanted token go through
the head.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.metrics._forward import (
    batch_for_logits,
    free_memory,
    is_out_of_memory,
    keeps_logits,
)
from harness.metrics._head import head_of
from harness.metrics._prefix_tree import Node, Tokens, build_tree

if TYPE_CHECKING:
    import torch

# Cached tokens that a batch may hold for each token that it computes. On a CPU rows are as fast in
# small batches, and short of padding: 114 questions behind 510 shared tokens took 3.0 s and 210 MB
# with 1, 4.1 s and 1,015 MB with 8.
_CACHED_PER_TOKEN = {"cpu": 1, "cuda": 8}
# Logits worked on at once: on a CPU what stays near its caches.
_SLICE_BYTES = {"cpu": 32 << 20, "cuda": 256 << 20}


@dataclass(frozen=True)
class Target:
    """Token ``token`` is to be predicted at ``position`` of sequence ``row``."""

    row: int
    position: int
    token: int
    key: Hashable


@dataclass(frozen=True)
class Cost:
    """What it took: ``unique`` tokens are the size of the prefix tree, padding is beside them.

    ``batch_tokens`` is what a batch held at the end, less than was asked for where memory ran out.
    """

    tokens_forwarded: int
    tokens_unique: int
    tokens_padding: int
    passes: int
    batch_tokens: int


# Called per target with its key, its NLL in nats and whether the token is the likeliest.
OnToken = Callable[[Hashable, float, bool], None]
# Called with sequences done and sequences in all.
OnProgress = Callable[[int, int], None]


def predict_tokens(
    model: Any,
    device: str,
    rows: Sequence[Tokens],
    targets: Sequence[Target],
    on_token: OnToken,
    batch_tokens: int,
    on_progress: OnProgress = lambda done, total: None,
) -> Cost:
    """Predict every target's token; ``rows`` are distinct and non-empty.

    A batch that does not fit into memory is halved, and so are those after it; one sequence that
    does not fit raises.
    """
    import torch

    tree = build_tree(rows, share=can_share(model))
    wanted: dict[int, list[Target]] = {}
    for target in targets:
        wanted.setdefault(target.row, []).append(target)
    scorer = _Scorer(model, device, rows, wanted, on_token, on_progress, batch_tokens)
    with torch.inference_mode():
        scorer.descend([(child, 0) for child in tree.root.children], None)
    return Cost(
        tokens_forwarded=scorer.forwarded,
        tokens_unique=tree.unique,
        tokens_padding=scorer.padding,
        passes=scorer.passes,
        batch_tokens=scorer.batch_tokens,
    )


def can_share(model: Any) -> bool:
    """Whether the model's cache holds plain keys and values, which can be cut and copied.

    A window, a state space or a cache of the model's own cannot: such prompts are computed whole.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    if getattr(model, "_is_stateful", False):
        return False
    layers = DynamicCache(config=model.config).layers
    return bool(layers) and all(type(layer) is DynamicLayer for layer in layers)


@dataclass(frozen=True)
class _Cached:
    """Keys and values of a batch of prefixes; ``valid`` (batch, length) where they are no padding.

    ``lengths`` (batch) are the prefixes' true lengths, which the positions go on from.
    """

    layers: list[tuple[torch.Tensor, torch.Tensor]]
    valid: torch.Tensor
    lengths: torch.Tensor


@dataclass
class _Scorer:
    model: Any
    device: str
    rows: Sequence[Tokens]
    wanted: dict[int, list[Target]]
    on_token: OnToken
    on_progress: OnProgress
    batch_tokens: int
    forwarded: int = 0
    padding: int = 0
    passes: int = 0
    finished: int = 0
    picks: bool = True  # hidden states can be picked on their way into the head
    _positions: dict[Node, list[Target]] = field(default_factory=dict)

    def descend(self, nodes: list[tuple[Node, int]], parent: _Cached | None) -> None:
        """Compute ``nodes``, each with the row of its prefix in ``parent``, then what follows.

        Leaves go first: they hand nothing on, so that less is held while the others descend.
        """
        for leaves in (True, False):
            level = [pair for pair in nodes if bool(pair[0].children) is not leaves]
            level.sort(key=lambda pair: len(pair[0].tokens), reverse=True)
            while level:
                level = level[self._advance(level, parent, leaves) :]

    def _advance(self, level: list[tuple[Node, int]], parent: _Cached | None, leaves: bool) -> int:
        """Compute the first nodes of ``level`` and all below them; returns how many they were."""
        size = self._fit(level, parent)
        while True:
            batch = level[:size]
            full = False
            try:
                cached = self._forward(batch, parent, keep=not leaves)
            except (RuntimeError, MemoryError) as error:
                if size == 1 or not is_out_of_memory(error):
                    raise
                full = True
            if not full:
                break
            size //= 2
            self.batch_tokens = max(1, self.batch_tokens // 2)
            free_memory()
        if not leaves:
            below = [(child, i) for i, (node, _) in enumerate(batch) for child in node.children]
            self.descend(below, cached)
        return len(batch)

    def _fit(self, level: list[tuple[Node, int]], parent: _Cached | None) -> int:
        """How many of the nodes, longest first, go together."""
        longest = len(level[0][0].tokens)
        past = 0 if parent is None else parent.valid.shape[1]
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
        if self.picks:
            computed = math.ceil(len(set(places)) / len(nodes))
        else:
            computed = len({p for p, _ in places}) if keeps_logits(self.model) else longest
        return batch_for_logits(self.model, computed, len(nodes))

    def _targets(self, node: Node) -> list[Target]:
        """The targets whose predicting position lies in ``node``, told for its first row of each.

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
        self, batch: list[tuple[Node, int]], parent: _Cached | None, keep: bool
    ) -> _Cached | None:
        """One pass over the tokens of ``batch``, padded on the right; tells every target in it."""
        import torch

        nodes = [node for node, _ in batch]
        lengths = torch.tensor([len(node.tokens) for node in nodes], device=self.device)
        length = max(len(node.tokens) for node in nodes)
        ids = torch.zeros(len(nodes), length, dtype=torch.long)
        for i, node in enumerate(nodes):
            ids[i, : len(node.tokens)] = torch.tensor(node.tokens)
        valid = torch.arange(length, device=self.device) < lengths[:, None]
        arguments: dict[str, Any] = {}
        if parent is not None:
            picked = torch.tensor([row for _, row in batch], device=self.device)
            past = [(_take(k, picked), _take(v, picked)) for k, v in parent.layers]
            starts = parent.lengths[picked]
            # Padding repeats the last position: one beyond the model's context would have no place.
            steps = torch.arange(length, device=self.device).minimum(lengths[:, None] - 1)
            arguments["past_key_values"] = _make_cache(past)
            arguments["position_ids"] = starts[:, None] + steps
            known = parent.valid[picked]
            valid = torch.cat([known, valid], dim=1)
            if not bool(known.all()):
                arguments["attention_mask"] = valid.long()
            lengths = starts + lengths
        places = sorted(
            {(i, t.position - n.start) for i, n in enumerate(nodes) for t in self._targets(n)}
        )
        found = self._call(ids.to(self.device), places, keep, arguments)
        if found is None:
            return self._forward(batch, parent, keep)
        logits, cache = found
        self._tell(nodes, places, logits)
        self.passes += 1
        tokens = sum(len(node.tokens) for node in nodes)
        self.forwarded += tokens
        self.padding += ids.numel() - tokens
        if not keep:
            return None
        layers = [(layer.keys, layer.values) for layer in cache.layers]
        return _Cached(layers, valid, lengths)

    def _call(
        self,
        ids: torch.Tensor,
        places: list[tuple[int, int]],
        keep: bool,
        arguments: dict[str, Any],
    ) -> tuple[torch.Tensor, Any] | None:
        """Logits (len(places), vocabulary) at the given (row, position), and the cache.

        The hidden states there are picked on their way into the head, so that no padding and no
        other row's position goes through it; what a model does to its logits behind the head still
        happens. None, and no more picking, where the logits do not come out as many as went in.
        """
        import torch

        places = places or [(0, ids.shape[1] - 1)]  # an empty choice of positions would mean all
        given: dict[str, Any] = {"use_cache": keep or "past_key_values" in arguments, **arguments}
        kept = list(range(ids.shape[1]))
        if keeps_logits(self.model):
            kept = sorted({position for _, position in places})
            given["logits_to_keep"] = torch.tensor(kept, device=self.device)
        column = {position: i for i, position in enumerate(kept)}
        rows = torch.tensor([row for row, _ in places], device=self.device)
        columns = torch.tensor([column[position] for _, position in places], device=self.device)
        picked = []

        def pick(_: Any, states: tuple[Any, ...]) -> tuple[Any, ...] | None:
            shape = (ids.shape[0], len(kept))
            if not states or getattr(states[0], "shape", ())[:2] != shape:
                return None
            picked.append(True)
            return (states[0][rows, columns][None], *states[1:])

        head = head_of(self.model) if self.picks else None
        hook = None if head is None else head.register_forward_pre_hook(pick)
        try:
            output = self.model(input_ids=ids, **given)
        finally:
            if hook is not None:
                hook.remove()
        logits, cache = output.logits, getattr(output, "past_key_values", None)
        self.picks = bool(picked) and logits.shape[:2] == (1, len(places))
        if self.picks:
            return logits[0], cache
        return None if picked else (logits[rows, columns], cache)

    def _tell(self, nodes: list[Node], places: list[tuple[int, int]], logits: torch.Tensor) -> None:
        row = {place: i for i, place in enumerate(places)}
        wanted = [
            (row[i, target.position - node.start], target)
            for i, node in enumerate(nodes)
            for target in self._targets(node)
        ]
        values = _score(logits, [(at, target.token) for at, target in wanted], self.device)
        for (_, target), (nll, likeliest) in zip(wanted, values, strict=True):
            self.on_token(target.key, nll, likeliest)
        for node in nodes:
            self._positions.pop(node, None)
        self.finished += sum(len(node.rows) for node in nodes)
        self.on_progress(self.finished, len(self.rows))


def _score(
    logits: torch.Tensor, wanted: list[tuple[int, int]], device: str
) -> list[tuple[float, bool]]:
    """NLL in nats of each (row of ``logits``, token), and whether it is the row's likeliest.

    Overwrites the logits, a slice at a time. Float32 log-softmax.
    """
    import torch

    if not wanted:
        return []
    rows, tokens = (torch.tensor(column, device=device) for column in zip(*wanted, strict=True))
    chosen = logits[rows, tokens].float()
    largest, total = [], []
    size = max(1, _for_device(_SLICE_BYTES, device) // (4 * logits.shape[-1]))
    for start in range(0, len(logits), size):
        part = logits[start : start + size].float()
        largest.append(part.amax(-1))
        total.append(part.sub_(largest[-1][:, None]).exp_().sum(-1).log())
    best, log_total = torch.cat(largest)[rows], torch.cat(total)[rows]
    nll = (log_total - (chosen - best)).double()
    return list(zip(nll.tolist(), (chosen == best).tolist(), strict=True))


def _make_cache(past: list[tuple[torch.Tensor, torch.Tensor]]) -> Any:
    """transformers' cache with these keys and values, which `DynamicCache(past)` would copy."""
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache()
    for keys, values in past:
        layer = DynamicLayer()
        layer.lazy_initialization(keys, values)
        layer.keys, layer.values = keys, values
        cache.layers.append(layer)
    return cache


def _take(cached: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """Rows of a layer's keys or values; the only one, for however many, without a copy."""
    if cached.shape[0] == 1:
        return cached.expand(len(rows), *cached.shape[1:])
    return cached[rows]


def _for_device(table: dict[str, int], device: str) -> int:
    return table.get(device.split(":")[0], table["cuda"])
