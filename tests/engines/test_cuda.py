"""The CUDA side of loading, attesting and measuring, on a real GPU; small models, a few minutes.

Skipped where there is none. ``PRECISION_HARNESS_TEST_DEVICE=cpu`` runs what a CPU can of it, to
show that the tests themselves hold.
"""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import BitsAndBytesConfig

from harness.catalog import load_measurement
from harness.engines.shared.board import read_energy_j
from harness.errors import InputError
from harness.metrics import divergence, perplexity, throughput
from harness.metrics.text_windows import WindowOptions
from harness.records.record import Measured, Record
from harness.run.process import CellProcess, call_in_worker
from harness.suite.data_source import DataSource
from harness.suite.model_sources import CellJob
from harness.timing.prompts import make_prompt
from harness.worker.messages import MeasureRequest
from tests.support.cells_in_process import (
    load,
    make_context,
    make_job,
    replace_in_precision,
    write_llama,
    write_tokenizer,
)
from tests.support.projects import ROOT, Project, find_records
from tests.support.records import make_record

sys.path.insert(0, str(ROOT / "benchmarks"))

from cost.known_allocation import read_known_allocation

DEVICE = os.environ.get("PRECISION_HARNESS_TEST_DEVICE", "cuda:0")
CUDA = DEVICE.startswith("cuda")
COMPUTE = "bfloat16" if CUDA else "float32"
MIB = 1 << 20
# Large enough that what the allocator rounds up is below a thousandth.
WIDE = {
    "vocab_size": 8192,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "max_position_embeddings": 2048,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "fp32": {},
    "bf16": {},
    "fp16": {},
    "int8": {},
    "nf4": {},
    "nf4-dq": {"use": "nf4", "double_quant": True},
    "fp4": {},
}
TEXT = "Once upon a time there was a llama who counted: one, two, three, four and five.\n" * 40

pytestmark = pytest.mark.skipif(
    CUDA and not torch.cuda.is_available(), reason=f"torch {torch.__version__} sees no CUDA device"
)
cuda_only = pytest.mark.skipif(not CUDA, reason="only CUDA has it")
on_every_variant = pytest.mark.parametrize("variant", VARIANTS)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(write_llama(tmp_path_factory.mktemp("cuda") / "small"))


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda") / "wide"
    return write_llama(folder, dtype=torch.bfloat16, **{**WIDE, "initializer_range": 0.02})


@pytest.fixture(autouse=True)
def highest_precision() -> Iterator[None]:
    """TF32 is a switch of the process, which loading a tf32 cell leaves on."""
    yield
    torch.set_float32_matmul_precision("highest")


def job_of(source: Any, variant: str, **given: Any) -> CellJob:
    return make_job(source, variant, device=DEVICE, **{**VARIANTS.get(variant, {}), **given})


def load_here(source: Any, variant: str = "fp32", **given: Any) -> Any:
    return load(source, variant, device=DEVICE, **{**VARIANTS.get(variant, {}), **given})


def measure_afresh(job: CellJob, measurement: str, **options: Any) -> Measured:
    """One measurement in a process of its own, as a run makes it."""
    process = CellProcess(job)
    try:
        given = load_measurement(measurement).options(**options)
        answer = process.measure(MeasureRequest(measurement, given), lambda _: None)
    finally:
        process.close()
    assert isinstance(answer, Measured), answer
    return answer


def numbers(measured: Measured) -> dict[str, Any]:
    return {name: value.value for name, value in measured.values.items()}


# All of it together: first, while no test has made a CUDA context that the run would count
# as another process (by its number, where a container hides whose it is)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Record]:
    """A real run of pytest: the embedded model, two precisions."""
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    project = Project(
        tmp_path_factory.mktemp("project"), variables={"PYTHONPATH": os.pathsep.join(paths)}
    )
    project.write("pytest.ini", "[pytest]\n")
    project.write(
        "suites/s.yaml",
        "name: s\nreference: bf16\nprecisions: [bf16, nf4]\n"
        'models: [{name: tiny, source: "builtin:tiny-world"}]\n'
        "measure:\n  footprint: {}\n  memory: {prompt_tokens: 64, new_tokens: 8}\n"
        "  throughput: {prompt_tokens: 64, new_tokens: 16, min_rounds: 3, min_time_s: 1}\n",
    )
    outcome = project.run("suites", "--device", DEVICE, "-v")
    assert outcome.code == 0, outcome.text
    return find_records(project.last_run("s"))


def test_every_record_of_a_run_is_of_this_device(records: dict[str, Record]) -> None:
    assert len(records) == 6
    assert {record.cell.device for record in records.values()} == {DEVICE}
    assert all(record.usable for record in records.values())
    assert all(record.cell.attested for record in records.values())


