"""Load one cell's model on its device and attest what was loaded. Runs in the worker only."""

from __future__ import annotations

import gc
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.catalog import load_precision
from harness.engines.shared.meter import MemoryMeter, give_back_freed
from harness.engines.transformers.attention import attention_arguments, check_attention
from harness.engines.transformers.attest import attest
from harness.engines.transformers.checkpoint import (
    Checkpoint,
    find_quantised,
    has_wider_floats,
    read_checkpoint,
    read_through,
)
from harness.engines.transformers.count import count_bytes, read_requested_bytes, sum_storages
from harness.engines.transformers.engine import TransformersEngine
from harness.engines.transformers.fit import check_fit, check_vocabulary
from harness.engines.transformers.fp16_damage import (
    HalfCounts,
    count_half,
    describe_damage,
    probe_activations,
    sum_half,
)
from harness.engines.transformers.quantise_clock import QuantiseClock
from harness.errors import InputError, UnavailableError
from harness.precisions.loaded import check_nothing_else
from harness.suite.cell_job import CellJob
from harness.suite.models import Architecture

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_REHEARSED_BYTES = 256 << 20


def load_cell(job: CellJob) -> TransformersEngine:
    """Load, move to the device, attest.

    Raises `InputError` where declared and loaded differ and `UnavailableError` where this machine
    lacks the attention implementation.
    """
    precision = load_precision(job.precision.use)
    device_type = job.device.split(":")[0]
    _quieten()
    _set_tf32(precision.tf32)
    # Before the meter starts: making a random checkpoint takes more memory than loading it.
    folder = job.files.folder or _make_random(job)
    checkpoint = _check_checkpoint(job, folder)
    start = time.perf_counter()
    tokenizer = _load_tokenizer(job)
    seconds = {"tokenizer": time.perf_counter() - start}
    arguments = {
        **precision.load_arguments(job.precision.options, device_type),
        **attention_arguments(job.model.attention, job.device),
    }
    give_back_freed()
    start = time.perf_counter()
    read_through(checkpoint)
    read_s = time.perf_counter() - start
    halved = _count_half(checkpoint, arguments)
    _rehearse(job, folder, arguments)
    meter = MemoryMeter(job.device)
    clock = QuantiseClock(precision.quantisers, job.device)
    clock.prepare()
    requested = read_requested_bytes(job.device)
    meter.start_phase()
    start = time.perf_counter()
    with clock.counting():
        model = _load_model(job, folder, arguments)
    _hold_in_memory(model)
    load_peak = meter.peak_bytes()  # after the device is done
    seconds |= _split_seconds(read_s, time.perf_counter() - start, clock)
    meter.settle()
    memory = {"load_peak_bytes": load_peak, "weights_bytes": meter.current_bytes()}
    meter.steady()
    # Tensors of a class that nothing here knows are refused before their bytes are asked for.
    attested = _attest_declared(job, model) | {"checkpoint": checkpoint.describe()}
    counts = {**count_bytes(model), "allocated_bytes": _read_allocated(model, job, requested)}
    if tokenizer is not None:
        check_vocabulary(model, tokenizer)
    cell = TransformersEngine(job, model, tokenizer, attested, counts, memory, meter, seconds)
    return replace(cell, flags=_examine(cell, halved))


def _attest_declared(job: CellJob, model: PreTrainedModel) -> dict[str, Any]:
    """What was loaded; raises `InputError` where it is not what was declared."""
    attested = attest(model)
    precision = load_precision(job.precision.use)
    wrong = precision.check(attested, job.precision.options, job.device.split(":")[0])
    wrong += check_attention(attested, job.model.attention)
    wrong += check_nothing_else(attested)
    if wrong:
        raise InputError(
            f"{job.model.name} declared as {job.precision.name} was loaded as something else: "
            + "; ".join(wrong)
        )
    return attested


def _count_half(checkpoint: Checkpoint, arguments: dict[str, Any]) -> dict[str, HalfCounts] | None:
    """What float16 does to the stored weights; None where none of them is narrowed to it."""
    import torch

    narrowed = arguments["dtype"] is torch.float16 and has_wider_floats(checkpoint)
    return count_half(checkpoint) if narrowed else None


def _examine(cell: TransformersEngine, halved: dict[str, HalfCounts] | None) -> tuple[str, ...]:
    """Find, attest and say what float16 has broken; also in the scales of int8, made in float16."""
    flags: tuple[str, ...] = ()
    if halved is not None:
        weights = asdict(sum_half(halved, cell.model))
        damage = weights | probe_activations(cell.model, cell.tokenizer, cell.max_context)
        cell.attested["checkpoint"]["fp16"] = damage
        flags = describe_damage(damage)
    broken = cell.attested.get("nonfinite_constants")
    if broken:
        flags += (f"not finite: {broken:,} quantisation constants, and so what they scale",)
    return flags


