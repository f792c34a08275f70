"""A checkpoint's files before they are loaded: stored dtypes, quantised or not.

Reads the headers of safetensors files only.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.catalog import list_readers
from harness.suite.model_files import list_weights, read_header

_FLOATS = ("F64", "F32", "BF16", "F16")


@dataclass(frozen=True)
class Checkpoint:
    """The weight files of a model; ``tensors`` gives each one's safetensors dtype and shape."""

    paths: tuple[Path, ...]
    tensors: dict[str, tuple[str, tuple[int, ...]]]

    @property
    def dtypes(self) -> dict[str, int]:
        """How many tensors are stored in each dtype, by safetensors' names."""
        return dict(sorted(Counter(dtype for dtype, _ in self.tensors.values()).items()))

    @property
    def bytes(self) -> int:
        """The size of all files."""
        return sum(path.stat().st_size for path in self.paths)

    def describe(self) -> dict[str, Any]:
        """For the record."""
        return {"files": len(self.paths), "bytes": self.bytes, "dtypes": self.dtypes}


def read_checkpoint(folder: str) -> Checkpoint:
    """The files that transformers will load, with the dtypes and shapes in their headers."""
    paths = list_weights(Path(folder), folder)
    tensors = {name: found for path in paths for name, found in read_header(path).items()}
    return Checkpoint(tuple(paths), tensors)


def find_quantised(checkpoint: Checkpoint) -> str | None:
    """The sign that these weights are quantised already; None where there is none.

    Found by what the precisions' libraries store, and by matrices held neither as floats of 16 bits
    or more nor as an index (I64) or mask. Old checkpoints keep masks as bytes, named ``bias``.
    """
    ends = tuple(end for reader in list_readers() for end in reader.stored_names)
    for name, (dtype, shape) in checkpoint.tensors.items():
        if name.endswith(ends):
            return f"it holds {name}"
        packed = dtype not in (*_FLOATS, "I64", "BOOL")
        if packed and len(shape) > 1 and not name.endswith("bias"):
            return f"{name} is stored as {dtype}"
    return None


def has_wider_floats(checkpoint: Checkpoint) -> bool:
    """Whether some weights are stored in a format that reaches farther than float16."""
    return any(dtype in _FLOATS[:-1] for dtype in checkpoint.dtypes)
