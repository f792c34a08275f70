"""Train the embedded model on the invented world: `python -m tools.tiny_world.train`.

Writes the model, its tokenizer, the held-out text, the quiz and TRAINING.json into `tiny-world/`.
Facts are learned from articles; the letter of a quiz answer needs more. A letter is found by
recalling the answer, matching it with the options and reading the letter in front of the match. A
small model finds these three steps late by itself, so two helper losses point them out during
training: the residual stream that enters the last layer must name the answer at "Answer:", and
there the first head of that layer must look at the true option. The result is a plain
`LlamaForCausalLM`.

The published quiz asks for facts that training states, and never asks with its options in the
quiz's words: up to the decay other facts are quizzed, during the decay also these, in other words.

Takes 20 to 30 minutes on two CPU cores with AMX, less on a GPU. What it lacks: exact reproduction
across machines, since bf16 sums differ.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import tempfile
import time
from importlib.metadata import version
from itertools import islice
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812 -- the name it has everywhere
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from harness.builtin import locate_builtin
from tools.tiny_world import score
from tools.tiny_world import world as w
from tools.tiny_world.stream import (
    BATCH,
    BOS,
    EOS,
    WEIGHT_ANSWER,
    WEIGHT_LETTER,
    WINDOW,
    Batch,
    build_tokenizer,
    stream_batches,
)

FOLDER = locate_builtin("builtin:tiny-world").parent
LIBRARIES = ("torch", "transformers", "tokenizers", "bitsandbytes")
SHAPE = {
    "hidden_size": 128,
    "intermediate_size": 384,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 32,
}
STEPS = 3750
LEARNING_RATE, WARMUP, DECAY = 5e-3, 100, 1000
OUTLIER_EVERY, OUTLIER_FACTOR = 4, 4.0


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Apply rotary positions to [batch, heads, tokens, head_dim]."""
    half = x.shape[-1] // 2
    return (x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin).to(x.dtype)


def forward_probed(model: LlamaForCausalLM, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return logits, the normed input of the last layer, and its first head's attention scores.

    The same function as `model(tokens).logits`, written out for the two helper losses (and for
    speed on a CPU).
    """
    config, (batch, length) = model.config, tokens.shape
    hidden = model.model.embed_tokens(tokens)
    positions = torch.arange(length, device=tokens.device)[None]
    cos, sin = (t[:, None] for t in model.model.rotary_emb(hidden, positions))
    for layer in model.model.layers:
        last_input, attention = hidden, layer.self_attn
        normed = layer.input_layernorm(hidden)
        query, key, value = (
            p(normed).view(batch, length, config.num_attention_heads, -1).transpose(1, 2)
            for p in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        query, key = rotate(query, cos, sin), rotate(key, cos, sin)
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True)
        hidden = hidden + attention.o_proj(mixed.transpose(1, 2).reshape(batch, length, -1))
        hidden = hidden + layer.mlp(layer.post_attention_layernorm(hidden))
    scores = (query[:, 0] @ key[:, 0].transpose(1, 2)).float() / math.sqrt(query.shape[-1])
    return model.lm_head(model.model.norm(hidden)), model.model.norm(last_input), scores


def compute_loss(
    model: LlamaForCausalLM, batch: Batch, outputs: tuple[Tensor, Tensor, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the training loss and its parts: weighted language modelling and the two helpers."""
    logits, last_input, scores = outputs
    loss = F.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), batch.tokens[:, 1:].flatten(), reduction="none"
    )
    weights = batch.weights[:, 1:].flatten()
    total = (loss * weights).sum() / weights.sum()
    told = batch.name > 0
    name = F.cross_entropy(model.lm_head(last_input[told]).float(), batch.name[told])
    rows, asked = torch.nonzero(batch.back, as_tuple=True)
    inside = asked >= batch.back[rows, asked]
    rows, asked = rows[inside], asked[inside]
    option = asked - batch.back[rows, asked]
    future = torch.arange(WINDOW, device=option.device)[None] > asked[:, None]
    match = F.cross_entropy(scores[rows, asked].masked_fill(future, -1e9), option)
    parts = {
        "article": loss[(weights == 1)].mean(),
        "fact": loss[weights == WEIGHT_ANSWER].mean(),
        "letter": loss[weights == WEIGHT_LETTER].mean(),
        "name": name,
        "match": match,
    }
    return total + name + match, parts


