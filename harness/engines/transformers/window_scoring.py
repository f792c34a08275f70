"""Negative log-likelihoods of the last tokens of rows, a bounded slice of logits at a time.

The hidden states of one forward pass go through the output head slice by slice. A model that does
something to its logits behind the head (soft-capping, a scale) is found on the first rows; it
then runs once per slice instead, row by row: the same numbers, slower. Worker only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch

from harness.engines.transformers.forward import keeps_logits, logits_at
from harness.engines.transformers.head import Hidden, head_of, read_hidden, replay_error

# A GPU needs large slices to be busy. On a CPU glibc takes blocks of 32 MiB and more from the
# system and gives them back each time: 331 ms for 1,024 tokens of GPT-2's vocabulary, not 262.
_SLICE_BYTES = {"cpu": 30 << 20, "cuda": 256 << 20}
# The same product in another shape differs in its last bits only; in 16 bits by a rounding or two.
_REPLAY_TOLERANCE = 1e-4


class TokenScorer:
    """Scores rows of tokens with one model; ``fallback`` says in plain words why it runs slowly."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.fallback: str | None = None
        self._checked = False

    def score(self, rows: torch.Tensor, scored: int) -> torch.Tensor:
        """NLL in nats (rows, scored), float64, of the last ``scored`` tokens of ``rows`` (rows, n).

        All tokens but the last are fed. Float32 log-softmax whatever the model computes in.
        """
        inputs, targets = rows[:, :-1], rows[:, -scored:]
        positions = torch.arange(inputs.shape[1] - scored, inputs.shape[1], device=rows.device)
        with torch.inference_mode():
            hidden = None if self.fallback else self._read(inputs, positions)
            if hidden is None:
                return torch.stack(
                    [self._rerun(*row, positions) for row in zip(inputs, targets, strict=True)]
                )
            states = hidden.states.reshape(1, -1, hidden.states.shape[-1])
            head = head_of(self.model)
            assert head is not None
            parts = [
                _nll_in_place(head(states[:, part])[0], targets.reshape(-1)[part])
                for part in _slices(states.shape[1], hidden.live.shape[-1], rows.device.type)
            ]
            return torch.cat(parts).reshape(targets.shape)

    def _read(self, inputs: torch.Tensor, positions: torch.Tensor) -> Hidden | None:
        if self._checked:
            return read_hidden(self.model, inputs, positions)
        hidden, self.fallback = read_checked(self.model, inputs, positions)
        self._checked = True
        return hidden

    def _rerun(
        self, inputs: torch.Tensor, targets: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """One row (n,) by a forward pass per slice of its positions, the model's own logits."""
        vocabulary = self.model.get_input_embeddings().num_embeddings
        parts = [
            _nll_in_place(logits_at(self.model, inputs[None], positions[part])[0], targets[part])
            for part in _slices(len(positions), vocabulary, inputs.device.type)
        ]
        return torch.cat(parts)


def read_checked(
    model: Any, inputs: torch.Tensor, positions: torch.Tensor
) -> tuple[Hidden | None, str | None]:
    """`read_hidden`, or None and why the head alone does not give this model's own logits.

    What the head put out in this very pass must be the model's logits bit for bit: so a soft cap
    shows even where logits are small and 16 bits are coarse. The head run again on the states may
    differ by rounding.
    """
    head, output = head_of(model), []
    if head is None:
        return None, "the model names no output head"
    hook = head.register_forward_hook(lambda _module, _given, out: output.append(out))
    try:
        hidden = read_hidden(model, inputs, positions)
    finally:
        hook.remove()
    if hidden is None or not output:
        return None, "the model's output head cannot be run by itself"
    live = hidden.live.float()
    same = torch.equal(output[-1][:, -1].float().nan_to_num(), live.nan_to_num())
    tolerance = max(_REPLAY_TOLERANCE, 2 * torch.finfo(hidden.states.dtype).eps)
    apart = replay_error(model, hidden) > tolerance * float(live.abs().max())
    if apart or not same:
        return None, "the model changes its logits behind its output head (soft-capping, a scale)"
    return hidden, None


def score_tokens(
    logits: torch.Tensor, wanted: Sequence[tuple[int, int]]
) -> list[tuple[float, bool]]:
    """NLL in nats of each (row of ``logits``, token), and whether it is the row's likeliest.

    ``logits`` (n, vocabulary) are overwritten, a slice at a time. Float32 log-softmax.
    """
    if not wanted:
        return []
    device = logits.device
    rows, tokens = (torch.tensor(column, device=device) for column in zip(*wanted, strict=True))
    chosen = logits[rows, tokens].float()
    largest, total, likeliest = [], [], []
    for sliced in _slices(len(logits), logits.shape[-1], device.type):
        part = logits[sliced].float()
        likeliest.append(part.argmax(-1))  # of equals the first, as `generate` takes it
        largest.append(part.amax(-1))
        total.append(part.sub_(largest[-1][:, None]).exp_().sum(-1).log())
    nll = (torch.cat(total)[rows] - (chosen - torch.cat(largest)[rows])).double()
    best = torch.cat(likeliest)[rows] == tokens
    return list(zip(nll.tolist(), best.tolist(), strict=True))


def describe_fallback(model: Any, reason: str) -> str:
    """The sentence of a record whose model could not be scored from its hidden states."""
    if keeps_logits(model):
        return f"{reason}: a forward pass per slice of positions, the same numbers more slowly"
    return f"{reason}, nor asked for some logits only: a whole window's logits at once"


def _slices(positions: int, vocabulary: int, device: str) -> Iterator[slice]:
    """Slices of ``positions`` whose float32 logits stay within the device's bound."""
    bound = _SLICE_BYTES.get(device, _SLICE_BYTES["cuda"])
    size = max(1, bound // (4 * vocabulary))
    for start in range(0, positions, size):
        yield slice(start, min(start + size, positions))


def _nll_in_place(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """logsumexp - chosen of ``logits`` (n, vocabulary), which are overwritten; (n,) in float64."""
    logits = logits.float()
    largest = logits.amax(-1, keepdim=True)
    logits -= largest
    chosen = logits.gather(-1, targets[:, None])[:, 0]
    return (logits.exp_().sum(-1).log() - chosen).double()
