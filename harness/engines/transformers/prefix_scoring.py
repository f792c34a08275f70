"""Negative log-likelihoods of single tokens behind prompts that begin alike.

The tree of all prompts' tokens lies in one line (`harness.engines.shared.prefix_tree`) and goes
through the model a slice at a time, as one row without padding: each token has its own position and
sees, through the mask and the KV cache of what is still open, its own prompt only. A model that
heeds no such mask gets one unbranched run of tokens at a time, and one that does not go on from its
cache gets whole prompts. Which it is, is tried: some prompts are also computed by themselves. Only
the positions that predict a wanted token go through the head.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby, islice, takewhile
from math import isqrt
from statistics import fmean
from typing import Any, TypeVar

import torch

from harness.engines.base import Cost, Target, TokenSink
from harness.engines.shared.batches import BatchSize, free_memory, is_out_of_memory
from harness.engines.shared.prefix_tree import PrefixTree, Tokens, build_tree
from harness.engines.transformers.forward import keeps_logits
from harness.engines.transformers.layers import find_rounding
from harness.engines.transformers.logit_picker import LogitPicker, Place
from harness.engines.transformers.prefix_cache import (
    OpenPath,
    can_pack,
    can_share,
    keep_path,
    longrope_boundary,
)
from harness.engines.transformers.token_scores import score_tokens

T = TypeVar("T")
Scores = list[tuple[float, bool]]
# Of one pass. On a CPU glibc takes larger blocks from the system and gives them back each time.
LOGIT_BYTES = {"cpu": 30 << 20, "cuda": 1 << 30}
# Of one pass: it grows with the square of a slice, and every layer and head reads it.
MASK_BYTES = 256 << 20
# CUDA's kernel copies a mask, for every layer, whose rows do not begin at a multiple of so many.
_MASK_STEP = 8
# A past so many times longer is tried again.
_LONGER = 4
# Tokens of a prompt that is also computed by itself, and how far they may be apart on average: so
# many roundings of the largest logit, or nats. Products of int8 round to 127 steps. Measured: at
# most 1.1 roundings in int8, 0.4 in bf16, and 5 to 17 where keys are one token late.
_COMPARED = 16
_FEW = 4
_ROUNDINGS = 1
_EXACT_NATS = 1e-3


def predict_tokens(
    model: Any,
    device: str,
    rows: Sequence[Tokens],
    targets: Sequence[Target],
    on_token: TokenSink,
    batch: BatchSize,
    on_progress: Callable[[int, int], None] = lambda done, total: None,
) -> Cost:
    """Predict every target's token; ``rows`` are distinct and non-empty.

    A batch that does not fit into memory is halved, and so are those after it; a single token or
    whole prompt that does not fit raises.
    """
    tree = build_tree(rows, [(target.row, target.position) for target in targets])
    ways: list[Callable[[_Scorer], None]] = []
    if can_share(model):
        ways = [partial(_score_tree, tree=tree, packed=packed) for packed in (True, False)]
    unshared = ""
    for way in (*ways[not can_pack(model) :], _score_rows):
        scorer = _Scorer(model, device, rows, targets, batch, on_progress)
        try:
            with torch.inference_mode():
                way(scorer)
            break
        except _SharingError as error:
            unshared = str(error)
    for found in scorer.found:
        on_token(*found)
    return Cost(
        tokens_forwarded=scorer.forwarded,
        tokens_unique=len(tree.tokens),
        tokens_padding=scorer.padding,
        passes=scorer.passes,
        batch_tokens=batch.tokens,
        unshared=unshared if way is _score_rows else "",
    )


class _SharingError(Exception):
    """What prompts share cannot be computed once in this way; the message says it to a user."""


@dataclass
class _Scorer:
    """What all ways have in common: passes, what they found and what they cost."""

    model: Any
    device: str
    rows: Sequence[Tokens]
    targets: Sequence[Target]
    batch: BatchSize
    on_progress: Callable[[int, int], None]
    forwarded: int = 0
    padding: int = 0
    passes: int = 0
    found: list[tuple[Hashable, float, bool]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.picker = LogitPicker(self.model, self.device)
        vocabulary: int = self.model.get_input_embeddings().num_embeddings
        allowed = LOGIT_BYTES.get(self.device.split(":")[0], LOGIT_BYTES["cuda"])
        self.logits_at_once = max(1, allowed // (4 * vocabulary))

    def read(
        self, ids: torch.Tensor, wanted: Sequence[tuple[Place, int]], **given: Any
    ) -> tuple[Scores, Any]:
        """The scores of the token wanted at each place of ``ids`` (rows, length), and the cache."""
        places = sorted({place for place, _ in wanted})
        logits, cache = self.picker.read(ids, places, **given)
        number = {place: i for i, place in enumerate(places)}
        scores = score_tokens(logits, [(number[place], token) for place, token in wanted])
        return scores, cache

    def attempt(self, run: Callable[[], T], tokens: int, single: bool) -> T | None:
        """The batch that ``run`` computes; None where memory ran out, and the next are smaller."""
        start = time.perf_counter()
        try:
            made = run()
        except (RuntimeError, MemoryError) as error:
            if single or not is_out_of_memory(error):
                raise
        else:
            if self.batch.grows and torch.cuda.is_available():
                torch.cuda.synchronize()
            self.batch.ran(tokens, time.perf_counter() - start)
            self.passes += 1
            return made
        self.batch.limit(tokens // 2)
        free_memory()  # out here, where the error's frames no longer hold the batch
        return None

    def keep(self, targets: Sequence[Target], scores: Scores) -> None:
        self.found += [(t.key, *score) for t, score in zip(targets, scores, strict=True)]


def _score_tree(scorer: _Scorer, tree: PrefixTree, packed: bool) -> None:
    """Each token of the tree once; ``packed``: slices of it, else unbranched runs."""
    wanted: dict[int, list[Target]] = {}
    for target, number in zip(scorer.targets, tree.numbers, strict=True):
        wanted.setdefault(number, []).append(target)
    marks = sorted(wanted)
    tried_mask, tried_past = False, 0
    path: OpenPath | None = None
    start = 0
    while start < len(tree.tokens):
        past = 0 if path is None else len(path.entries)
        stop = _find_stop(scorer, tree, marks, start, past, packed)
        scored = marks[bisect_left(marks, start) : bisect_left(marks, stop)]
        branched = tree.positions[stop - 1] - tree.positions[start] != stop - 1 - start
        samples = []
        if scored and (branched > tried_mask or past > _LONGER * tried_past):
            samples = _choose_samples(scorer, tree, wanted, scored, start)
        asked = [(number, t.token) for number in scored for t in wanted[number]]
        ahead = [(number, token) for sample in samples for number, token in sample.tokens]
        run = partial(_read_slice, scorer, tree, (start, stop), path, asked + ahead, branched)
        made = scorer.attempt(run, stop - start, single=stop - start == 1)
        if made is None:
            continue
        scores, path = made
        scorer.keep([t for number in scored for t in wanted[number]], scores[: len(asked)])
        _compare(scorer, samples, scores[len(asked) :])
        if samples:
            tried_mask, tried_past = tried_mask or branched, max(tried_past, past)
        scorer.forwarded += stop - start
        scorer.on_progress(bisect_right(tree.lasts, stop - 1), len(scorer.rows))
        start = stop


def _find_stop(
    scorer: _Scorer, tree: PrefixTree, marks: Sequence[int], start: int, past: int, packed: bool
) -> int:
    """The end of the slice from ``start`` on that goes together: by tokens, logits, mask, branches.

    ``past`` tokens are open before it.
    """
    stop = min(start + scorer.batch.tokens, len(tree.tokens))
    if not (scorer.picker.picks or keeps_logits(scorer.model)):
        stop = min(stop, start + scorer.logits_at_once)
    # Room is left for the logits of two samples.
    excess = bisect_left(marks, start) + max(1, scorer.logits_at_once - 2 * _COMPARED)
    if excess < len(marks):
        stop = min(stop, marks[excess])
    if packed:  # n of them have a mask of n * (past + n)
        cells = MASK_BYTES // scorer.model.dtype.itemsize
        return min(stop, start + max(1, (isqrt(past**2 + 4 * cells) - past) // 2))
    step = (i for i in range(start + 1, stop) if tree.positions[i] <= tree.positions[i - 1])
    return next(step, stop)


def _read_slice(
    scorer: _Scorer,
    tree: PrefixTree,
    span: tuple[int, int],
    path: OpenPath | None,
    asked: Sequence[tuple[int, int]],
    branched: bool,
) -> tuple[Scores, OpenPath | None]:
    """One pass over a slice behind the open ``path``; returns its scores and what is open then."""
    start, stop = span
    ends = torch.tensor(tree.ends[start:stop], device=scorer.device)
    own = torch.arange(start, stop, device=scorer.device)
    entries, until = own, ends
    given: dict[str, Any] = {"keep_cache": stop < len(tree.tokens)}
    if path is not None:
        entries, until = torch.cat([path.entries, own]), torch.cat([path.ends, ends])
        given["open_cache"] = path.open_cache
    if branched:
        given["attention_mask"] = _make_mask(own, entries, until, scorer.model.dtype)
        given["position_ids"] = torch.tensor([tree.positions[start:stop]], device=scorer.device)
    ids = torch.tensor([tree.tokens[start:stop]])
    wanted = [((0, number - start), token) for number, token in asked]
    try:
        scores, cache = scorer.read(ids, wanted, **given)
    except Exception as error:
        if not branched or scorer.passes or is_out_of_memory(error):
            raise
        raise _SharingError("the model takes no mask of its own") from error
    if stop == len(tree.tokens):
        return scores, None
    kept = (until > stop).nonzero()[:, 0]
    left = keep_path(cache, entries, until, kept)
    if left is None:
        raise _SharingError
    return scores, left if len(kept) else None


def _make_mask(
    own: torch.Tensor, entries: torch.Tensor, until: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """What is added to the attention of ``own`` (n,) to ``entries`` (m,), as (1, 1, n, m).

    Of the attention's own dtype: SDPA makes such a mask of a bool one, again for every layer.
    """
    n, m = len(own), len(entries)
    mask = torch.zeros(1, 1, n, m + -m % _MASK_STEP, dtype=dtype, device=own.device)[..., :m]
    hidden = (entries > own[:, None]).logical_or_(until <= own[:, None])
    return mask.masked_fill_(hidden, torch.finfo(dtype).min)


@dataclass(frozen=True)
class _Sample:
    """Entries of the tree in one row up to ``position``, last first, and the token behind each."""

    row: int
    position: int
    tokens: list[tuple[int, int]]


def _choose_samples(
    scorer: _Scorer,
    tree: PrefixTree,
    wanted: dict[int, list[Target]],
    scored: Sequence[int],
    start: int,
) -> list[_Sample]:
    """Of the first token behind the past, and of the last, which lies furthest from its place."""
    first = next((number for number in scored if number - start >= _FEW), scored[0])
    samples = []
    for number in {first, scored[-1]}:
        target = wanted[number][0]
        row, position = scorer.rows[target.row], target.position
        follows = (*row[1 : position + 1], target.token)
        back = zip(range(number, start - 1, -1), range(position, -1, -1), strict=False)
        run = takewhile(lambda pair: tree.positions[pair[0]] == pair[1], islice(back, _COMPARED))
        samples.append(_Sample(target.row, position, [(n, follows[at]) for n, at in run]))
    return samples


def _compare(scorer: _Scorer, samples: Sequence[_Sample], scores: Scores) -> None:
    """Raise where the samples computed again from their whole rows have other scores.

    Rounding alone may put one token far off, but not several: the largest difference is left out.
    """
    for sample in samples:
        last, count = sample.position, len(sample.tokens)
        ids = torch.tensor([scorer.rows[sample.row][: last + 1]])
        places = [(0, last - k) for k in range(count)]
        logits, _ = scorer.picker.read(ids, places, keep_cache=False)
        largest = float(logits.abs().max())
        whole = score_tokens(logits, [(k, token) for k, (_, token) in enumerate(sample.tokens)])
        differences = sorted(abs(a - b) for (a, _), (b, _) in zip(scores, whole, strict=False))
        apart = fmean(differences[:-1] or differences)
        scores = scores[count:]
        if not apart <= max(_EXACT_NATS, _ROUNDINGS * find_rounding(scorer.model) * largest):
            raise _SharingError(
                f"behind a shared prefix log-likelihoods are {apart:.2g} nats from those of the "
                f"whole prompt, on average of {count}: the model does not go on from its cache as "
                "it should"
            )


def _score_rows(scorer: _Scorer) -> None:
    """Every row whole, with others about as long, padded behind their ends."""
    rows, boundary = scorer.rows, longrope_boundary(scorer.model)
    wanted: dict[int, list[Target]] = {}
    for target in scorer.targets:
        wanted.setdefault(target.row, []).append(target)

    def side(row: int) -> bool:
        return boundary is not None and len(rows[row]) > boundary

    finished = 0
    for _, level in groupby(sorted(range(len(rows)), key=lambda i: (side(i), -len(rows[i]))), side):
        waiting = list(level)
        while waiting:
            longest = len(rows[waiting[0]])
            size = max(1, scorer.batch.tokens // longest)
            logits = max(len({t.position for t in wanted.get(i, ())}) for i in waiting[:size])
            read = max(1, logits) if scorer.picker.picks else longest
            together = waiting[: max(1, min(size, scorer.logits_at_once // read))]
            run = partial(_read_rows, scorer, together, wanted)
            made = scorer.attempt(run, len(together) * longest, single=len(together) == 1)
            if made is None:
                continue
            scorer.keep([t for i in together for t in wanted.get(i, ())], made)
            scorer.forwarded += sum(len(rows[i]) for i in together)
            scorer.padding += sum(longest - len(rows[i]) for i in together)
            finished += len(together)
            scorer.on_progress(finished, len(rows))
            waiting = waiting[len(together) :]


def _read_rows(scorer: _Scorer, together: Sequence[int], wanted: dict[int, list[Target]]) -> Scores:
    ids = torch.zeros(len(together), len(scorer.rows[together[0]]), dtype=torch.long)
    for i, row in enumerate(together):
        ids[i, : len(scorer.rows[row])] = torch.tensor(scorer.rows[row])
    asked = [
        ((i, t.position), t.token) for i, row in enumerate(together) for t in wanted.get(row, ())
    ]
    return scorer.read(ids, asked, keep_cache=False)[0]
