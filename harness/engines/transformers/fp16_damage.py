"""The damage that float16 does to a checkpoint: its range ends at 65,504 and at 6e-8.

bfloat16 and float32 reach from 1e-38 to 3e38: beyond float16's range a weight becomes infinite or
zero, and an activation infinite.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from harness.engines.transformers.checkpoint import Checkpoint
from harness.engines.transformers.layers import dtype_name
from harness.machine.files import cache_folder, write_atomically

CHUNK_WEIGHTS = 1 << 18  # what is made of a piece stays in the processor's cache
# Magnitudes from which a cast rounds (to nearest, ties to even) to infinity and to a normal number,
# and the largest that it rounds to zero.
_INFINITE, _NORMAL, _ZERO = 65520.0, 2.0**-14 - 2.0**-25, 2.0**-25
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
_MAY_FLUSH = 1e-3  # of all weights; some are close to zero in every model
_PROBE_TEXT = "The river runs from the mountains to the sea; in 1984 it was 12.5 km longer."
_PROBE_TOKENS = 32


@dataclass(frozen=True)
class CastCounts:
    """Weights examined, and those that float16 makes infinite, zero, or subnormal (fewer bits)."""

    weights: int = 0
    overflowed: int = 0
    flushed: int = 0
    subnormal: int = 0

    def __add__(self, other: CastCounts) -> CastCounts:
        return CastCounts(
            *(getattr(self, f.name) + getattr(other, f.name) for f in fields(CastCounts))
        )


def examine_cast(checkpoint: Checkpoint, weights_sha256: str) -> dict[str, CastCounts]:
    """`count_cast_damage`, made once for these weights and then read from the cache folder."""
    place = cache_folder() / "casts" / f"{weights_sha256}.json"
    with contextlib.suppress(OSError, ValueError, TypeError, AttributeError):
        stored = json.loads(place.read_bytes())
        return {name: CastCounts(*counts) for name, counts in stored.items()}
    found = count_cast_damage(checkpoint)
    with contextlib.suppress(OSError):  # a cache that cannot be written is no error
        write_atomically(place, json.dumps({name: astuple(c) for name, c in found.items()}))
    return found


def count_cast_damage(checkpoint: Checkpoint) -> dict[str, CastCounts]:
    """Per stored float tensor, how many weights a cast to float16 damages; reads each one once.

    On the CPU, also for a cell on a GPU. What is loaded there is cast already and no longer tells a
    weight that was zero from one that became zero, so all stored weights would be copied there once
    more. Here a bfloat16 weight takes 1.5 ns of one core (12 s for 8 billion), once for
    all runs (`examine_cast`), and loading then finds the files in memory, where they fit.
    """
    found: dict[str, CastCounts] = {}
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        for path in checkpoint.paths:
            with safe_open(path, framework="pt") as file:
                names = file.keys()
                counts = {name: pool.submit(_count, file.get_tensor(name)) for name in names}
                found |= {name: count.result() for name, count in counts.items()}
    return {name: count for name, count in found.items() if count.weights}


def sum_cast_damage(counts: dict[str, CastCounts], model: Any) -> CastCounts:
    """The counts of the tensors that the loaded model holds in float16.

    Some architectures keep a few in float32 for just this reason.
    """
    wider = [name for name, p in model.named_parameters() if dtype_name(p) == "float32"]
    return sum((c for name, c in counts.items() if not _is_among(name, wider)), CastCounts())


def probe_activations(model: Any, tokenizer: Any, max_context: int | None) -> dict[str, Any]:
    """Run a short input and count the non-finite numbers that any module gives.

    ``probe_tokens`` in one sequence, ``nonfinite_activations`` in all outputs together, and the
    first module that gave one. The input is a fixed text, or fixed token ids without a tokenizer.
    """
    nonfinite: dict[str, int] = {}

    def watch(name: str) -> Any:
        def count(module: Any, given: Any, output: Any) -> None:
            bad = sum(int((~t.isfinite()).sum()) for t in _find_floats(output))
            if bad:
                nonfinite[name] = nonfinite.get(name, 0) + bad

        return count

    ids = _make_probe(model, tokenizer, min(_PROBE_TOKENS, max_context or _PROBE_TOKENS))
    handles = [m.register_forward_hook(watch(name)) for name, m in model.named_modules()]
    try:
        with torch.inference_mode():
            model(input_ids=ids, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return {
        "probe_tokens": ids.shape[1],
        "nonfinite_activations": sum(nonfinite.values()),
        "first_nonfinite": next(iter(nonfinite), None),
    }


def describe_damage(found: dict[str, Any]) -> tuple[str, ...]:
    """Flags for this cell's numbers; ``found`` is what the attested checkpoint states.

    Without counts of weights where only activations pass through float16.
    """
    flags = []
    if found.get("overflowed"):
        flags.append(f"infinite in float16: {found['overflowed']:,} of the checkpoint's weights")
    if found.get("flushed", 0) > _MAY_FLUSH * found.get("weights", 0):
        share = found["flushed"] / found["weights"]
        flags.append(
            f"zero in float16: {found['flushed']:,} of the checkpoint's weights ({share:.2%})"
        )
    if found["nonfinite_activations"]:
        flags.append(
            f"not finite in float16: {found['nonfinite_activations']:,} activations on a probe "
            f"text, first in {found['first_nonfinite'] or 'the model itself'}"
        )
    return tuple(flags)


def _is_among(stored: str, names: Iterable[str]) -> bool:
    """Whether a stored tensor is one of these parameters; either may lack the other's prefix."""
    return any(stored.endswith(name) or name.endswith(f".{stored}") for name in names)


def _count(tensor: torch.Tensor) -> CastCounts:
    """Of floats: their bits without the sign, read as an integer, are in the order of magnitude."""
    if not tensor.is_floating_point():
        return CastCounts()
    tensor = tensor.flatten() if tensor.element_size() > 1 else tensor.flatten().float()
    integer = _INTEGERS[tensor.element_size()]
    bounds = torch.tensor([_INFINITE, torch.inf, _NORMAL, _ZERO], dtype=torch.float64)
    infinite, end, normal, zero = bounds.to(tensor.dtype).view(integer).tolist()
    bits = tensor.view(integer).numpy()
    overflowed = flushed = subnormal = 0
    for start in range(0, bits.size, CHUNK_WEIGHTS):
        magnitudes = bits[start : start + CHUNK_WEIGHTS] & np.iinfo(bits.dtype).max
        if beyond := int(np.count_nonzero(magnitudes >= infinite)):
            overflowed += beyond - int(np.count_nonzero(magnitudes >= end))  # inf and NaN
        if small := int(np.count_nonzero(magnitudes < normal)):
            tiny = int(np.count_nonzero(magnitudes <= zero))
            flushed += tiny - int(np.count_nonzero(magnitudes == 0))
            subnormal += small - tiny
    return CastCounts(bits.size, overflowed, flushed, subnormal)


def _find_floats(output: Any) -> Iterator[torch.Tensor]:
    if isinstance(output, torch.Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, (dict, list, tuple)):
        for part in output.values() if isinstance(output, dict) else output:
            yield from _find_floats(part)


def _make_probe(model: Any, tokenizer: Any, length: int) -> torch.Tensor:
    """Token ids (1, at most length)."""
    rows = model.get_input_embeddings().num_embeddings
    ids = tokenizer(_PROBE_TEXT).input_ids[:length] if tokenizer is not None else []
    if not ids:
        ids = [i * rows // length for i in range(length)]
    return torch.tensor([ids], device=model.device)
