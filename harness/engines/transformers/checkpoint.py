"""What a checkpoint's files hold before they are loaded: stored dtypes, quantised or not.

Reads the headers of safetensors files only: https://huggingface.co/docs/safetensors/index#format
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.suite.model_files import list_weights

# What bitsandbytes, GPTQ, AWQ and compressed-tensors store beside or instead of a weight.
_QUANTISED_ENDS = (
    ".SCB",
    ".absmax",
    ".quant_map",
    ".quant_state.bitsandbytes__fp4",
    ".quant_state.bitsandbytes__nf4",
    ".qweight",
    ".qzeros",
    ".weight_packed",
    ".weight_scale",
    ".weight_scale_inv",
)
_FLOATS = ("F64", "F32", "BF16", "F16")
_CHUNK_BYTES = 8 << 20


@dataclass(frozen=True)
class Checkpoint:
    """The weight files of a model; ``tensors`` gives each one's safetensors dtype and shape."""

    paths: tuple[Path, ...]
    tensors: dict[str, tuple[str, tuple[int, ...]]]

    @property
    def dtypes(self) -> dict[str, int]:
        """How many tensors are stored in each dtype, by safetensors' names."""
        return dict(sorted(Counter(dtype for dtype, _ in self.tensors.values()).items()))

    def describe(self) -> dict[str, Any]:
        """For the record."""
        size = sum(path.stat().st_size for path in self.paths)
        return {"files": len(self.paths), "bytes": size, "dtypes": self.dtypes}


def read_checkpoint(folder: str) -> Checkpoint:
    """The files that transformers will load and what their headers say is in them."""
    paths = list_weights(Path(folder), folder)
    tensors = {
        name: (entry["dtype"], tuple(entry["shape"]))
        for path in paths
        for name, entry in _read_header(path).items()
        if name != "__metadata__"
    }
    return Checkpoint(tuple(paths), tensors)


def find_quantised(checkpoint: Checkpoint) -> str | None:
    """Where these weights show that they are quantised already; None where they do not.

    By the names of what quantisers store, and by matrices in less than 16 bits. Masks, which some
    old checkpoints keep as bytes under the name ``bias``, are none.
    """
    for name, (dtype, shape) in checkpoint.tensors.items():
        if name.endswith(_QUANTISED_ENDS):
            return f"it holds {name}"
        small = dtype in ("I8", "U8") or dtype.startswith(("F8", "F6", "F4"))
        if small and len(shape) > 1 and not name.endswith("bias"):
            return f"{name} is stored as {dtype}"
    return None


def has_wider_floats(checkpoint: Checkpoint) -> bool:
    """Whether some weights are stored in a format that reaches farther than float16."""
    return any(dtype in _FLOATS[:-1] for dtype in checkpoint.dtypes)


def read_through(checkpoint: Checkpoint) -> None:
    """Read the files once from start to end, from the disk or wherever the system has them.

    Leaves them in the page cache, so that what follows does not wait for the disk, and nothing in
    this process's memory.
    """
    buffer = bytearray(_CHUNK_BYTES)
    for path in checkpoint.paths:
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


def _read_header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    return header
