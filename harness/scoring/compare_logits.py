"""How far apart two models' distributions are, token by token."""

import torch


def compare_logits(
    reference: torch.Tensor, other: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """KL, agreement and Δp (3, n) of ``other`` (n, vocabulary) from ``reference``, on the CPU.

    - KL(reference‖other) in nats over the whole vocabulary. A token without probability under the
      reference adds nothing; one without probability under the other alone makes it infinite.
    - 1 where both have the same likeliest token, else 0.
    - The other's probability of the true token, ``targets`` (n,), minus the reference's.

    In float64: in float32 the difference of two log-probabilities of size 16 is off by 1e-6.
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
        return torch.stack((kl, agrees, delta_p)).cpu()


def count_nonfinite(rows: torch.Tensor, kind: str) -> int:
    """Rows of ``states`` or ``logits`` that give no distribution; -inf is allowed among logits."""
    if kind == "logits":
        rows = rows.amax(-1, keepdim=True)  # NaN where one is
    return int((~rows.isfinite()).any(-1).sum())