def test_telemetry_of_a_run_is_that_of_the_device(records: dict[str, Record]) -> None:
    (found,) = records["tiny[nf4]::throughput"].telemetry
    assert found["samples"] > 1
    assert found["cpu"]["cores"] > 0
    if CUDA:
        for name in ("sm_mhz", "memory_mhz", "power_w", "temperature_c"):
            assert 0 < found["gpu"][name]["min"] <= found["gpu"][name]["max"], name
        assert not found["gpu"]["other_processes"]


# What is read


def test_a_known_allocation_is_read_within_two_percent() -> None:
    size = (1024 if CUDA else 256) * MIB
    found = call_in_worker(read_known_allocation, DEVICE, size)
    for name in ("held", "peak", "reserved" if CUDA else "anonymous"):
        assert found[name] == pytest.approx(size, rel=0.02), name


@on_every_variant
def test_every_byte_of_the_footprint_is_accounted_for(wide: Path, variant: str) -> None:
    """In a process of its own, whose allocator holds this model and nothing else."""
    found = numbers(measure_afresh(job_of(wide, variant), "footprint"))
    assert found["allocated_bytes"] > 10 * MIB
    assert abs(found["unaccounted_bytes"]) <= 0.001 * found["allocated_bytes"]
    assert found["total_bytes"] == pytest.approx(found["allocated_bytes"], rel=0.001)


MEMORY = {"prompt_tokens": 512, "new_tokens": 32, "batch_size": 4}


def test_memory_phases_are_ordered_and_independent_of_what_ran_before(wide: Path) -> None:
    seen: dict[str, list[dict[str, Any]]] = {}
    for variant in ("bf16", "nf4", "nf4", "bf16"):
        measured = measure_afresh(job_of(wide, variant), "memory", **MEMORY)
        seen.setdefault(variant, []).append(numbers(measured))
    for variant, (first, second) in seen.items():
        for found in (first, second):
            assert 0 < found["weights_bytes"] <= found["load_peak_bytes"], variant
            assert found["weights_bytes"] < found["prefill_peak_bytes"], variant
            assert found["weights_bytes"] < found["generate_peak_bytes"], variant
        for name in ("weights_bytes", "prefill_peak_bytes", "generate_peak_bytes"):
            assert second[name] == pytest.approx(first[name], rel=0.01), (variant, name)
    assert seen["nf4"][0]["weights_bytes"] < seen["bf16"][0]["weights_bytes"]


@cuda_only
def test_what_the_device_has_in_use_holds_what_the_allocator_reserved(wide: Path) -> None:
    found = numbers(measure_afresh(job_of(wide, "bf16"), "memory", **MEMORY))
    assert found["generate_peak_bytes"] <= found["reserved_peak_bytes"]
    assert found["device_used_bytes"] > found["weights_bytes"]


def test_keys_and_values_grow_as_the_formula_says(wide: Path) -> None:
    """2 · layers · kv heads · head dimension · 2 bytes."""
    found = numbers(measure_afresh(job_of(wide, "bf16"), "memory", **MEMORY))
    assert found["kv_bytes_per_token"] == 2 * 4 * 4 * 128 * 2
    assert found["kv_bytes_per_token_measured"] == found["kv_bytes_per_token"]


# What was loaded


@on_every_variant
def test_every_precision_loads_and_is_attested(checkpoint: Path, variant: str) -> None:
    cell = load_here(checkpoint, variant)
    attested = cell.attested
    kinds = {"int8": "int8", "nf4": "nf4", "nf4-dq": "nf4", "fp4": "fp4"}
    assert attested["quantisation"] == kinds.get(variant)
    assert attested["tf32"] is False
    assert {p.device for p in cell.model.parameters()} == {torch.device(DEVICE)}
    if variant in kinds:
        assert set(attested["dtypes"]) == {COMPUTE}
    if "4" in variant and variant in kinds:
        assert attested["double_quant"] is (variant == "nf4-dq")
        assert attested["compute_dtype"] == COMPUTE
        assert attested["block_size"] == 64
    logits = cell.model(make_prompt(cell, 2, 16)).logits
    assert logits.isfinite().all()


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_the_attention_asked_for_is_the_one_loaded(checkpoint: Path, attention: str) -> None:
    assert load_here(checkpoint, "bf16", attention=attention).attested["attention"] == attention


