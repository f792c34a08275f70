"""Load one cell's model on its device and attest what was loaded. Runs in the worker only."""

from __future__ import annotations

import gc
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.catalog import load_precision
from harness.errors import InputError
from harness.models.attest import attest, count_bytes, linear_layers
from harness.models.sources import ModelFiles
from harness.suite import Architecture, ModelSpec, PrecisionSpec
from harness.worker.meter import MemoryMeter, give_back_freed

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


_REHEARSED_BYTES = 256 << 20


@dataclass(frozen=True)
class CellJob:
    """Everything a worker needs to load a cell; crosses the process boundary."""

    model: ModelSpec
    precision: PrecisionSpec
    files: ModelFiles
    device: str
    suite_folder: Path
    online: bool


@dataclass(frozen=True)
class LoadedCell:
    """A model ready to be measured; ``memory`` holds the bytes of the loading phase.

    ``flags`` is what must be known of every number measured on it.
    """

    job: CellJob
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase | None
    attested: dict[str, Any]
    counts: dict[str, int]
    memory: dict[str, int | None]
    meter: MemoryMeter
    seconds: dict[str, float]
    flags: tuple[str, ...] = ()

    @property
    def device(self) -> str:
        return self.job.device

    @property
    def max_context(self) -> int | None:
        """The longest sequence the model was made for, in tokens; None where it has no limit."""
        for name in ("max_position_embeddings", "n_positions", "n_ctx"):
            length = getattr(self.model.config, name, None)
            if isinstance(length, int) and length > 0:
                return length
        return None

    def require_tokenizer(self) -> PreTrainedTokenizerBase:
        """The tokenizer; raises `InputError` for a model without one."""
        if self.tokenizer is None:
            raise InputError(f"model {self.job.model.name!r} has no tokenizer: set `tokenizer:`")
        return self.tokenizer


def load_cell(job: CellJob) -> LoadedCell:
    """Load, move to the device, attest. Raises `InputError` where declared and loaded differ."""
    precision = load_precision(job.precision.use)
    device_type = job.device.split(":")[0]
    _quieten()
    _set_tf32(getattr(precision, "TF32", False))
    # Before the meter starts: making a random checkpoint takes more memory than loading it.
    folder = job.files.folder or _make_random(job)
    _check_config(job, folder)
    start = time.perf_counter()
    tokenizer = _load_tokenizer(job)
    tokenizer_s = time.perf_counter() - start
    arguments = precision.load_arguments(job.precision.options, device_type)
    give_back_freed()
    _rehearse(job, folder, arguments)
    meter = MemoryMeter(job.device)
    meter.start_phase()
    start = time.perf_counter()
    model = _load_model(job, folder, arguments)
    model_s = time.perf_counter() - start
    _hold_in_memory(model)
    load_peak = meter.peak_bytes()
    meter.settle()
    memory = {"load_peak_bytes": load_peak, "weights_bytes": meter.current_bytes()}
    meter.steady()
    attested = attest(model)
    wrong = precision.check(attested, job.precision.options, device_type)
    if wrong:
        raise InputError(
            f"{job.model.name} declared as {job.precision.name} was loaded as something else: "
            + "; ".join(wrong)
        )
    if tokenizer is not None:
        _check_vocabulary(model, tokenizer)
    seconds = {"tokenizer": tokenizer_s, "load": model_s}
    return LoadedCell(job, model, tokenizer, attested, count_bytes(model), memory, meter, seconds)


def _make_random(job: CellJob) -> str:
    from harness.models.random_weights import make_random_checkpoint

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
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        if type(error).__name__ == "OutOfMemoryError":
            raise
        raise InputError(f"cannot load {job.model.name}: {_first_lines(error)}") from error
    _check_fit(job, model, info)
    model.eval()
    precision = load_precision(job.precision.use)
    if hasattr(precision, "prepare"):
        precision.prepare(model, job.precision.options, job.device.split(":")[0])
    return model


def _check_fit(job: CellJob, model: PreTrainedModel, info: dict[str, Any]) -> None:
    """Refuse weights that the config has no place for, or places left without weights."""
    missing, mismatched = info["missing_keys"], info["mismatched_keys"]
    shapes = [str(name) for name, *_ in mismatched] + _find_misshapen(model)
    beyond = _find_layers_beyond(model, info["unexpected_keys"])
    problems = {"missing": missing, "of another shape": shapes, "of layers beyond it": beyond}
    found = [
        f"{len(names)} tensors {what}, such as {min(names)}"
        for what, names in problems.items()
        if names
    ]
    if found:
        raise InputError(
            f"the checkpoint of {job.model.name} does not fit its config: {'; '.join(found)}"
        )


def _find_misshapen(model: PreTrainedModel) -> list[str]:
    """Weights of another shape than their layer: of quantised ones transformers checks none."""
    found = []
    for name, layer in linear_layers(model):
        state = getattr(layer.weight, "quant_state", None)
        shape = tuple(layer.weight.shape if state is None else state.shape)
        if hasattr(layer, "out_features") and shape != (layer.out_features, layer.in_features):
            found.append(f"{name}.weight")
    return found


def _find_layers_beyond(model: PreTrainedModel, unexpected: Iterable[str]) -> list[str]:
    """Tensors named as the model's own but for a number: its config names too few layers.

    Other tensors that a model does not use, such as a second head, are left aside.
    """
    own = {re.sub(r"\d+", "#", name) for name, _ in model.named_parameters()}
    return [name for name in unexpected if re.sub(r"\d+", "#", name) in own]


def _check_config(job: CellJob, folder: str) -> None:
    """Refuse a config that cannot be read, and one of weights that are already quantised."""
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
    if stored:
        method = stored.get("quant_method") if isinstance(stored, dict) else stored
        raise InputError(
            f"{job.model.name} is a checkpoint already quantised ({method}); "
            f"measuring it as {job.precision.name} would mislabel it: use the original weights"
        )


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


def _check_vocabulary(model: Any, tokenizer: Any) -> None:
    rows = model.get_input_embeddings().num_embeddings
    added = tokenizer.get_added_vocab()  # may name tokens of other modalities, which no text gives
    own = (i for token, i in tokenizer.get_vocab().items() if token not in added)
    highest = max(own, default=-1)
    if highest >= rows:
        raise InputError(
            f"vocabulary mismatch: the tokenizer has token ids up to {highest}, the model's "
            f"embedding only {rows} rows; is it the tokenizer this model was trained with?"
        )


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
