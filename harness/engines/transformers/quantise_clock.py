"""How much of a model's loading goes into quantising its weights."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any


class QuantiseClock:
    """Wall-clock ``seconds`` within functions of ``bitsandbytes.functional``.

    Calls that overlap, in several threads, count once.
    """

    def __init__(self, functions: Sequence[str], device: str) -> None:
        self.seconds = 0.0
        self._functions = functions
        self._device = device
        self._lock = threading.Lock()
        self._running = 0
        self._since = 0.0

    @contextmanager
    def counting(self) -> Iterator[None]:
        """Count the calls that are made inside; bitsandbytes looks its functions up per call."""
        if not self._functions:
            yield
            return
        from bitsandbytes import functional

        own = {name: getattr(functional, name) for name in self._functions}
        for name, function in own.items():
            setattr(functional, name, self._timed(function))
        try:
            yield
        finally:
            for name, function in own.items():
                setattr(functional, name, function)

    def prepare(self) -> None:
        """Have bitsandbytes make what it makes at its first use and keeps: none of it the model's.

        On a CPU a rehearsal of the load has done so.
        """
        if self._functions and self._device.startswith("cuda"):
            import torch
            from bitsandbytes import functional

            functional.quantize_blockwise(torch.zeros(256, device=self._device))

    def _timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*given: Any, **named: Any) -> Any:
            self._synchronise()  # what was queued before is no part of it
            self._enter()
            try:
                result = function(*given, **named)
                self._synchronise()
                return result
            finally:
                self._leave()

        return timed

    def _enter(self) -> None:
        with self._lock:
            if self._running == 0:
                self._since = time.perf_counter()
            self._running += 1

    def _leave(self) -> None:
        with self._lock:
            self._running -= 1
            if self._running == 0:
                self.seconds += time.perf_counter() - self._since

    def _synchronise(self) -> None:
        if self._device.startswith("cuda"):
            import torch

            torch.cuda.synchronize(self._device)
