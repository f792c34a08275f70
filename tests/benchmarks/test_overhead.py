"""What the benchmarks of our own cost make of their samples, and the check of a GPU's run files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engines.transformers.generation import TransformersGenerator
from harness.records.record import Record
from tests.support.cells_in_process import load, write_llama
from tests.support.records import make_record

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks"))

import plausible  # noqa: E402
import requirements  # noqa: E402
from cost.decode import call_bare, make_prompt, record_calls  # noqa: E402
from cost.memory import measure_memory  # noqa: E402
from cost.records import measure_records  # noqa: E402
from cost.row import Cost, format_costs  # noqa: E402


def make_cost(figure: Any, base: tuple[float, ...], ours: tuple[float, ...], target: Any) -> Cost:
    return Cost("x", "y", "s", base, ours, figure, target)


@pytest.mark.parametrize(
    ("figure", "base", "ours", "relative"),
    [
        ("seconds", (4.0, 5.0), (1.0, 2.0), [0.25, 0.4]),
        ("share", (4.0, 5.0), (1.0, 2.0), [0.25, 0.4]),
        ("beyond", (4.0, 5.0), (5.0, 4.0), [0.25, -0.2]),
        ("error", (4.0, 5.0), (5.0, 4.0), [0.25, 0.2]),
    ],
)
def test_ours_is_set_beside_the_base_pair_by_pair(
    figure: Any, base: Any, ours: Any, relative: list[float]
) -> None:
    assert make_cost(figure, base, ours, None).relative == pytest.approx(relative)


def test_a_small_difference_is_judged_by_its_whole_interval() -> None:
    """Three processes, 1 % beyond, ±0.1 %: t = 4.30 on two degrees of freedom."""
    base, ours = (1.0, 1.0, 1.0), (1.009, 1.01, 1.011)
    middle, low, high = make_cost("beyond", base, ours, 0.02).spread
    assert middle == pytest.approx(0.01, abs=1e-6)
    assert high - middle == pytest.approx(4.303 * 0.001 / 3**0.5, rel=0.01)
    assert middle - low == pytest.approx(high - middle, rel=0.01)
    verdicts = {t: make_cost("beyond", base, ours, t).verdict for t in (0.02, 0.011, 0.005)}
    assert verdicts == {0.02: "met", 0.011: "undecided", 0.005: "NOT MET"}


def test_seconds_are_judged_by_their_median_whatever_they_are_beside() -> None:
    assert make_cost("seconds", (9.0, 9.0, 9.0), (0.2, 0.3, 0.9), 0.3).verdict == "met"
    assert make_cost("seconds", (9.0, 9.0, 9.0), (0.2, 0.31, 0.31), 0.3).verdict == "NOT MET"
    assert make_cost("share", (100.0,), (1.01,), 0.01).verdict == "NOT MET"
    assert make_cost("share", (100.0,), (99.0,), None).verdict == ""


def test_the_table_has_a_row_for_each_with_its_target() -> None:
    costs = [
        make_cost("seconds", (5.0,), (0.04,), 0.3),
        make_cost("beyond", (1.0,), (1.05,), 0.02),
        make_cost("share", (200.0,), (4.0,), None),
    ]
    _, first, second, third = format_costs(costs).splitlines()
    assert "< 0.3 s" in first
    assert first.endswith("met")
    assert "+5.00%" in second
    assert second.endswith("NOT MET")
    assert "200 s" in third
    assert "<" not in third


def test_the_bare_calls_are_those_of_our_loop(tmp_path: Path) -> None:
    model: Any = load(write_llama(tmp_path / "model")).model
    prompt = make_prompt(model, 2, 9)
    made: list[Any] = []
    calls = record_calls(
        model, lambda: made.append(TransformersGenerator(model).run(prompt, 5).tokens)
    )
    assert torch.equal(calls[0]["input_ids"], prompt)
    fed = torch.cat([call["input_ids"] for call in calls[1:]], dim=1)
    assert torch.equal(fed, made[0][:, :4])  # the last token is fed to nothing
    seen: list[tuple[int, torch.Tensor]] = []
    hook = model.register_forward_hook(
        lambda *given: seen.append((given[-1].past_key_values.get_seq_length(), given[-1].logits))
    )
    assert call_bare(model, calls, torch.device("cpu")) > 0
    hook.remove()
    assert [length for length, _ in seen] == [9, 10, 11, 12, 13]
    assert torch.equal(seen[-1][1][:, -1].argmax(-1), made[0][:, -1])


@pytest.mark.e2e
def test_memory_of_a_cpu_is_read_in_every_way_it_has() -> None:
    if not Path("/proc/self/clear_refs").exists():
        pytest.skip("peaks on a CPU need Linux's /proc")
    costs = measure_memory("cpu", 1)
    assert {cost.what for cost in costs} == {"memory: held", "memory: peak", "memory: anonymous"}
    assert {cost.verdict for cost in costs} == {"met"}


@pytest.mark.e2e
def test_records_are_kept_again_without_being_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One real run of a small suite, then as often as it takes to make 20 records of its four."""
    (tmp_path / "suites").mkdir()
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["harness.plugin"]\n')
    (tmp_path / "suites/smoke.yaml").write_text(
        "name: smoke\nreference: fp32\nprecisions: [fp32, bf16]\n"
        'models: [{name: tiny-world, source: "builtin:tiny-world"}]\n'
        "measure:\n  footprint: {}\n  memory: {prompt_tokens: 8, new_tokens: 2}\n"
        "limits: [{precision: bf16, metric: footprint.size_ratio, max: 0.6}]\n"
    )
    monkeypatch.setattr("cost.records.ROOT", tmp_path)
    monkeypatch.setattr("cost.records.MANY", 20)
    few, many, run = measure_records("cpu", 1, tmp_path / "work")
    assert few.what == "records: 4 kept, judged, shown"
    assert many.what == "records: 20 kept, judged, shown"
    assert many.base[0] == pytest.approx(5 * few.base[0])
    assert run.base[0] == few.base[0]
    assert run.ours[0] > 0


