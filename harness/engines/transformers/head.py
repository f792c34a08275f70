"""The output head apart from the model: its input, caught during a forward pass.

A window's logits are vocabulary / width times larger than the hidden states they come from. So the
states are caught on their way into the head, and the head runs on as many of them as fit. A change
of logits behind the head (soft-capping, a logit scale) is not replayed: `read_checked` finds it.
"""

from dataclasses import dataclass
from typing import Any

import torch

from harness.engines.transformers.forward import keeps_logits

# The same product in another size differs in its last bits only; in 16 bits by a rounding or two.
_REPLAY_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Hidden:
    """``states`` (batch, positions, width) go into the head, in its own dtype.

    ``live`` (batch, vocabulary): the model's own logits at the last of the positions.
    """

    states: torch.Tensor
    live: torch.Tensor


def head_of(model: Any) -> Any | None:
    """The module that turns hidden states into logits; None where the model names none."""
    return model.get_output_embeddings()


def read_hidden(model: Any, ids: torch.Tensor, positions: torch.Tensor) -> Hidden | None:
    """One forward pass of ``ids`` (batch, length), the head on the last of ``positions`` alone.

    Returns None where the states cannot be caught: no head, or one that is not called with the
    states of every position.
    """
    head = head_of(model)
    if head is None:
        return None
    caught: list[torch.Tensor] = []

    def catch(_: Any, given: tuple[Any, ...]) -> tuple[Any, ...] | None:
        states = given[0] if given else None
        if not isinstance(states, torch.Tensor) or states.shape[:2] != (ids.shape[0], kept):
            return None
        caught.append(states if keeps_logits(model) else states[:, positions])
        return (caught[-1][:, -1:], *given[1:])

    kept = len(positions) if keeps_logits(model) else ids.shape[1]
    arguments: dict[str, Any] = {"logits_to_keep": positions} if keeps_logits(model) else {}
    hook = head.register_forward_pre_hook(catch)
    try:
        with torch.inference_mode():
            logits = model(input_ids=ids, use_cache=False, **arguments).logits
    finally:
        hook.remove()
    if len(caught) != 1:
        return None
    return Hidden(caught[0], logits[:, -1])


def replay_error(model: Any, hidden: Hidden) -> float:
    """Largest difference between the head's logits and the model's own at the last position."""
    with torch.inference_mode():
        replayed = head_of(model)(hidden.states[:, -1:])[:, -1]  # type: ignore[misc]
        return float((replayed.float() - hidden.live.float()).abs().max())


def read_checked(
    model: Any, inputs: torch.Tensor, positions: torch.Tensor
) -> tuple[Hidden | None, str | None]:
    """`read_hidden`, or None and the reason why the head alone does not give this model's logits.

    The head's output in this pass must be the model's logits bit for bit: so a soft cap shows even
    where logits are small and 16 bits are coarse. The head run again on the states may differ by
    rounding.
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


def describe_fallback(model: Any, reason: str) -> str:
    """The sentence for a model that cannot be read through its hidden states."""
    if keeps_logits(model):
        return f"{reason}: a forward pass per slice of positions, the same numbers more slowly"
    return f"{reason}, nor asked for some logits only: a whole window's logits at once"
