"""A whole run on `tests.support.simulated_gpu`: what only the code for CUDA reads and writes.

Real pytest, real processes, real models; the stand-in's docstring says what this cannot show.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import load_measurement
from harness.metrics import perplexity
from harness.records.record import Measured, Record
from harness.suite.data_source import DataSource
from tests.support import simulated_gpu
from tests.support.cells_in_process import load, make_context
from tests.support.projects import ROOT, Project, find_records

pytestmark = [pytest.mark.slow, pytest.mark.e2e]

POWER_CAP = 0x4  # nvml.h
WATTS = 200
CONTEXT_BYTES = 400 << 20
PRECISIONS = ("fp32", "bf16", "nf4")
TEXT = (ROOT / "harness/builtin/tiny-world/heldout.txt").read_text(encoding="utf-8")[:4000]
SUITE = f"""name: s
reference: fp32
models: [{{name: tiny, source: "builtin:tiny-world"}}]
precisions: [{", ".join(PRECISIONS)}]
measure:
  footprint: {{}}
  perplexity: {{text: ../heldout.txt, context: 128, stride: 128}}
  divergence: {{text: ../heldout.txt, context: 128}}
  mmlu: {{data: "builtin:tiny-world/quiz", shots: 2, limit: 2}}
  side_by_side: {{prompts: [Of the pale rusket it is written], max_new_tokens: 4}}
  memory: {{prompt_tokens: 32, new_tokens: 4}}
  throughput:
    {{prompt_tokens: 16, new_tokens: 4, min_rounds: 3, min_time_s: 0, warmup_s: 0, roofline: false}}
"""


def make_project(folder: Path, **variables: str) -> Project:
    project = Project(folder, variables=simulated_gpu.variables(ROOT, **variables))
    project.write("heldout.txt", TEXT)
    project.write("suites/s.yaml", SUITE)
    return project


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A run on the second of two boards, in which anything on the first is an error."""
    capped = json.dumps({"CurrentClocksThrottleReasons": POWER_CAP})
    folder = tmp_path_factory.mktemp("simulated")
    project = make_project(folder, SIMULATED_NVML=capped, SIMULATED_BOARD="1")
    outcome = project.run("suites", "--device", "cuda:1", "-v")
    assert outcome.code == 0, outcome.text
    return project


@pytest.fixture(scope="module")
def records(project: Project) -> dict[str, Record]:
    return find_records(project.last_run("s"))


def values(record: Record | Measured) -> dict[str, Any]:
    return {name: value.value for name, value in record.values.items()}


def test_every_cell_is_measured_on_the_gpu(project: Project, records: dict[str, Record]) -> None:
    assert len(records) == 7 * len(PRECISIONS)
    assert {record.cell.device for record in records.values()} == {"cuda:1"}
    assert all(record.usable for record in records.values())
    (path,) = project.run_paths("s")
    assert path.stem.endswith("cuda-simulated-gpu")
    environment = project.last_run("s").environment
    assert environment["gpu"]["devices"][0]["name"] == "Simulated GPU"
    assert environment["gpu"]["driver"] == "580.1"
    assert environment["torch"]["capability"] == "8.6"


def test_numbers_are_those_of_a_cpu(project: Project, records: dict[str, Record]) -> None:
    text = DataSource(path="heldout.txt")
    options = load_measurement("perplexity").options(text=text, context=128, stride=128)
    context = make_context(project.folder)
    expected = values(perplexity.measure(load("builtin:tiny-world"), options, context))
    found = values(records["tiny[fp32]::perplexity"])
    assert found["tokens"] == expected["tokens"]
    assert found["ppl"] == pytest.approx(expected["ppl"], rel=1e-5)
    assert values(records["tiny[fp32]::mmlu"])["items"] > 0


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_byte_of_the_footprint_is_the_allocators(
    records: dict[str, Record], precision: str
) -> None:
    found = values(records[f"tiny[{precision}]::footprint"])
    assert found["allocated_bytes"] == pytest.approx(found["total_bytes"], rel=0.001)
    assert found["unaccounted_bytes"] == found["allocated_bytes"] - found["total_bytes"]
    assert found["unaccounted_bytes"] == 0 or precision == "nf4"  # whose library keeps more


