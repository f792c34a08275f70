"""Negative log-likelihoods of single tokens behind prompts that begin alike. Runs in the worker.

Walks the tree of `harness.metrics._prefix_tree` from the root: a prefix goes through the model
once, its KV cache is handed to all that follow it. Nodes of one level go together, sorted by
length, in batches bounded in tokens; only the positions that predict a wanted token go through
the head.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.metrics._forward import (
    batch_for_logits,
    free_memory,
    is_out_of_memory,
    keeps_logits,
    token_nll,
)
from harness.metrics._prefix_tree import Node, Tokens, build_tree

if TYPE_CHECKING:
    import torch

# Cached tokens that a batch may hold for each token that it computes.
_CACHED_PER_TOKEN = 8


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
            _CACHED_PER_TOKEN * self.batch_tokens // (past + longest),
            len(level),
        )
        while size > 1:
            positions = {t.position - n.start for n, _ in level[:size] for t in self._targets(n)}
            computed = len(positions) if keeps_logits(self.model) else longest
            fitting = batch_for_logits(self.model, computed, size)
            if fitting >= size:
                break
            size = max(fitting, size // 2)
        return max(1, size)

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
        from transformers import DynamicCache

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
            past = [(k[picked], v[picked]) for k, v in parent.layers]
            starts = parent.lengths[picked]
            # Padding repeats the last position: one beyond the model's context would have no place.
            steps = torch.arange(length, device=self.device).minimum(lengths[:, None] - 1)
            arguments["past_key_values"] = DynamicCache(past)
            arguments["position_ids"] = starts[:, None] + steps
            known = parent.valid[picked]
            valid = torch.cat([known, valid], dim=1)
            if not bool(known.all()):
                arguments["attention_mask"] = valid.long()
            lengths = starts + lengths
        columns = sorted({t.position - n.start for n in nodes for t in self._targets(n)})
        output = self._call(ids.to(self.device), columns, keep, arguments)
        self._tell(nodes, columns, output.logits)
        self.passes += 1
        tokens = sum(len(node.tokens) for node in nodes)
        self.forwarded += tokens
        self.padding += ids.numel() - tokens
        if not keep:
            return None
        layers = [(layer.keys, layer.values) for layer in output.past_key_values.layers]
        return _Cached(layers, valid, lengths)

    def _call(
        self, ids: torch.Tensor, columns: list[int], keep: bool, arguments: dict[str, Any]
    ) -> Any:
        import torch

        use_cache = keep or "past_key_values" in arguments
        if not keeps_logits(self.model):
            output = self.model(input_ids=ids, use_cache=use_cache, **arguments)
            output.logits = output.logits[:, columns]
            return output
        # One position at least: an empty choice of them would mean all.
        kept = torch.tensor(columns or [ids.shape[1] - 1], device=self.device)
        return self.model(input_ids=ids, use_cache=use_cache, logits_to_keep=kept, **arguments)

    def _tell(self, nodes: list[Node], columns: list[int], logits: torch.Tensor) -> None:
        import torch

        column = {position: i for i, position in enumerate(columns)}
        wanted = [
            (i, column[target.position - node.start], target)
            for i, node in enumerate(nodes)
            for target in self._targets(node)
        ]
        if wanted:
            picked = logits[[i for i, _, _ in wanted], [j for _, j, _ in wanted]]
            tokens = torch.tensor([t.token for _, _, t in wanted], device=self.device)
            nll = token_nll(picked, tokens).tolist()
            likeliest = (picked.argmax(-1) == tokens).tolist()
            for (_, _, target), value, best in zip(wanted, nll, likeliest, strict=True):
                self.on_token(target.key, value, best)
        for node in nodes:
            self._positions.pop(node, None)
        self.finished += sum(len(node.rows) for node in nodes)
        self.on_progress(self.finished, len(self.rows))
