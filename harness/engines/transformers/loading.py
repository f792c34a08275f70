"""Load one cell's model on its device and attest what was loaded."""

import gc
import importlib.util
import time
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from harness.catalog import list_readers, load_precision
from harness.engines.shared.meter import MemoryMeter, give_back_freed
from harness.engines.transformers.attest import attest
from harness.engines.transformers.checkpoint import (
    Checkpoint,
    find_quantised,
    has_wider_floats,
    read_checkpoint,
)
from harness.engines.transformers.conversion import raise_conversion_errors
from harness.engines.transformers.count import count_bytes, read_requested_bytes, sum_storages
from harness.engines.transformers.engine import TransformersEngine
from harness.engines.transformers.fit import check_fit, check_vocabulary
from harness.engines.transformers.fp16_damage import (
    CastCounts,
    describe_damage,
    examine_cast,
    probe_activations,
    sum_cast_damage,
)
from harness.engines.transformers.kernels import watch_attention
from harness.engines.transformers.random_weights import make_random_checkpoint
from harness.engines.transformers.weights_fit import check_weights_fit
from harness.errors import InputError, UnavailableError
from harness.suite.model_sources import CellJob
from harness.suite.models import Architecture

REHEARSED_BYTES = 256 << 20
# Package to install, and the module that it brings.
_ATTENTION_PACKAGES = {
    "flash_attention_2": ("flash-attn", "flash_attn"),
    "flash_attention_3": ("flash-attn-3", "flash_attn_interface"),
}


def load_cell(job: CellJob) -> TransformersEngine:
    """Load, move to the device, attest.

    Raises `InputError` where declared and loaded differ and `UnavailableError` where this machine
    lacks the attention implementation or the memory.
    """
    precision = load_precision(job.precision.use)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    set_tf32(precision.tf32)
    torch.backends.cuda.enable_cudnn_sdp(False)  # timed generation alone switches it on
    # Before the meter starts: making a random checkpoint takes more memory than loading it.
    folder = job.files.folder
    if not folder:
        assert isinstance(job.model.source, Architecture)
        folder = make_random_checkpoint(job.model.source, job.model.seed)
    checkpoint = _check_checkpoint(job, folder)
    start = time.perf_counter()
    tokenizer = _load_tokenizer(job)
    seconds = {"tokenizer": time.perf_counter() - start}
    arguments = {
        **precision.load_arguments(job.precision.options, job.target),
        **choose_attention(job.model.attention, job.device),
    }
    give_back_freed()
    meter = MemoryMeter(job.device)  # before anything else touches CUDA
    dtype = str(arguments["dtype"]).removeprefix("torch.")
    check_weights_fit(job, folder, checkpoint, dtype)
    narrowed = None
    if dtype == "float16" and has_wider_floats(checkpoint):
        narrowed = examine_cast(checkpoint, job.files.weights_sha256)
    kernels = _rehearse(job, folder, checkpoint, arguments)
    meter.start_again()
    if precision.layers is not None:
        precision.layers.warm_up(job.device)
    requested = read_requested_bytes(job.device)
    meter.start_phase()
    start = time.perf_counter()
    model = load_model(job, folder, arguments)
    _hold_in_memory(model)
    load_peak = meter.peak_bytes()  # after the device is done
    seconds["load"] = time.perf_counter() - start
    meter.release_unused()
    memory = {"load_peak_bytes": load_peak, "weights_bytes": meter.current_bytes()}
    meter.reuse_freed()
    # Tensors of an unknown class are refused before their bytes are asked for.
    attested = _attest_declared(job, model) | {"checkpoint": checkpoint.describe()}
    counts = replace(count_bytes(model), **_read_allocated(model, job.device, requested))
    if tokenizer is not None:
        check_vocabulary(model, tokenizer)
    cell = TransformersEngine(job, model, tokenizer, attested, counts, memory, meter, seconds)
    attested["attention_kernels"] = kernels if job.device == "cpu" else watch_attention(model)
    damage = _find_damage(cell, narrowed, has_wider_floats(checkpoint))
    return replace(cell, flags=(*_find_slow_dtype(cell), *damage))


def set_tf32(on: bool) -> None:
    """TF32 for matrix products on or off, whatever the process inherited."""
    torch.set_float32_matmul_precision("high" if on else "highest")
    torch.backends.cudnn.allow_tf32 = on


def choose_attention(attention: str | None, device: str) -> dict[str, Any]:
    """``from_pretrained`` keywords; none leaves the choice to transformers.

    Raises `UnavailableError` where this machine or device has no such implementation.
    """
    if attention is None:
        return {}
    if attention in _ATTENTION_PACKAGES:
        package, module = _ATTENTION_PACKAGES[attention]
        if not device.startswith("cuda"):
            raise UnavailableError(
                f"attention {attention} runs on CUDA only, this cell is on {device}"
            )
        if importlib.util.find_spec(module) is None:
            raise UnavailableError(
                f"attention {attention} needs the package {package}, which is not installed"
            )
    return {"attn_implementation": attention}


def _check_checkpoint(job: CellJob, folder: str) -> Checkpoint:
    """Refuse a config that cannot be read, and weights that are already quantised."""
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