@pytest.mark.parametrize("precision", PRECISIONS)
def test_memory_is_read_from_the_allocator_and_the_board(
    records: dict[str, Record], precision: str
) -> None:
    record = records[f"tiny[{precision}]::memory"]
    found = values(record)
    # The stand-in has no other kernel of attention.
    assert all("kernel `math`" in reason for reason in record.validity.reasons)
    assert record.protocol["method"] == "torch.cuda.max_memory_allocated"
    assert record.protocol["allocator"]["name"] == "native"
    total = values(records[f"tiny[{precision}]::footprint"])["total_bytes"]
    assert total <= found["weights_bytes"] <= 1.03 * total  # in blocks of 512 bytes
    assert found["weights_bytes"] <= found["load_peak_bytes"]
    assert found["weights_bytes"] < found["prefill_peak_bytes"] <= found["reserved_peak_bytes"]
    assert found["kv_bytes_per_token"] == found["kv_bytes_per_token_measured"]
    of_allocator = found["device_used_bytes"] - CONTEXT_BYTES
    assert found["weights_bytes"] <= of_allocator <= found["reserved_peak_bytes"]
    assert found["load_anonymous_bytes"] is None  # a figure of CPUs


def test_half_the_bytes_take_half_the_memory(records: dict[str, Record]) -> None:
    found = {p: values(records[f"tiny[{p}]::memory"])["weights_bytes"] for p in PRECISIONS}
    assert found["bf16"] == pytest.approx(found["fp32"] / 2, rel=0.01)
    assert found["nf4"] < found["bf16"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_speeds_have_the_devices_clock_beside_the_hosts(
    records: dict[str, Record], precision: str
) -> None:
    """The stand-in's clock runs at half the speed: no time of it is a host's."""
    record = records[f"tiny[{precision}]::throughput"]
    timed = record.samples["1"]
    for first, on_device in zip(timed["ttft_s"], timed["ttft_device_s"], strict=True):
        assert 0 < on_device < first
    for host, on_device in zip(timed["decode_s"], timed["decode_device_s"], strict=True):
        assert 0 < on_device < host
    found = values(record)
    assert 0 < found["ttft_device_s[1]"] < found["ttft_s[1]"]
    assert 0 < found["tpot_device_s[1]"] < found["tpot_s[1]"]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_energy_is_the_boards_over_the_rounds(records: dict[str, Record], precision: str) -> None:
    record = records[f"tiny[{precision}]::throughput"]
    timed = record.samples["1"]
    seconds = sum(timed["ttft_s"]) + sum(timed["decode_s"])
    tokens = 4 * len(timed["ttft_s"])
    joules = values(record)["energy_j_per_token[1]"] * tokens
    assert joules >= 0.99 * WATTS * seconds  # of no less time than the rounds took


@pytest.mark.parametrize("precision", PRECISIONS)
def test_telemetry_watches_the_board_and_what_it_sees_flags(
    records: dict[str, Record], precision: str
) -> None:
    record = records[f"tiny[{precision}]::throughput"]
    (found,) = record.telemetry
    gpu = found["gpu"]
    assert gpu["sm_mhz"] == {"min": 1500, "median": 1500, "max": 1500}
    assert gpu["memory_mhz"]["median"] == 7000
    assert gpu["power_w"]["median"] == WATTS
    assert gpu["power_limit_w"] == 250
    assert gpu["temperature_c"]["max"] == 50
    assert gpu["throttled"] == {"software power cap": 1.0}
    assert gpu["other_processes"] == 0
    assert record.validity.status == "flagged"
    capped = "the GPU's power was capped at 250 W in 100% of the samples"
    assert capped in record.validity.reasons


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_attested_is_of_cuda(records: dict[str, Record], precision: str) -> None:
    attested = records[f"tiny[{precision}]::footprint"].cell.attested
    assert attested["kernels"]["matmul"].startswith("CUDA 13.0, ")
    # The stand-in has no other kernel; None would say that a pass had failed.
    assert set(attested["attention_kernels"].values()) == {"math"}
    assert attested["tf32"] is False
    if precision == "nf4":  # what is unquantised is bfloat16 on CUDA, float32 on a CPU
        assert attested["compute_dtype"] == "bfloat16"
        assert set(attested["dtypes"]) == {"bfloat16"}


def test_a_board_that_is_not_there_is_refused(tmp_path: Path) -> None:
    outcome = make_project(tmp_path).run("suites", "--device", "cuda:1")
    assert outcome.code != 0
    assert "--device cuda:1: torch sees 1 CUDA device (" in outcome.text
    assert not outcome.shows_traceback


STAND_IN = """
import os, torch
device = "cuda:0"
held = torch.ones(1000, device=device)
assert type(held) is torch.Tensor and held.device == torch.device(device), held.device
assert torch.cuda.memory_allocated() == 4096, torch.cuda.memory_allocated()
view = held.view(10, 100)[2:4]
view.mul_(3)
assert torch.cuda.memory_allocated() == 4096, "a view takes no memory"
assert held.sum().item() == 1400 and held.cpu().device.type == "cpu"
packed = torch.arange(20, dtype=torch.uint8, device=device)
assert ((packed & 0xF).tolist(), (packed & 0xF).dtype) == ([*range(16), 0, 1, 2, 3], torch.uint8)
assert (torch.full((2,), 600, device=device).fmod(512)).tolist() == [88, 88]
assert (packed * 0.5).dtype == torch.float32 and (held.half() * 0.5).dtype == torch.float16
largest = torch.empty(0, device=device)
torch.mul(held, 2, out=largest)
assert largest.shape == (1000,) and largest[250].item() == 6
assert held[torch.tensor([1, 200])].tolist() == [1, 3]
for mixed in (lambda: held + torch.ones(1000), lambda: torch.cat([held, torch.ones(1)])):
    try:
        mixed()
    except RuntimeError as error:
        assert "on the same device" in str(error)
    else:
        raise AssertionError("devices were mixed")
del held, view, packed, largest, mixed
assert torch.cuda.memory_allocated() == 0 < torch.cuda.max_memory_allocated()
if os.fork() == 0:
    try:
        torch.ones(1, device=device)
    except RuntimeError as error:
        os._exit("forked" not in str(error))
    os._exit(1)
assert os.waitstatus_to_exitcode(os.wait()[1]) == 0, "CUDA came through a fork"
print("held")
"""


def test_the_stand_in_behaves_as_a_device() -> None:
    """Or the tests above show nothing."""
    done = subprocess.run(
        [sys.executable, "-c", STAND_IN],
        env={**simulated_gpu.variables(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "held\n", done.stderr
    assert done.stderr == ""


SECOND_BOARD = """
import torch
held = torch.ones(1000, device="cuda:1")
assert held.device == (held * 2).device == torch.device("cuda:1"), held.device
on_the_first = (
    lambda: torch.ones(1, device="cuda:0"),
    lambda: torch.ones(1, device="cuda"),
    torch.cuda.synchronize,
    torch.cuda.Event().record,
    lambda: torch.cuda.memory_allocated(0),
)
for use in on_the_first:
    try:
        use()
    except RuntimeError as error:
        assert "a board other than cuda:1 was used" in str(error), error
    else:
        raise AssertionError("the first board was used")
torch.cuda.set_device("cuda:1")
for use in on_the_first[1:-1]:
    use()
print("held")
"""


def test_the_first_of_two_boards_refuses_everything() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SECOND_BOARD],
        env={**simulated_gpu.variables(ROOT, SIMULATED_BOARD="1"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.stdout == "held\n", done.stderr
