"""Negative log-likelihoods of tokens from logits, a bounded slice of logits at a time."""

from collections.abc import Sequence

import torch

from harness.engines.shared.likeliest import find_likeliest
from harness.engines.transformers.forward import slice_rows
from harness.engines.transformers.outputs import OutputReader


def score_windows(outputs: OutputReader, rows: torch.Tensor, scored: int) -> torch.Tensor:
    """NLL in nats (rows, scored), float64, of the last ``scored`` tokens of ``rows`` (rows, n).

    Float32 log-softmax whatever the model computes in.
    """
    inputs, targets = rows[:, :-1], rows[:, -scored:]
    positions = scored_positions(rows, scored)
    with torch.inference_mode():
        wanted = targets.reshape(-1)
        parts = [
            _nll_in_place(logits, wanted[part])
            for part, logits in outputs.read_logits(inputs, positions)
        ]
        return torch.cat(parts).reshape(targets.shape)


def scored_positions(rows: torch.Tensor, scored: int) -> torch.Tensor:
    """The positions of ``rows`` (rows, n) that predict their last ``scored`` tokens."""
    length = rows.shape[1] - 1
    return torch.arange(length - scored, length, device=rows.device)


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
    for sliced in slice_rows(len(logits), logits.shape[-1], device):
        part = logits[sliced].float()
        likeliest.append(find_likeliest(part))  # of equals the first, as `generate` takes it
        largest.append(part.amax(-1))
        total.append(part.sub_(largest[-1][:, None]).exp_().sum(-1).log())
    nll = (torch.cat(total)[rows] - (chosen - torch.cat(largest)[rows])).double()
    best = torch.cat(likeliest)[rows] == tokens
    return list(zip(nll.tolist(), best.tolist(), strict=True))


def _nll_in_place(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """logsumexp - chosen of ``logits`` (n, vocabulary), which are overwritten; (n,) in float64."""
    logits = logits.float()
    largest = logits.amax(-1, keepdim=True)
    logits -= largest
    chosen = logits.gather(-1, targets[:, None])[:, 0]
    return (logits.exp_().sum(-1).log() - chosen).double()