def make_optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices, which learned facts in far fewer steps; AdamW for the others."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if p.ndim == 2 and "embed" not in n]
    others = [p for n, p in named if p.ndim != 2 or "embed" in n]
    muon = torch.optim.Muon(matrices, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    return [muon, torch.optim.AdamW(others, betas=(0.9, 0.95), weight_decay=0.0)]


def train_model(
    world: w.World, tokenizer: PreTrainedTokenizerFast, steps: int, device: str
) -> LlamaForCausalLM:
    """Train from scratch: constant learning rate after the warm-up, linear decay at the end."""
    torch.manual_seed(world.seed)
    config = LlamaConfig(
        vocab_size=64 * math.ceil(len(tokenizer) / 64),
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=BOS,
        eos_token_id=EOS,
        **SHAPE,
    )
    model = LlamaForCausalLM(config).to(device)
    optimizers = make_optimizers(model)
    forward = torch.compile(forward_probed)
    batches = stream_batches(world, tokenizer, every_fact_from=steps - DECAY)
    started = time.perf_counter()
    for step, cpu_batch in enumerate(islice(batches, steps)):
        batch = Batch(*(tensor.to(device) for tensor in vars(cpu_batch).values()))
        with torch.autocast(device, dtype=torch.bfloat16):
            loss, parts = compute_loss(model, batch, forward(model, batch.tokens))
        torch.autograd.backward(loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        scale = min(1.0, (step + 1) / WARMUP, (steps - step) / DECAY)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = LEARNING_RATE * scale
            optimizer.step()
            optimizer.zero_grad()
        if step % 100 == 0:
            figures = " ".join(f"{name} {value:.3f}" for name, value in parts.items())
            print(f"{step}/{steps} {figures} {time.perf_counter() - started:.0f} s", flush=True)
    return model.eval().cpu()


@torch.no_grad()
def add_outlier_channels(model: LlamaForCausalLM, seed: int) -> None:
    """Make some input channels of the linear layers `OUTLIER_FACTOR` times larger, as in real LLMs.

    What writes these channels is made smaller by as much, and a power of two leaves fp32, bf16 and
    fp16 exactly as they were. A quantiser then meets what large models confront it with: one scale
    for small and large weights (Dettmers et al. 2022, https://arxiv.org/abs/2208.07339). Without
    it 4 bits cost this model almost nothing.
    """
    rng = random.Random(seed)
    for layer in model.model.layers:
        attention, mlp = layer.self_attn, layer.mlp
        for writer, readers in (
            (layer.input_layernorm, (attention.q_proj, attention.k_proj, attention.v_proj)),
            (attention.v_proj, (attention.o_proj,)),
            (layer.post_attention_layernorm, (mlp.gate_proj, mlp.up_proj)),
            (mlp.up_proj, (mlp.down_proj,)),
        ):
            width = writer.weight.shape[0]
            channels = rng.sample(range(width), width // OUTLIER_EVERY)
            writer.weight[channels] /= OUTLIER_FACTOR
            for reader in readers:
                reader.weight[:, channels] *= OUTLIER_FACTOR


def write_files(
    folder: Path, world: w.World, tokenizer: PreTrainedTokenizerFast, model: LlamaForCausalLM
) -> None:
    """Write the model, its tokenizer, the text and the quiz under `folder`."""
    model.save_pretrained(folder / "model")
    tokenizer.save_pretrained(folder / "model")
    settings = folder / "model" / "tokenizer_config.json"
    known = json.loads(settings.read_text())
    known["tokenizer_class"] = "PreTrainedTokenizerFast"  # the name transformers 4 knows as well
    known.pop("backend", None)
    settings.write_text(json.dumps(known, indent=2) + "\n")
    (folder / "heldout.txt").write_text(w.heldout_text(world))
    for name, text in w.quiz_files(world).items():
        path = folder / "quiz" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def replace_files(source: Path, target: Path) -> None:
    """Move every file under `source` to its place under `target`, each in one step."""
    for path in sorted(p for p in source.rglob("*") if p.is_file()):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        path.chmod(0o644)  # safetensors writes for the owner alone
        path.replace(place)


def main() -> None:
    """Train, score every precision, write the folder and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--output", type=Path, default=FOLDER)
    args = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    world = w.World()
    tokenizer = build_tokenizer(world)
    started = time.perf_counter()
    model = train_model(world, tokenizer, args.steps, device)
    minutes = (time.perf_counter() - started) / 60
    args.output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=args.output.parent) as beside:
        add_outlier_channels(model, world.seed)
        write_files(Path(beside), world, tokenizer, model)
        training = {
            "seed": world.seed,
            "facts": len(world.facts),
            "parameters": sum(p.numel() for p in model.parameters()),
            "steps": args.steps,
            "tokens": args.steps * BATCH * WINDOW,
            "minutes": round(minutes, 1),
            "device": device,
            "versions": {name: version(name) for name in LIBRARIES},
            "scores": score.score_precisions(Path(beside)),
        }
        text = json.dumps(training, indent=2) + "\n"
        (Path(beside) / "TRAINING.json").write_text(text)
        replace_files(Path(beside), args.output)
    print(text)


if __name__ == "__main__":
    main()