def load_model(job: CellJob, folder: str, arguments: dict[str, Any]) -> PreTrainedModel:
    """The model, unchecked against its label.

    Raises `InputError`, `UnavailableError`, and torch's OutOfMemoryError as it is.
    """
    failed: list[str] = []
    try:
        with raise_conversion_errors() as failed:
            model, info = AutoModelForCausalLM.from_pretrained(
                folder,
                device_map={"": job.device},
                use_safetensors=True,
                local_files_only=True,
                trust_remote_code=job.model.trust_remote_code,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # `check_fit` names them
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
        where = f" (converting {failed[0]})" if failed else ""
        raise InputError(f"cannot load {job.model.name}: {text}{where}") from error
    check_fit(job.model.name, model, info)
    model.eval()
    precision = load_precision(job.precision.use)
    precision.prepare(model, job.precision.options, job.target)
    return model


def _hold_in_memory(model: Any) -> None:
    """Copy weights that are still pages of the checkpoint's file into memory of their own.

    On a CPU safetensors maps the file: pages that no one has read yet count for nothing, and one
    small view keeps all of them. Quantised weights were made in memory.
    """
    for parameter in model.parameters():
        if type(parameter) is torch.nn.Parameter and parameter.device.type == "cpu":
            parameter.data = parameter.data.clone()


def _rehearse(
    job: CellJob, folder: str, checkpoint: Checkpoint, arguments: dict[str, Any]
) -> dict[str, str | None] | None:
    """Load a small model once and let it go, so that only the second time is counted.

    Returns its attention kernels; None where there is no rehearsal.

    The first load and forward pass of a process import libraries and start thread pools: measured
    on a CPU with a 1 MB model, 28 MB in fp32 and 83 MB in int8, which would drown the model. On
    CUDA the allocator counts tensors only, and with a large model it does not matter.
    """
    if job.device != "cpu" or checkpoint.bytes > REHEARSED_BYTES:
        return None
    model = load_model(job, folder, arguments)
    _attest_declared(job, model)  # a mislabelled model may not even run
    with torch.inference_mode():
        model(input_ids=torch.zeros(1, 8, dtype=torch.long), use_cache=True)
    kernels = watch_attention(model)
    del model
    gc.collect()
    return kernels


def _attest_declared(job: CellJob, model: PreTrainedModel) -> dict[str, Any]:
    """The facts; raises `InputError` where they are not as declared."""
    attested = attest(model)
    precision = load_precision(job.precision.use)
    wrong = precision.check(attested, job.precision.options, job.target)
    wrong += _check_rest(attested, job.model.attention)
    if wrong:
        raise InputError(
            f"{job.model.name} declared as {job.precision.name} was loaded as something else: "
            + "; ".join(wrong)
        )
    return attested


def _check_rest(attested: dict[str, Any], attention: str | None) -> Iterable[str]:
    """Differences that no precision checks: attention, foreign weights, autocast."""
    if attention is not None and attested["attention"] != attention:
        yield f"declared attention {attention}, loaded with {attested['attention']}"
    foreign = attested["foreign_layers"]
    if foreign:
        known = ", ".join(reader.library for reader in list_readers())
        more = f" and {len(foreign) - 3} more" * (len(foreign) > 3)
        yield (
            f"neither plain torch tensors nor layers of {known} hold the weights of "
            f"{', '.join(foreign[:3])}{more}"
        )
    if attested["autocast"]:
        yield "autocast is on: products are computed in another dtype than was declared"


def _find_slow_dtype(cell: TransformersEngine) -> Iterable[str]:
    """A flag where the device computes this dtype in a roundabout way."""
    if cell.compute_dtype == "bfloat16" and cell.job.target.lacks_bfloat16:
        yield (
            f"bfloat16 on a GPU without matrix units for it (compute capability "
            f"{'.'.join(map(str, cell.job.target.capability or ()))}, they came with 8.0): slow "
            "products; float16 has units there"
        )


def _find_damage(
    cell: TransformersEngine, narrowed: dict[str, CastCounts] | None, wide: bool
) -> tuple[str, ...]:
    """Attest and flag what float16 has damaged, in weights, activations or scales of int8.

    ``narrowed`` is the damage of the cast to it, None where no weight is cast; ``wide``: the
    checkpoint's floats reach farther, and so may activations that only pass through it.
    """
    flags: tuple[str, ...] = ()
    passed = {cell.attested.get("input_dtype"), cell.attested.get("result_dtype")}
    if narrowed is not None or (wide and "float16" in passed):
        damage = probe_activations(cell.model, cell.tokenizer, cell.max_context)
        if narrowed is not None:
            damage = asdict(sum_cast_damage(narrowed, cell.model)) | damage
        cell.attested["checkpoint"]["fp16"] = damage
        flags = describe_damage(damage)
    broken = cell.attested.get("nonfinite_constants")
    if broken:
        flags += (f"not finite: {broken:,} quantisation constants, and so what they scale",)
    return flags


def _read_allocated(model: Any, device: str, before: int | None) -> dict[str, Any]:
    """The loaded model's bytes by the allocator or, on a CPU, by every object in it."""
    if device == "cpu":
        return {"allocated_bytes": sum_storages(model), "allocated_method": "reachable storages"}
    now = read_requested_bytes(device)
    held = None if now is None or before is None else now - before
    return {"allocated_bytes": held, "allocated_method": "torch.cuda requested_bytes"}


def _first_lines(error: BaseException, count: int = 3) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = " ".join(lines[:count])
    if isinstance(error, KeyError):  # whose text is the key alone
        return f"unknown name {text}"
    return text or type(error).__name__
