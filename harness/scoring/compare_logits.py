"""How far apart two models' distributions are, token by token."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Apart:
    """Per token (n,), float64: ``kl`` is KL(reference‖candidate) in nats.

    ``agrees`` is 1 where both have the same likeliest token; ``delta_p`` is the candidate's
    probability of the true token minus the reference's.
    """

    kl: torch.Tensor
    agrees: torch.Tensor
    delta_p: torch.Tensor


def compare_logits(reference: torch.Tensor, other: torch.Tensor, targets: torch.Tensor) -> Apart:
    """How far ``other`` (n, vocabulary) is from ``reference``, over the whole vocabulary.

    ``targets`` (n,) are the true tokens. In float64: in float32 the difference of two
    log-probabilities of size 16 is off by 1e-6. A token without probability under the reference
    adds nothing to the KL; one without probability under the candidate alone makes it infinite.
    """
    with torch.inference_mode():
        agrees = (reference.argmax(-1) == other.argmax(-1)).double()
        log_p = reference.double().log_softmax(-1)
        log_q = other.double().log_softmax(-1)
        chosen = targets[:, None]
        delta_p = (log_q.gather(-1, chosen).exp() - log_p.gather(-1, chosen).exp())[:, 0]
        apart = torch.sub(log_p, log_q, out=log_q)
        p = log_p.exp_()
        kl = apart.mul_(p).masked_fill_(p == 0, 0).sum(-1)
        return Apart(kl.cpu(), agrees.cpu(), delta_p.cpu())


def count_nonfinite(rows: torch.Tensor, kind: str) -> int:
    """Rows of ``states`` or ``logits`` that give no distribution; -inf is allowed among logits."""
    if kind == "logits":
        rows = rows.amax(-1, keepdim=True)  # NaN where one is
    return int((~rows.isfinite()).any(-1).sum())
