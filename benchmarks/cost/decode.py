"""Our decode loop beside the bare forward calls that it makes; run as a process of its own.

    python -m cost.decode MODEL DEVICE ROUNDS NEW_TOKENS

The calls of one generation are recorded (`forward`'s arguments, real tokens) and then made again
with nothing between them: no argmax, no clock, no list of tokens, the device waited for once at the
end. Both sides take turns, A B and then B A; prints the median seconds of both as JSON.
"""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from cost.cell_start import make_job
from cost.row import Cost
from harness.engines.transformers.loading import load_cell

if TYPE_CHECKING:
    import torch

BENCHMARKS = Path(__file__).resolve().parent.parent
TARGET = 0.02
TINY = "tiny-world"
PROMPT_TOKENS = 32
# Random Llamas: on a CPU as small as people run them, on a GPU large enough to be worth one.
SHAPES = {
    "cpu": {
        "vocab_size": 16000,
        "hidden_size": 512,
        "intermediate_size": 1536,
        "num_hidden_layers": 8,
        "num_attention_heads": 8,
    },
    "cuda": {
        "vocab_size": 128256,
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
    },
}


def measure_decoding(device: str, processes: int, rounds: int, new_tokens: int) -> list[Cost]:
    """A row per model: the process is the sample."""
    costs = []
    for model, target in (("random", TARGET), (TINY, None)):
        found = [_run(model, device, rounds, new_tokens) for _ in range(processes)]
        name = f"decode: {model}, {found[0]['parameters'] / 1e6:,.1f} M parameters"
        bare, ours = (tuple(process[side] for process in found) for side in ("bare", "ours"))
        costs.append(Cost(name, "bare forward calls", "s", bare, ours, "beyond", target))
    return costs


def _run(model: str, device: str, rounds: int, new_tokens: int) -> dict[str, float]:
    command = [sys.executable, "-m", "cost.decode", model, device, str(rounds), str(new_tokens)]
    done = subprocess.run(command, cwd=BENCHMARKS, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def make_model(name: str, device: str) -> Any:
    """The embedded model, or a random one: float32 on a CPU, bfloat16 on CUDA."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    precision = "fp32" if device == "cpu" else "bf16"
    if name == TINY:
        return load_cell(make_job(precision, device)).model
    torch.manual_seed(0)
    with torch.device(device):
        model = LlamaForCausalLM(LlamaConfig(**SHAPES[device.partition(":")[0]]))
    return (model if device == "cpu" else model.bfloat16()).eval()


def make_prompt(model: Any, batch: int, tokens: int) -> torch.Tensor:
    """Random token ids (batch, tokens), the same each time."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = model.get_input_embeddings().num_embeddings
    return torch.randint(0, rows, (batch, tokens), generator=generator).to(model.device)


def record_calls(model: Any, generate: Callable[[], Any]) -> list[dict[str, Any]]:
    """The arguments of every forward call of ``generate``, with an empty cache in the first."""
    calls: list[dict[str, Any]] = []

    def keep(_: Any, arguments: tuple[Any, ...], given: dict[str, Any]) -> None:
        assert not arguments, "the decode loop names its arguments"
        cache = copy.deepcopy(given.get("past_key_values")) if not calls else None
        calls.append({**given, "past_key_values": cache})

    hook = model.register_forward_pre_hook(keep, with_kwargs=True)
    try:
        generate()
    finally:
        hook.remove()
    return calls


def call_bare(model: Any, calls: list[dict[str, Any]], device: torch.device) -> float:
    """Seconds that the recorded calls take with nothing between them, over a cache of their own."""
    import torch

    cache = copy.deepcopy(calls[0]["past_key_values"])
    given = [{k: v for k, v in call.items() if k != "past_key_values"} for call in calls]
    _wait(device)
    with torch.inference_mode():
        start = time.perf_counter()
        for call in given:
            cache = model(past_key_values=cache, **call).past_key_values
        _wait(device)
        return time.perf_counter() - start


def _wait(device: torch.device) -> None:
    import torch

    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> None:
    import torch

    from harness.engines.transformers.generation import TransformersGenerator

    name, given, rounds, new_tokens = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
    device = torch.device(given)
    model = make_model(name, given)
    prompt = make_prompt(model, 1, PROMPT_TOKENS)
    generator = TransformersGenerator(model)
    calls = record_calls(model, lambda: generator.run(prompt, new_tokens))
    assert len(calls) == new_tokens

    def time_ours() -> float:
        _wait(device)
        start = time.perf_counter()
        generator.run(prompt, new_tokens)
        _wait(device)
        return time.perf_counter() - start

    def time_bare() -> float:
        return call_bare(model, calls, device)

    for _ in range(2):
        time_ours(), time_bare()
    ours, bare = [], []
    for number in range(rounds):
        if number % 2:
            ours.append(time_ours())
            bare.append(time_bare())
        else:
            bare.append(time_bare())
            ours.append(time_ours())
    parameters = sum(p.numel() for p in model.parameters())
    print(json.dumps({"ours": median(ours), "bare": median(bare), "parameters": parameters}))


if __name__ == "__main__":
    main()