def _split_seconds(read_s: float, loading_s: float, clock: QuantiseClock) -> dict[str, float]:
    quantise = {"quantise": clock.seconds} if clock.seconds else {}
    move_s = loading_s - clock.seconds
    return {"read": read_s, **quantise, "move": move_s, "load": read_s + loading_s}


def _read_allocated(model: Any, job: CellJob, before: int | None) -> int | None:
    """What the loaded model holds, asked of the allocator or, on a CPU, of every object in it."""
    if job.device == "cpu":
        return sum_storages(model)
    now = read_requested_bytes(job.device)
    return None if now is None or before is None else now - before


def _make_random(job: CellJob) -> str:
    from harness.engines.transformers.random_weights import make_random_checkpoint

    assert isinstance(job.model.source, Architecture)
    return make_random_checkpoint(job.model.source, job.model.seed)


def _load_model(job: CellJob, folder: str, arguments: dict[str, Any]) -> PreTrainedModel:
    from transformers import AutoModelForCausalLM

    try:
        model, info = AutoModelForCausalLM.from_pretrained(
            folder,
            device_map={"": job.device},
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=job.model.trust_remote_code,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # told below, by name
            **arguments,
        )
    except ImportError as error:
        raise UnavailableError(f"cannot load {job.model.name}: {_first_lines(error)}") from error
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        text = _first_lines(error)
        if job.model.attention and "attention" in text.lower():
            text = (
                f"{text.split('. ')[0]}; leave out `attention: {job.model.attention}` "
                "for what transformers chooses"
            )
        raise InputError(f"cannot load {job.model.name}: {text}") from error
    check_fit(job.model.name, model, info)
    model.eval()
    precision = load_precision(job.precision.use)
    if hasattr(precision, "prepare"):
        precision.prepare(model, job.precision.options, job.device.split(":")[0])
    return model


def _check_checkpoint(job: CellJob, folder: str) -> Checkpoint:
    """Refuse a config that cannot be read, and weights that are already quantised."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            folder, local_files_only=True, trust_remote_code=job.model.trust_remote_code
        )
    except Exception as error:  # each model's config class checks its fields in its own way
        raise InputError(
            f"cannot read the config of {job.model.name}: {_first_lines(error)}"
        ) from error
    stored = getattr(config, "quantization_config", None)
    checkpoint = read_checkpoint(folder)
    found = find_quantised(checkpoint)
    if stored:
        found = stored.get("quant_method") if isinstance(stored, dict) else str(stored)
    if found:
        raise InputError(
            f"{job.model.name} is a checkpoint already quantised ({found}); "
            f"measuring it as {job.precision.name} would mislabel it: use the original weights"
        )
    return checkpoint


def _load_tokenizer(job: CellJob) -> PreTrainedTokenizerBase | None:
    from transformers import AutoTokenizer

    if job.files.tokenizer_folder is None:
        return None
    try:
        return AutoTokenizer.from_pretrained(
            job.files.tokenizer_folder,
            local_files_only=True,
            trust_remote_code=job.model.trust_remote_code,
        )
    except Exception as error:  # tokenizers raises bare Exception for a broken file
        raise InputError(
            f"cannot load the tokenizer of {job.model.name}: {_first_lines(error)}"
        ) from error


def _hold_in_memory(model: Any) -> None:
    """Copy weights that are still pages of the checkpoint's file into memory of their own.

    On a CPU safetensors maps the file: pages that no one has read yet count for nothing, and one
    small view keeps all of them. Quantised weights were made in memory.
    """
    import torch

    for parameter in model.parameters():
        if type(parameter) is torch.nn.Parameter and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def _rehearse(job: CellJob, folder: str, arguments: dict[str, Any]) -> None:
    """Load a small model once and let it go, so that only the second time is counted.

    The first load and forward pass of a process import libraries and start thread pools: measured
    on a CPU with a 1 MB model, 28 MB in fp32 and 83 MB in int8, which would drown the model. On
    CUDA the allocator counts tensors only, and beside a large model it does not matter.
    """
    import torch

    stored = sum(path.stat().st_size for path in Path(folder).glob("*.safetensors"))
    if job.device != "cpu" or stored > _REHEARSED_BYTES:
        return
    model = _load_model(job, folder, arguments)
    _attest_declared(job, model)  # what is mislabelled may not even run
    with torch.inference_mode():
        model(input_ids=torch.zeros(1, 8, dtype=torch.long), use_cache=True)
    del model
    gc.collect()


def _set_tf32(on: bool) -> None:
    """TF32 for matrix products on or off, whatever the process inherited."""
    import torch

    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on


def _quieten() -> None:
    """Keep progress bars and per-call casting warnings out of the worker's log."""
    import logging
    import warnings

    from transformers.utils import logging as transformers_logging

    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message="MatMul8bitLt: inputs will be cast")


def _first_lines(error: BaseException, count: int = 3) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:count])
    if isinstance(error, KeyError):  # whose text is the key alone
        return f"unknown name {text}"
    return text or type(error).__name__
