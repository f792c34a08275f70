"""Forced greedy generation over the model's own cache, timed token by token. Worker only."""

import time
import warnings
from collections.abc import Callable
from typing import Any

import torch
from transformers import StaticCache

from harness.engines.base import TimedTokens
from harness.engines.shared.batches import is_out_of_memory
from harness.engines.transformers.forward import keeps_logits
from harness.engines.transformers.kv_cache import cache_bytes
from harness.errors import InputError


class TransformersGenerator:
    """The decode loop of one model, over a growing cache or a static one, compiled or not.

    ``static_length`` is that of the static cache in tokens, prompt included; it is reused, and
    emptied before the clock starts. Only decode steps are compiled: a prompt's length varies in
    use. Compiling happens in the first `run`.
    """

    def __init__(
        self, model: Any, static_length: int | None = None, compiled: bool = False
    ) -> None:
        self._model = model
        self._keep = {"logits_to_keep": 1} if keeps_logits(model) else {}
        self._cache = None if static_length is None else _make_static_cache(model, static_length)
        self._compiled = compiled
        self._decode = _compile(model) if compiled else model

    def run(
        self,
        prompt: torch.Tensor,
        new_tokens: int,
        on_pass: Callable[[int | None], None] | None = None,
    ) -> TimedTokens:
        """Exactly ``new_tokens`` after ``prompt`` (batch, length): the end of text stops nothing.

        The device is synchronised before every reading of the clock, so stalls of the host count,
        as they do for a user.
        """
        cache, inputs = self._cache, prompt
        synchronise = _synchroniser(prompt.device)
        events = _Events(prompt.device) if prompt.device.type == "cuda" else None
        tokens, ready = [], []
        # A compiled graph mutates its cache, which transformers does under no_grad as well.
        with torch.no_grad() if self._compiled else torch.inference_mode():
            if cache is not None:
                cache.reset()
            synchronise()
            if events is not None:
                events.record()
            start = time.perf_counter_ns()
            for step in range(new_tokens):
                call = self._decode if step else self._model
                given = {"past_key_values": cache, "use_cache": True, **self._keep}
                output = call(input_ids=inputs, **given)
                cache = getattr(output, "past_key_values", None)
                if on_pass is not None:
                    on_pass(cache_bytes(cache))
                inputs = output.logits[:, -1:].argmax(-1)
                if events is not None and step == 0:
                    events.record()
                synchronise()
                ready.append((time.perf_counter_ns() - start) / 1e9)
                tokens.append(inputs)
            device_s = None if events is None else events.finish()
            return TimedTokens(torch.cat(tokens, dim=1), ready, device_s)

    def compile(self, prompt: torch.Tensor, new_tokens: int) -> float:
        """Compile for ``prompt``'s size; the seconds it took, first generation included.

        Raises `InputError` where there is no compiler or the model cannot be compiled. What has
        broken CUDA for this process is raised as it is.
        """
        start = time.perf_counter()
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # about torch's own parts
                torch.compiler.reset()  # graphs of other sizes count towards its limit
                self.run(prompt, new_tokens)
        except Exception as error:  # of dynamo, inductor, Triton or the C++ compiler
            if is_out_of_memory(error) or _is_broken(prompt.device):
                raise
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            why = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
            raise InputError(
                f"torch.compile failed on this model or machine ({why}); it needs a C++ compiler "
                "on a CPU and Triton on CUDA"
            ) from error
        return time.perf_counter() - start

    def release(self) -> None:
        """Drop the compiled graphs: on CUDA they hold memory of their own."""
        if self._compiled:
            torch.compiler.reset()


class _Events:
    """CUDA events at the start, the first token and the last."""

    def __init__(self, device: torch.device) -> None:
        self._stream = torch.cuda.current_stream(device)
        self._events: list[torch.cuda.Event] = []

    def record(self) -> None:
        event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record(self._stream)
        self._events.append(event)

    def finish(self) -> tuple[float, float]:
        """Seconds from the start to the first token and to the last."""
        self.record()
        start, first, last = self._events
        last.synchronize()
        return start.elapsed_time(first) / 1e3, start.elapsed_time(last) / 1e3


def _synchroniser(device: torch.device) -> Any:
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def _is_broken(device: torch.device) -> bool:
    """Whether the device is of no use to this process any more.

    After a kernel that failed, every later call of CUDA gives its error again.
    """
    try:
        _synchroniser(device)()
    except RuntimeError:
        return True
    return False


def _make_static_cache(model: Any, length: int) -> Any:
    try:
        return StaticCache(config=model.config, max_cache_len=length)
    except Exception as error:  # each config lacks something else
        raise InputError(
            f"no static cache for this model ({type(error).__name__}: {error})"
        ) from error


def _compile(model: Any) -> Any:
    # fullgraph: a model that is compiled in part only must not pass for a compiled one.
    # reduce-overhead: CUDA graphs, as transformers' own generation does.
    return torch.compile(model.forward, mode="reduce-overhead", fullgraph=True, dynamic=False)
