"""torch.cuda on a machine without CUDA: tensors of device cuda:0 whose memory is the host's.

`install` gives a CPU build of torch one GPU, for a whole process; with SIMULATED_BOARD=1 two, of
which the first may not be touched: what would take memory there, or read it, is an error. A tensor
made on the GPU is a plain `torch.Tensor` that says ``cuda:0``, to torch's dispatcher too; every
operation on it comes to `_run`, which computes on the same memory as a CPU tensor. Operands on
different devices are refused as CUDA refuses them, and so is CUDA in a process forked from one that
had started it. Memory is counted as CUDA's caching allocator counts it, by the tensors that are
really there.

What this shows: that the code for CUDA runs to its end in real processes, mixes no devices, reads
what it should and writes it where it should. What it cannot show: anything of CUDA itself. Not
whether a kernel exists, what it computes or how fast (the CPU's kernels run, bitsandbytes' too, and
attention takes the path that is plain mathematics); not what happens asynchronously, since work
is done when it is asked for; not the allocator's fragments, a real context's size, running out of
memory, CUDA graphs or torch.compile; not what a driver, NVML or a wheel of CUDA says when it is
wrong. For those `benchmarks/gpu_check.sh` needs a GPU.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch.utils._pytree import tree_map

TOTAL_BYTES = 24 << 30
CONTEXT_BYTES = 400 << 20  # of the device, taken when CUDA starts
CUDA_VERSION = "13.0"
BOARD = int(os.environ.get("SIMULATED_BOARD", "0"))  # the last one, and the only one to be used
PROPERTIES = SimpleNamespace(
    name="Simulated GPU",
    uuid=f"5a5a5a5a-0000-4000-8000-00000000000{BOARD + 1}",
    major=8,
    minor=6,
    total_memory=TOTAL_BYTES,
    L2_cache_size=4 << 20,
    multi_processor_count=1,
)
# Device clocks need not agree with the host's: this one runs at half the speed.
CLOCK_RATIO = 0.5
_BLOCK, _SEGMENT = 512, 2 << 20
_CPU, _CUDA = 1, 2  # dlpack.h, DLDeviceType
# dlpack.h, DLManagedTensor: offsets of the device and of the function that frees.
_DEVICE_TYPE, _DEVICE_ID, _DELETER = 8, 12, 56
# May mix devices: copies, and indices, which CUDA takes from the host as well.
_MIXING = {
    "copy_",
    "_to_copy",
    "_copy_from",
    "index",
    "index_put_",
    "_index_put_impl_",
    "index_put",
}
# Of no dimension they widen no tensor of their kind, as a number does not.
_NUMBERS = {bool: torch.bool, int: torch.int64, float: torch.float32}
_CPU_KERNELS = torch._C.DispatchKeySet(torch._C.DispatchKey.CPU)
_DELETE = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
_read_capsule = ctypes.pythonapi.PyCapsule_GetPointer
_read_capsule.restype = ctypes.c_void_p
_read_capsule.argtypes = [ctypes.py_object, ctypes.c_char_p]


class Allocator:
    """What CUDA's caching allocator would say of the tensors that are there."""

    def __init__(self) -> None:
        self.requested = self.allocated = self.peak = self.reserved = self.reserved_peak = 0
        self._lock = threading.Lock()
        self._blocks: dict[int, tuple[int, int]] = {}
        self._free = _DELETE(self._forget)

    def keep(self, managed: int, size: int) -> None:
        """Count ``size`` bytes until the DLManagedTensor at ``managed`` is freed."""
        slot = ctypes.c_void_p.from_address(managed + _DELETER)
        with self._lock:
            self._blocks[managed] = (slot.value or 0, size)
            self._change(size)
        slot.value = ctypes.cast(self._free, ctypes.c_void_p).value

    def _forget(self, managed: int) -> None:
        if sys.is_finalizing():
            return
        with self._lock:
            deleter, size = self._blocks.pop(managed)
            self._change(-size)
        _DELETE(deleter)(managed)

    def _change(self, size: int) -> None:
        rounded = -(-abs(size) // _BLOCK) * _BLOCK
        self.requested += size
        self.allocated += rounded if size > 0 else -rounded
        self.peak = max(self.peak, self.allocated)
        self.reserved = max(self.reserved, -(-self.allocated // _SEGMENT) * _SEGMENT)
        self.reserved_peak = max(self.reserved_peak, self.reserved)

    def empty_cache(self) -> None:
        self.reserved = -(-self.allocated // _SEGMENT) * _SEGMENT

    def reset_peak(self) -> None:
        self.peak, self.reserved_peak = self.allocated, self.reserved


ALLOCATOR = Allocator()


def _retag(tensor: torch.Tensor, kind: int, counted: bool = False) -> torch.Tensor:
    """The same memory as a tensor of the other device."""
    capsule = torch._C._to_dlpack(tensor)
    managed = _read_capsule(capsule, b"dltensor")
    ctypes.c_int32.from_address(managed + _DEVICE_TYPE).value = kind
    ctypes.c_int32.from_address(managed + _DEVICE_ID).value = BOARD if kind == _CUDA else 0
    if counted:
        ALLOCATOR.keep(managed, tensor.untyped_storage().nbytes())
    return torch._C._from_dlpack(capsule)


def _run(op: Any, *args: Any, **kwargs: Any) -> Any:
    """Compute ``op`` on the CPU and give the result as CUDA would."""
    name = op._schema.name.partition("::")[2]
    aliases = [each.alias_info for each in op._schema.returns]
    if name == "set_" or any(alias is not None and not alias.is_write for alias in aliases):
        return op.redispatch(_CPU_KERNELS, *args, **kwargs)  # views know no device
    if name == "resize_":
        return _replace(args[0], torch.empty(args[1], dtype=args[0].dtype))
    given: list[torch.Tensor] = []

    def take(value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            given.append(value)
            return _retag(value, _CPU) if value.is_cuda else value
        if isinstance(value, torch.device) and value.type == "cuda":
            _use(value)
            return torch.device("cpu")
        return value

    outs = {a.name: kwargs[a.name] for a in op._schema.arguments if a.is_out and a.name in kwargs}
    # The dispatcher hands a number on as a number where the schema wants a tensor of it.
    wanted = [str(argument.type) == "Tensor" for argument in op._schema.arguments]
    as_given = [
        torch.scalar_tensor(value, dtype=_NUMBERS[type(value)])
        if wants_tensor and type(value) in _NUMBERS
        else value
        for value, wants_tensor in zip(args, wanted, strict=False)
    ]
    own_args, own_kwargs = tree_map(take, (as_given, kwargs))
    _check_devices(name, given)
    for out_name, out in outs.items():
        own_kwargs[out_name] = torch.empty(0, dtype=out.dtype)
    result = op(*own_args, **own_kwargs)
    if outs:
        for out_name, out in outs.items():
            _replace(out, own_kwargs[out_name])
        written = list(outs.values())
    elif any(alias is not None for alias in aliases):
        written = [args[i] for i, a in enumerate(op._schema.arguments) if a.alias_info is not None]
    else:
        return tree_map(_give, result)
    return written[0] if len(written) == 1 else tuple(written)


def _replace(target: torch.Tensor, source: torch.Tensor) -> torch.Tensor:
    """Give ``target`` the shape and the numbers of ``source``, a CPU tensor."""
    if target.shape == source.shape:
        return _copy(target, source)
    with torch._C._AutoDispatchBelowAutograd():
        return torch.ops.aten.set_.source_Tensor.redispatch(_CPU_KERNELS, target, _give(source))


def _give(value: Any) -> Any:
    if isinstance(value, torch.Tensor) and not value.is_cuda:
        _Start.now()
        return _retag(value, _CUDA, counted=True)
    return value


def _check_devices(name: str, tensors: list[torch.Tensor]) -> None:
    strangers = [t for t in tensors if t.device.type == "cpu" and t.dim() > 0]
    if strangers and name not in _MIXING:
        raise RuntimeError(
            "Expected all tensors to be on the same device, but found at least two devices, "
            f"cuda:{BOARD} and cpu! ({name})"
        )


def _copy(target: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
    to, of = (_retag(t, _CPU) if t.is_cuda else t for t in (target, source))
    to.copy_(of)
    return target


def _convert(source: torch.Tensor, **given: Any) -> torch.Tensor:
    """`to`: without the pinned memory that a copy to the host waits for in."""
    here = {**given, "non_blocking": False, "device": torch.device("cpu")}
    found = torch.ops.aten._to_copy.default(_retag(source, _CPU), **here)
    there = given.get("device") or source.device
    if there.type == "cpu":
        return found
    _use(there)
    return _give(found)


def _empty(make: Any, *size: Any, pin_memory: bool = False, **given: Any) -> torch.Tensor:
    """`torch.empty`, which safetensors asks for pinned memory."""
    return make(*size, **given)


# torch.cuda


class _Start:
    """When this process started CUDA; a fork after that is of no use, as on a real GPU."""

    visible = True
    pid: int | None = None
    current = 0  # device

    @classmethod
    def now(cls) -> None:
        if cls.pid not in (None, os.getpid()):
            raise RuntimeError("Cannot re-initialize CUDA in forked subprocess.")
        cls.pid = os.getpid()

    @classmethod
    def done(cls) -> bool:
        return cls.pid == os.getpid()


def _use(device: Any = None) -> None:
    """Start CUDA, and refuse any board but the one to be used; None is the current one."""
    _Start.now()
    index = device if isinstance(device, int) else torch.device(device or "cuda").index
    if (_Start.current if index is None else index) != BOARD:
        raise RuntimeError(f"a board other than cuda:{BOARD} was used")


def set_device(device: Any) -> None:
    _use(device)
    _Start.current = BOARD


class Event:
    """A time of the device's clock; all work is done when it is recorded."""

    def __init__(self, enable_timing: bool = False, **_: Any) -> None:
        self._timed = enable_timing
        self._at: float | None = None

    def record(self, stream: Any = None) -> None:
        _use()
        self._at = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, later: Event) -> float:
        """Milliseconds."""
        if not self._timed or self._at is None or later._at is None:
            raise RuntimeError("Both events must be recorded and enable timing")
        return (later._at - self._at) * 1e3 * CLOCK_RATIO


def used_bytes() -> int:
    """What this process has taken of the device."""
    return CONTEXT_BYTES + ALLOCATOR.reserved if _Start.done() else 0


def is_available() -> bool:
    if not _Start.visible:
        return False
    if os.environ.get("PYTORCH_NVML_BASED_CUDA_CHECK") != "1":
        _Start.now()
    return True


def device_count() -> int:
    return BOARD + 1 if _Start.visible else 0


def get_device_properties(device: Any = None) -> Any:
    _use(device)
    return PROPERTIES


def mem_get_info(device: Any = None) -> tuple[int, int]:
    _use(device)
    return TOTAL_BYTES - used_bytes(), TOTAL_BYTES


def memory_stats(device: Any = None) -> dict[str, int]:
    _use(device)
    return {
        "requested_bytes.all.current": ALLOCATOR.requested,
        "allocated_bytes.all.current": ALLOCATOR.allocated,
        "allocated_bytes.all.peak": ALLOCATOR.peak,
        "reserved_bytes.all.current": ALLOCATOR.reserved,
        "reserved_bytes.all.peak": ALLOCATOR.reserved_peak,
    }


@contextlib.contextmanager
def hidden() -> Iterator[None]:
    """No GPU is seen within the block."""
    _Start.visible = False
    try:
        yield
    finally:
        _Start.visible = True


def _started(value: Any = None) -> Any:
    """A function of torch.cuda that starts CUDA, and gives ``value``."""

    def call(*_: Any, **__: Any) -> Any:
        _Start.now()
        return value

    return call


def _of_board(read: Callable[[], Any]) -> Callable[..., Any]:
    """A function of torch.cuda that uses a board, and gives what ``read`` does."""

    def call(device: Any = None) -> Any:
        _use(device)
        return read()

    return call


_FUNCTIONS = {
    "Event": Event,
    "_lazy_init": _started(),
    "init": _started(),
    "is_initialized": _Start.done,
    "is_available": is_available,
    "device_count": device_count,
    "current_device": lambda: _Start.current,
    "set_device": set_device,
    "synchronize": _of_board(lambda: None),
    "current_stream": _of_board(lambda: SimpleNamespace(cuda_stream=0)),
    "manual_seed": lambda seed: None,
    "manual_seed_all": lambda seed: None,
    "get_device_properties": get_device_properties,
    "get_device_name": lambda device=None: get_device_properties(device).name,
    "get_device_capability": lambda device=None: (PROPERTIES.major, PROPERTIES.minor),
    "is_bf16_supported": lambda including_emulation=True: True,
    "get_allocator_backend": lambda: "native",
    "mem_get_info": mem_get_info,
    "memory_stats": memory_stats,
    "memory_allocated": _of_board(lambda: ALLOCATOR.allocated),
    "max_memory_allocated": _of_board(lambda: ALLOCATOR.peak),
    "memory_reserved": _of_board(lambda: ALLOCATOR.reserved),
    "max_memory_reserved": _of_board(lambda: ALLOCATOR.reserved_peak),
    "reset_peak_memory_stats": _of_board(ALLOCATOR.reset_peak),
    "empty_cache": lambda: ALLOCATOR.empty_cache(),
}
_LIBRARIES: list[Any] = []


def install() -> None:
    """Give this process the GPU; once, before anything has asked torch for one."""
    for name, function in _FUNCTIONS.items():
        setattr(torch.cuda, name, function)
    torch.version.cuda = CUDA_VERSION
    torch.backends.cuda.is_built = lambda: True
    torch.empty = partial(_empty, torch.empty)
    _register_guard()
    for_all, aten = (torch.library.Library(name, "IMPL") for name in ("_", "aten"))
    for_all.fallback(_run, "CUDA")  # other libraries' operators
    aten.impl("copy_", _copy, "CUDA")
    aten.impl("_to_copy", _convert, "CUDA")
    for name in torch._C._dispatch_get_all_op_names():
        # Those, too, that torch has a kernel of for any device, which would look for CUDA.
        if name.startswith("aten::") and torch._C._dispatch_has_kernel_for_dispatch_key(
            name, "CPU"
        ):
            base, _, overload = name.removeprefix("aten::").partition(".")
            op = getattr(getattr(torch.ops.aten, base), overload or "default")
            aten.impl(name, partial(_run, op), "CUDA")
    _LIBRARIES.extend((for_all, aten))


def _register_guard() -> None:
    """Have C++ switch to the device by doing nothing, as it does for the CPU."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib/libc10.so"))
    symbol = "_ZN3c104impl26device_guard_impl_registryE"
    guards = (ctypes.c_void_p * 2).in_dll(library, symbol)  # DeviceType: CPU 0, CUDA 1
    guards[1] = guards[0]