# What a GPU's run files are checked for


def record(measurement: str, values: dict[str, Any], **fields: Any) -> Record:
    made = make_record(measurement, values=values, **fields)
    cell = {"declared": {"use": "fp32"}, "attested": {"quantisation": None}}
    return made.model_copy(update={"cell": made.cell.model_copy(update=cell)})


MEMORY = {
    "weights_bytes": 10,
    "load_peak_bytes": 11,
    "prefill_peak_bytes": 12,
    "generate_peak_bytes": 13,
}


@pytest.mark.parametrize(
    ("measurement", "values", "problem"),
    [
        ("memory", MEMORY, None),
        ("memory", {**MEMORY, "generate_peak_bytes": 9}, "generate_peak_bytes 9 is below"),
        ("memory", {**MEMORY, "load_peak_bytes": None}, "load_peak_bytes or weights_bytes is un"),
        ("footprint", {"allocated_bytes": 1000, "unaccounted_bytes": -1}, None),
        ("footprint", {"allocated_bytes": 1000, "unaccounted_bytes": -2}, "-2 of 1000 bytes"),
        ("footprint", {"allocated_bytes": None, "unaccounted_bytes": None}, "is unavailable"),
        ("throughput", {"mbu[1]": 0.9, "mbu[8]": 1.0}, None),
        ("throughput", {"mbu[1]": 0.9, "mbu[8]": 1.1}, "mbu[8] is 1.1, not a share"),
        ("throughput", {"prefill_flop_utilisation[1]": 0.0}, "is 0, not a share"),
    ],
)
def test_numbers_that_cannot_be_true_are_told(
    measurement: str, values: dict[str, Any], problem: str | None
) -> None:
    found = list(plausible.check_record(record(measurement, values)))
    assert len(found) == (problem is not None)
    assert problem is None or problem in found[0]


def test_on_a_gpu_telemetry_must_be_there() -> None:
    made = record("throughput", {})
    on_gpu = {"cell": made.cell.model_copy(update={"device": "cuda:0"})}
    (problem,) = plausible.check_record(made.model_copy(update=on_gpu))
    assert problem == "no telemetry"
    watched = {name: {"min": 1, "median": 1, "max": 1} for name in plausible._GPU_FACTS}
    found = {**on_gpu, "telemetry": ({"gpu": watched},)}
    assert not list(plausible.check_record(made.model_copy(update=found)))
    blind = {**on_gpu, "telemetry": ({"gpu": watched}, {"gpu": {"unavailable": "denied"}})}
    (problem,) = plausible.check_record(made.model_copy(update=blind))
    assert problem.endswith("(denied)")


def test_records_without_numbers_and_without_attestation_are_told() -> None:
    failed = record("memory", {}, status="failed", reasons=("out of memory",))
    assert list(plausible.check_record(failed)) == ["failed: out of memory"]
    bare = make_record("perplexity")
    bare = bare.model_copy(
        update={"cell": bare.cell.model_copy(update={"declared": {"use": "fp32"}})}
    )
    assert list(plausible.check_record(bare)) == ["nothing is attested"]


def test_what_is_missing_for_the_harness_is_named_at_once() -> None:
    assert "torch>=2.6" in requirements.list_declared()
    found = requirements.find_missing(["no-such-thing>=1", "pytest>=999", "torch", "x; extra=='y'"])
    assert found.keys() == {"no-such-thing", "pytest"}
    assert "is missing (needed by precision-harness)" in found["no-such-thing"]
    # pytest-benchmark, looked at first, is content with an older pytest.
    assert "pytest" in requirements.find_missing(["pytest>=999", "pytest-benchmark"])