@cuda_only
@pytest.mark.parametrize("variant", ["fp32", "bf16", "int8", "nf4"])
def test_cudnn_s_attention_runs_in_no_text_and_in_speeds_only_where_it_may(
    wide: Path, variant: str
) -> None:
    """Also in torch's own order of preference, whatever it is on this GPU."""
    cell = load_here(wide, variant)
    scoring = cell.attested["attention_kernels"]
    assert {"prompt", "continued", "step", "packed", "padded", "padded step"} == set(scoring)
    assert not {"cudnn", None} & set(scoring.values())
    options = {"prompt_tokens": 64, "new_tokens": 4, "min_rounds": 3, "min_time_s": 0}
    found = {}
    for cudnn in (True, False):
        given = throughput.Options(**options, warmup_s=0, roofline=False, cudnn_attention=cudnn)
        measured = throughput.measure(cell, given, make_context(Path("/")))
        found[cudnn] = measured.protocol["attention_kernels"]["1"]
    assert found[False] == {kind: scoring[kind] for kind in ("prompt", "step")}
    assert None not in found[True].values()
    if variant == "bf16" and prefers_cudnn():
        assert found[True]["prompt"] == "cudnn"


def prefers_cudnn() -> bool:
    """As `check_prefer_cudnn_attention` of torch's sdp_utils.cpp; asking starts CUDA."""
    return (
        CUDA
        and torch.cuda.get_device_capability(DEVICE) in {(9, 0), (10, 0), (10, 3)}
        and (torch.backends.cudnn.version() or 0) > 91500
        and os.environ.get("TORCH_CUDNN_SDPA_DEPRIORITIZED") != "1"
    )


def quantised(**config: Any) -> dict[str, Any]:
    return {
        "dtype": getattr(torch, COMPUTE),
        "quantization_config": BitsAndBytesConfig(
            **{"bnb_4bit_compute_dtype": getattr(torch, COMPUTE), **config}
        ),
    }


NF4 = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
MISLABELLED: dict[str, tuple[str, dict[str, Any]]] = {
    "4 bits by default are fp4": ("nf4", quantised(load_in_4bit=True)),
    "nf4 as fp4": ("fp4", quantised(**NF4)),
    "no double quantisation": ("nf4-dq", quantised(**NF4)),
    "double quantisation": ("nf4", quantised(**NF4, bnb_4bit_use_double_quant=True)),
    "compute dtype": ("nf4", quantised(**NF4, bnb_4bit_compute_dtype=torch.float16)),
    "ignored quantisation": ("nf4", {"dtype": getattr(torch, COMPUTE)}),
    "ignored int8": ("int8", {"dtype": getattr(torch, COMPUTE)}),
    "threshold": ("int8", quantised(load_in_8bit=True, llm_int8_threshold=0.0)),
    "fp16 as bf16": ("bf16", {"dtype": torch.float16}),
    "bf16 as fp32": ("fp32", {"dtype": torch.bfloat16}),
    "int8 as fp32": ("fp32", quantised(load_in_8bit=True)),
}


@pytest.mark.parametrize(("variant", "arguments"), MISLABELLED.values(), ids=MISLABELLED)
def test_a_wrong_label_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, variant: str, arguments: dict[str, Any]
) -> None:
    use = VARIANTS[variant].get("use", variant)
    replace_in_precision(monkeypatch, use, load_arguments=lambda *_: arguments)
    with pytest.raises(InputError, match="was loaded as something else"):
        load_here(checkpoint, variant)


@cuda_only
def test_tf32_is_in_force_where_it_is_declared_and_nowhere_else(wide: Path) -> None:
    """TF32 rounds factors to 11 significant bits, an error of some 2^-12 each; fp32 to 24."""
    layer = "model.layers.0.mlp.down_proj"
    inputs = torch.randn(512, WIDE["intermediate_size"], device=DEVICE)
    errors = {}
    for variant in ("fp32", "tf32"):
        cell = load_here(wide, variant)
        weight = cell.model.get_submodule(layer).weight
        with torch.no_grad():
            exact = inputs.double() @ weight.double().T
            errors[variant] = float((inputs @ weight.T - exact).norm() / exact.norm())
        assert cell.attested["tf32"] is (variant == "tf32")
    assert errors["fp32"] < 5e-6
    assert 5e-5 < errors["tf32"] < 2e-3


# What is measured


@pytest.mark.parametrize("variant", ["fp32", "nf4"])
@pytest.mark.parametrize(("batch", "length"), [(1, 20), (3, 7)])
def test_tokens_equal_those_of_transformers(
    checkpoint: Path, variant: str, batch: int, length: int
) -> None:
    """In float32, where another kernel's rounding does not change the most likely token."""
    given = {"compute_dtype": "float32"} if variant == "nf4" else {}
    cell = load_here(checkpoint, variant, **given)
    prompt = make_prompt(cell, batch, length)
    tokens = cell.open_generator(None, False).run(prompt, 24).tokens
    expected = cell.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=24,
        eos_token_id=None,
    )
    assert torch.equal(tokens, expected[:, length:])


