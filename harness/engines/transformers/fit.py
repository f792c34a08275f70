"""Whether a checkpoint's weights, its config and a tokenizer belong together."""

import re
from collections.abc import Iterable
from typing import Any

from transformers import PreTrainedModel

from harness.engines.transformers.layers import read_layers
from harness.errors import InputError


def check_fit(name: str, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Refuse weights that the config has no place for, or places left without weights.

    ``info`` is transformers' loading info of the model called ``name``; raises `InputError`.
    """
    missing, mismatched = info["missing_keys"], info["mismatched_keys"]
    shapes = [str(name) for name, *_ in mismatched] + _find_misshapen(model)
    beyond = _find_layers_beyond(model, info["unexpected_keys"])
    problems = {"missing": missing, "of another shape": shapes, "of layers beyond it": beyond}
    found = [
        f"{len(names)} tensors {what}, such as {min(names)}"
        for what, names in problems.items()
        if names
    ]
    if found:
        raise InputError(f"the checkpoint of {name} does not fit its config: {'; '.join(found)}")


def _find_misshapen(model: PreTrainedModel) -> list[str]:
    """Weights of another shape than their layer: transformers checks none of quantised layers."""
    layers, found = read_layers(model), []
    for name, module in layers.linear.items():
        packed = layers.packed.get(name)
        shape = tuple(module.weight.shape) if packed is None else packed.shape
        if hasattr(module, "out_features") and shape != (module.out_features, module.in_features):
            found.append(f"{name}.weight")
    return found


def _find_layers_beyond(model: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """Tensors named as the model's own but for a number: its config names too few layers.

    Other tensors that a model does not use, such as a second head, are ignored.
    """
    own = {re.sub(r"\d+", "#", name) for name, _ in model.named_parameters()}
    return [name for name in unexpected if re.sub(r"\d+", "#", name) in own]


def check_vocabulary(model: Any, tokenizer: Any) -> None:
    """Refuse a tokenizer whose ids have no row in the embedding; raises `InputError`."""
    rows = model.get_input_embeddings().num_embeddings
    added = tokenizer.get_added_vocab()  # may name tokens of other modalities, which no text gives
    own = (i for token, i in tokenizer.get_vocab().items() if token not in added)
    highest = max(own, default=-1)
    if highest >= rows:
        raise InputError(
            f"vocabulary mismatch: the tokenizer has token ids up to {highest}, the model's "
            f"embedding only {rows} rows; is it the tokenizer this model was trained with?"
        )
