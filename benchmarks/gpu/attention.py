"""What cuDNN's attention costs and gains: generation timed with it and without, in turn.

    python -m gpu.attention DEVICE OUT.json [--small]

cuDNN makes a plan for each new shape, and a generation meets a new one with every token. So the
first generation at each prompt length is shown beside later ones. Random weights of Llama-3.2-1B's
shape in bfloat16. On a CPU the switch does nothing: what is shown there is noise.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

import yaml

from gpu.offline import SMALL_SHAPE
from harness.catalog import load_precision
from harness.engines.shared.attention_kernels import KernelWatch, cudnn_attention
from harness.engines.transformers.loading import load_cell
from harness.suite.model_sources import CellJob, find_files
from harness.suite.models import ModelSpec, PrecisionSpec
from harness.timing.prompts import make_prompt

SHAPES = Path(__file__).parents[2] / "suites/shapes.yaml"
ROUNDS = 6


def make_job(device: str, small: bool, precision: str = "bf16") -> CellJob:
    """A cell of the first model of suites/shapes.yaml, small where that is asked for."""
    (first, *_) = yaml.safe_load(SHAPES.read_text(encoding="utf-8"))["models"]
    source = first["source"] | (SMALL_SHAPE if small else {})
    model = ModelSpec(name=first["name"], source=source, weights="random")
    options = load_precision(precision).options()
    spec = PrecisionSpec(name=precision, use=precision, options=options)
    files = find_files(model, Path.cwd(), online=False)
    return CellJob(model, spec, files, device, suite_folder=Path.cwd(), online=False)


def time_both(engine: Any, batch: int, prompt_tokens: int, new_tokens: int) -> dict[str, Any]:
    """Seconds to the first token and per further token; both sides, ABBA."""
    generator = engine.open_generator(None, False)
    prompt = make_prompt(engine, batch, prompt_tokens)
    times: dict[bool, list[list[float]]] = {True: [], False: []}
    with cudnn_attention(False):  # what any first pass of this shape costs is neither side's
        generator.run(prompt, new_tokens)
    for number in range(ROUNDS):
        for on in (True, False) if number % 2 else (False, True):
            with cudnn_attention(on):
                times[on].append(generator.run(prompt, new_tokens).ready)

    def per_token(ready: list[float]) -> float:
        return (ready[-1] - ready[0]) / (len(ready) - 1)

    kernels = {}
    for on in times:
        with cudnn_attention(on), KernelWatch() as watch:
            generator.run(prompt, 2)
        kernels[on] = watch.take()
    return {
        "batch": batch,
        "prompt_tokens": prompt_tokens,
        **{
            "with_cudnn" if on else "without": {
                "kernels": kernels[on],
                "first_ttft_s": rounds[0][0],
                "first_tpot_s": per_token(rounds[0]),
                "later_ttft_s": median(ready[0] for ready in rounds[1:]),
                "later_tpot_s": median(map(per_token, rounds[1:])),
            }
            for on, rounds in times.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("device")
    parser.add_argument("out", type=Path)
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    engine = load_cell(make_job(given.device, given.small))
    engine.open_generator(None, False).run(make_prompt(engine, 1, 8), 2)  # starts the libraries
    sizes = [(1, 16), (2, 16)] if given.small else [(1, 512), (8, 512), (1, 2048)]
    rows = [time_both(engine, *size, 4 if given.small else 32) for size in sizes]
    result = {"device": given.device, "rows": rows}
    given.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for row in rows:
        later = [row[side]["later_tpot_s"] for side in ("with_cudnn", "without")]
        first = [row[side]["first_tpot_s"] for side in ("with_cudnn", "without")]
        print(
            f"batch {row['batch']}, prompt {row['prompt_tokens']}: per token with cuDNN "
            f"{later[0] / later[1]:.2f} of that without; the first time {first[0] / first[1]:.2f}"
        )


if __name__ == "__main__":
    main()
