"""How far one model's distributions are from another's, token by token."""

import torch

from harness.engines.shared.likeliest import find_likeliest

# Logits of one model: what a CPU's cache holds beside all that is computed from them, and enough to
# keep a GPU busy.
_BLOCK_BYTES = {"cpu": 2 << 20, "cuda": 32 << 20}
# Beyond them float64 is needed: e^50 of a probability too small for float32 could count, and
# float32's sums are off by up to 1e-6 of a divergence (in nats).
_LARGEST_APART, _LARGEST_KL = 50.0, 1.0


def compare_logits(
    reference: torch.Tensor, other: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """KL, agreement and Δp (3, n) of ``other`` (n, vocabulary) from ``reference``, on the CPU.

    - KL(reference‖other) in nats over the whole vocabulary. A token without probability under the
      reference adds nothing; one without probability under the other alone makes it infinite.
    - 1 where both have the same likeliest token, else 0.
    - The other's probability of the true token, ``targets`` (n,), minus the reference's.

    In float64; distributions that are near each other in float32, without losing digits.
    """
    block_bytes = _BLOCK_BYTES.get(reference.device.type, _BLOCK_BYTES["cuda"])
    size = max(1, block_bytes // (4 * reference.shape[-1]))
    blocks = zip(*(torch.split(x, size) for x in (reference, other, targets)), strict=True)
    with torch.inference_mode():
        return torch.cat([_compare_block(*block) for block in blocks], 1).cpu()


def _compare_block(
    reference: torch.Tensor, other: torch.Tensor, targets: torch.Tensor
) -> torch.Tensor:
    """`compare_logits` of some tokens, on their device.

    With δ = log q − log p up to a constant per token, KL = log E[e^δ] − E[δ] under p. Neither p's
    sum nor the size of log p enters: only differences of logits, which are small between models
    near each other. δ is 0 at the reference's likeliest token.
    """
    best = find_likeliest(reference)
    agrees = (best == find_likeliest(other)).double()
    chosen = targets[:, None]
    p = reference.float().softmax(-1)
    apart = other.float() - reference.float()
    apart -= apart.gather(-1, best[:, None])
    at_target = apart.gather(-1, chosen)[:, 0].double()
    largest = apart.amax(-1)
    mean = torch.linalg.vecdot(p, apart).double()
    excess = torch.linalg.vecdot(p, apart.expm1_()).double()
    kl = (excess.log1p() - mean).clamp(min=0)
    p_target = p.gather(-1, chosen)[:, 0].double()
    delta_p = p_target * (at_target.exp() / (1 + excess) - 1)
    found = torch.stack((kl, agrees, delta_p))
    far = ~((largest < _LARGEST_APART) & (kl < _LARGEST_KL))  # and where anything is NaN
    if far.any():
        found[:, far] = _compare_exactly(reference[far], other[far], targets[far], agrees[far])
    return found


def _compare_exactly(
    reference: torch.Tensor, other: torch.Tensor, targets: torch.Tensor, agrees: torch.Tensor
) -> torch.Tensor:
    """In float64 throughout, from log-probabilities."""
    log_p, log_q = (logits.double().log_softmax(-1) for logits in (reference, other))
    chosen = targets[:, None]
    delta_p = (log_q.gather(-1, chosen).exp() - log_p.gather(-1, chosen).exp())[:, 0]
    apart = torch.sub(log_p, log_q, out=log_q)
    p = log_p.exp_()
    kl = apart.mul_(p).masked_fill_(p == 0, 0).sum(-1)
    return torch.stack((kl, agrees, delta_p))
