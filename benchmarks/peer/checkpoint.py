"""The model that both sides load: an 18 M-parameter Llama with random weights, in float32."""

from __future__ import annotations

from pathlib import Path

SHAPE = {
    "vocab_size": 50257,
    "hidden_size": 256,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "num_key_value_heads": 8,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": True,
}
# Logits then differ by about a nat; with the usual 0.02 options would lie within rounding.
INITIALIZER_RANGE = 0.1


def write_llama(folder: Path, tokenizer: str) -> int:
    """Write config, weights and ``tokenizer`` (a folder or hub id); returns the parameters.

    Raises ValueError for a tokenizer with more tokens than the embedding has rows.
    """
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = AutoTokenizer.from_pretrained(tokenizer)
    if len(loaded) > SHAPE["vocab_size"]:
        raise ValueError(
            f"tokenizer {tokenizer!r} has {len(loaded)} tokens, the model {SHAPE['vocab_size']} "
            "rows: give GPT-2's tokenizer, or a smaller one"
        )
    loaded.save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        **SHAPE,
        initializer_range=INITIALIZER_RANGE,
        bos_token_id=loaded.bos_token_id,
        eos_token_id=loaded.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())
