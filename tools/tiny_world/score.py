"""Score the embedded model at each precision: `python -m tools.tiny_world.score`.

Used by the training recipe's report and by the tests, apart from the harness's own metrics, so that
the two can be compared. What it lacks: batching by length, intervals, GPUs.
"""

from __future__ import annotations

import csv
import math
from itertools import islice
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812 -- the name it has everywhere
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

from harness.builtin import locate_builtin
from tools.tiny_world import world as w

CONTEXT, STRIDE = 256, 128
PRECISIONS = ("fp32", "bf16", "fp16", "int8", "nf4", "nf4-dq", "fp4")


def load_model(folder: Path, precision: str) -> Any:
    """Load the model at one of `PRECISIONS`; the quantised ones compute in float32."""
    if precision in ("bf16", "fp16"):
        dtype = {"bf16": torch.bfloat16, "fp16": torch.float16}[precision]
        return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
    quantization = None
    if precision == "int8":
        quantization = BitsAndBytesConfig(load_in_8bit=True)
    elif precision != "fp32":
        quantization = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=precision.removesuffix("-dq"),
            bnb_4bit_use_double_quant=precision.endswith("-dq"),
            bnb_4bit_compute_dtype=torch.float32,
        )
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, quantization_config=quantization
    ).eval()
    for module in model.modules():
        # bitsandbytes would round the scales to bf16 and compute in it, whatever dtype was asked.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    return model


@torch.no_grad()
def predict_text(model: Any, ids: Tensor) -> Tensor:
    """Return log-probabilities [len(ids) - 1, vocabulary] of every token but the first.

    Sliding windows of `CONTEXT` tokens, each scoring those the one before did not.
    """
    rows, scored = [], 1
    for start in range(0, len(ids), STRIDE):
        end = min(start + CONTEXT, len(ids))
        logits = model(ids[None, start:end]).logits[0].float()
        rows.append(logits[scored - 1 - start : end - 1 - start].log_softmax(-1))
        scored = end
        if end == len(ids):
            break
    return torch.cat(rows)


def compute_perplexity(predicted: Tensor, ids: Tensor) -> float:
    """Return the exponential of the mean negative log-likelihood."""
    return math.exp(F.nll_loss(predicted, ids[1:]).item())


def compute_divergence(reference: Tensor, other: Tensor) -> float:
    """Return the mean KL(reference || other) per token, in nats."""
    return F.kl_div(other, reference, reduction="batchmean", log_target=True).item()


def read_quiz(folder: Path, items: int | None = None) -> list[tuple[str, str]]:
    """Read the quiz as 5-shot prompts with their letters, the first `items` of each subject."""
    pairs = []
    for path in sorted(folder.glob("test/*_test.csv")):
        subject = path.name.removesuffix("_test.csv")
        with (folder / "dev" / f"{subject}_dev.csv").open(newline="") as dev:
            shots = "".join(render_row(row) + f" {row[5]}\n\n" for row in csv.reader(dev))
        with path.open(newline="") as test:
            rows = list(islice(csv.reader(test), items))
        head = w.render_header(subject) + shots
        pairs += [(head + render_row(row), row[5]) for row in rows]
    return pairs


def render_row(row: list[str]) -> str:
    """Lay a row of a quiz file out as MMLU does, up to "Answer:"."""
    lines = [f"{letter}. {option}\n" for letter, option in zip(w.LETTERS, row[1:5])]
    return f"{row[0]}\n{''.join(lines)}Answer:"


@torch.no_grad()
def compute_accuracy(model: Any, tokenizer: Any, quiz: list[tuple[str, str]]) -> float:
    """Return the share of prompts after which the right letter is the likeliest of the four."""
    letters = [tokenizer.encode(f" {le}")[-1] for le in w.LETTERS]
    right = 0
    for start in range(0, len(quiz), 32):
        some = quiz[start : start + 32]
        rows = [torch.tensor(tokenizer.encode(prompt)) for prompt, _ in some]
        padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        hidden = model.model(padded).last_hidden_state
        last = torch.stack([h[len(row) - 1] for h, row in zip(hidden, rows)])
        best = model.lm_head(last)[:, letters].argmax(-1).tolist()
        right += sum(w.LETTERS[i] == letter for i, (_, letter) in zip(best, some))
    return right / len(quiz)


def score_precisions(
    folder: Path,
    precisions: tuple[str, ...] = PRECISIONS,
    items: int | None = None,
    tokens: int | None = None,
) -> dict[str, dict[str, float]]:
    """Return perplexity, its ratio and KL to the first precision, and accuracy, by precision.

    On the first `tokens` of the text and the first `items` of each subject, or on all.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    ids = torch.tensor(tokenizer.encode((folder / "heldout.txt").read_text()))[:tokens]
    quiz = read_quiz(folder / "quiz", items)
    scores: dict[str, dict[str, float]] = {}
    reference: Tensor | None = None
    for precision in precisions:
        model = load_model(folder / "model", precision)
        predicted = predict_text(model, ids)
        reference = predicted if reference is None else reference
        perplexity = compute_perplexity(predicted, ids)
        scores[precision] = {
            "perplexity": round(perplexity, 4),
            "perplexity_ratio": round(perplexity / compute_perplexity(reference, ids), 4),
            "kl": round(compute_divergence(reference, predicted), 6),
            "quiz_accuracy": round(compute_accuracy(model, tokenizer, quiz), 4),
        }
    return scores


def main() -> None:
    """Print the figures of the embedded model."""
    folder = locate_builtin("builtin:tiny-world").parent
    for precision, figures in score_precisions(folder).items():
        print(f"{precision:7}", *(f"{name} {value:<8}" for name, value in figures.items()))


if __name__ == "__main__":
    main()
