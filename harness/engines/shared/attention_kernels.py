"""Which of torch's attention kernels a pass really runs, and whether cuDNN's may be among them.

On Hopper and Blackwell torch prefers cuDNN's kernel (``check_prefer_cudnn_attention`` of its
``sdp_utils.cpp``). It makes a plan for every new shape, tens of milliseconds of the host each, and
keeps them all: much for texts, whose every batch has its own length, little for a speed at one.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

_WHOLE = "scaled_dot_product_attention"
_PREFIX = f"_{_WHOLE.removesuffix('attention')}"


@contextmanager
def cudnn_attention(on: bool) -> Iterator[None]:
    """In the block torch may choose cuDNN's attention, or may not."""
    before = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    torch.backends.cuda.enable_cudnn_sdp(on)
    try:
        yield
    finally:
        torch.backends.cuda.enable_cudnn_sdp(before)


class KernelWatch:
    """In a ``with`` block, sees every call of torch's ``scaled_dot_product_attention``."""

    def __init__(self) -> None:
        self._seen: set[str] = set()
        self._real = functional.scaled_dot_product_attention

    def __enter__(self) -> "KernelWatch":
        functional.scaled_dot_product_attention = self._call
        return self

    def __exit__(self, *_: object) -> None:
        functional.scaled_dot_product_attention = self._real

    def take(self) -> str | None:
        """The kernels since the last time, such as ``flash``; None where there was no call."""
        seen, self._seen = self._seen, set()
        return ", ".join(sorted(seen)) or None

    def _call(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        with _Operators() as operators:  # type: ignore[no-untyped-call]
            result = self._real(*args, **kwargs)
        self._seen.add(operators.kernel)
        return result


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Sees the operators of one call of attention; ``kernel`` is ``math`` where none is fused."""

    kernel = "math"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name == _WHOLE:  # which inference mode hands over before it is taken apart
            with self:
                return func.decompose(*args, **(kwargs or {}))
        if name.startswith(_PREFIX):
            words = name.removeprefix(_PREFIX).split("_")
            self.kernel = "_".join(word for word in words if word != "attention")
        return func(*args, **(kwargs or {}))