@cuda_only
@pytest.mark.parametrize("compiled", [False, True], ids=["static", "compiled"])
def test_tokens_over_a_static_cache_are_the_same(checkpoint: Path, compiled: bool) -> None:
    """Twice: a cache that is used again holds nothing of the first time."""
    cell = load_here(checkpoint)
    prompt = make_prompt(cell, 2, 20)
    expected = cell.open_generator(None, False).run(prompt, 24).tokens
    generator = cell.open_generator(44, compiled)
    for _ in range(2):
        found = generator.run(prompt, 24)
        assert torch.equal(found.tokens, expected)
        assert found.device_s is not None
        assert 0 < found.device_s[0] < found.device_s[1]


def test_speeds_are_possible(wide: Path) -> None:
    """No share of the memory's bandwidth or of the arithmetic's peak is above 1."""
    cell = load_here(wide, "bf16")
    options = throughput.Options(
        prompt_tokens=128, new_tokens=16, batch_sizes=(1, 4), min_rounds=3, min_time_s=0.5
    )
    found = numbers(throughput.measure(cell, options, make_context(Path("/"))))
    for batch in (1, 4):
        assert found[f"decode_tokens_per_s[{batch}]"] > 0
        assert found[f"prefill_tokens_per_s[{batch}]"] > found[f"decode_tokens_per_s[{batch}]"]
    shares = {n: v for n, v in found.items() if n.startswith(("mbu", "prefill_flop_utilisation"))}
    assert len(shares) == 4
    assert all(0 < share <= 1 for share in shares.values()), shares


@cuda_only
def test_a_batch_that_does_not_fit_is_reported_and_smaller_ones_are_kept(wide: Path) -> None:
    measured = call_in_worker(run_out_of_memory, wide)
    (reason,) = (r for r in measured.validity.reasons if "out of memory" in r)
    assert "batch 4096" in reason
    assert "free" in reason
    assert measured.validity.status == "flagged"
    assert measured.values["decode_tokens_per_s[1]"].value > 0
    assert measured.values["decode_tokens_per_s[8]"].value > 0
    assert not any(name.endswith("[4096]") for name in numbers(measured))


def run_out_of_memory(wide: Path) -> Measured:
    """Throughput with four GB of the GPU allowed to this process."""
    torch.cuda.set_per_process_memory_fraction(
        4e9 / torch.cuda.get_device_properties(DEVICE).total_memory, DEVICE
    )
    options = throughput.Options(
        prompt_tokens=512, new_tokens=4, batch_sizes=(1, 8, 4096), min_rounds=3, min_time_s=0
    )
    return throughput.measure(load_here(wide, "bf16"), options, make_context(Path("/")))


def test_a_model_is_no_distance_from_itself(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PRECISION_HARNESS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "text.txt").write_text(TEXT)
    options = divergence.Options(text=DataSource(path="text.txt"), context=64)
    cell = load_here(checkpoint)

    def diverge(reference: Record | None) -> Measured:
        context = dataclasses.replace(make_context(tmp_path), reference=reference)
        return divergence.measure(cell, options, context)

    found = numbers(diverge(make_record("divergence", measured=diverge(None))))
    assert abs(found["kl_mean"]) < 1e-6
    assert found["top1_agreement"] == 1


def test_perplexity_is_that_of_the_cpu(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text(TEXT)
    options = WindowOptions(text=DataSource(path="text.txt"), context=128, stride=64)
    here, cpu = (
        numbers(perplexity.measure(cell, options, make_context(tmp_path)))
        for cell in (load_here(checkpoint), load(checkpoint))
    )
    assert here["tokens"] == cpu["tokens"]
    assert here["ppl"] == pytest.approx(cpu["ppl"], rel=1e-3)


@cuda_only
def test_the_energy_counter_rises_with_work() -> None:
    before = read_energy_j(DEVICE)
    if before is None:
        pytest.skip("NVML reports no energy of this GPU")
    matrix = torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16)
    for _ in range(400):
        matrix @ matrix
    torch.cuda.synchronize(DEVICE)
    after = read_energy_j(DEVICE)
    assert after is not None
    assert 1 < after - before < 100_000


@cuda_only
def test_the_fork_server_leaves_the_gpu_alone() -> None:
    """No NVIDIA device is open there: CUDA would not survive the fork."""
    opened = call_in_worker(list_files_of_the_fork_server)
    assert opened
    assert not [path for path in opened if path.startswith("/dev/nvidia")]


def list_files_of_the_fork_server() -> list[str]:
    links = list(Path(f"/proc/{os.getppid()}/fd").iterdir())
    return [os.readlink(link) for link in links if link.is_symlink()]
