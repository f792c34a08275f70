"""Decoding measured compiled beside the other way: one run, values of either that never mix."""

from __future__ import annotations

import re
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.engines.base import Engine
from harness.engines.transformers.generation import TransformersGenerator
from harness.errors import InputError, UnavailableError
from harness.metrics.speed_ratios import compare, remarks
from harness.metrics.speed_repeats import merge_speeds
from harness.metrics.throughput import Options, list_series, measure
from harness.records.record import Measured, Record, Value
from harness.suite.read import load_suite
from harness.timing import roofline
from harness.verdicts.bless import bless
from harness.verdicts.compare import compare_runs
from harness.verdicts.threshold_verdicts import judge_thresholds
from harness.verdicts.thresholds import Thresholds
from tests.support.cells_in_process import load, make_context, write_llama
from tests.support.projects import ROOT
from tests.support.records import ENVIRONMENT, make_record, make_run
from tests.support.suite_files import PARTS, check_marked, load_parts, suite_text
from tests.support.summaries import finish, make_suite, show_section, show_tables

QUICK = {
    "prompt_tokens": 8,
    "new_tokens": 3,
    "min_rounds": 3,
    "min_time_s": 0.0,
    "warmup_s": 0.0,
    "roofline": False,
}
CONTEXT = make_context(Path("/"))
OLD = {"cache": "dynamic", "compile": False, "prompt_tokens": 8}  # before both were measured
NEW = {**OLD, "also_compiled": {"batch_sizes": None, "device": "cuda"}}


@pytest.fixture(scope="module")
def cells(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    checkpoint = write_llama(tmp_path_factory.mktemp("modes") / "model")
    return {name: load(checkpoint, name) for name in ("fp32", "nf4")}


@pytest.fixture
def cell(cells: dict[str, Any]) -> Engine:
    engine: Engine = cells["fp32"]
    return engine


@pytest.fixture
def _no_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decode steps are what they are without torch.compile: quick, and needs no compiler."""
    monkeypatch.setattr("harness.engines.transformers.generation._compile", lambda model: model)
    monkeypatch.setattr(TransformersGenerator, "release", lambda self: None)


def options(**given: Any) -> Options:
    return Options(**{**QUICK, "also_compiled": {}, **given})


def names_of(found: Any, workload: str) -> set[str]:
    """The values of one workload, without its name."""
    return {n.partition("[")[0] for n in found if n.endswith(f"[{workload}]")}


def speeds(precision: str = "fp32", protocol: Any = NEW, **decode: float) -> Record:
    """Decode tokens/s of six processes by workload: ``b1``, ``b1x64``, ``b8_compiled``."""
    values: dict[str, Any] = {}
    for workload, speed in decode.items():
        at = f"[{workload[1:].replace('_', ' ')}]"
        near = speed * 0.01 / 6**0.5
        value = Value(value=speed, unit="tokens/s", better="higher", stderr=near, n=6)
        values |= {f"decode_tokens_per_s{at}": value}
        values |= {f"step_bytes{at}": 25 if precision == "nf4" else 100}
    return make_record("throughput", precision, values=values, protocol=protocol)


@pytest.mark.slow
@pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler on this machine"
)
@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_one_measurement_holds_both(cells: dict[str, Any], precision: str) -> None:
    graphs = torch._dynamo.utils.counters["stats"]
    before = graphs["unique_graphs"]
    measured = measure(cells[precision], options(), CONTEXT)
    assert graphs["unique_graphs"] == before + 1
    assert measured.values["decode_tokens_per_s[1]"].value is not None
    assert measured.values["decode_tokens_per_s[1 compiled]"].value is not None
    assert measured.values["compile_s[1 compiled]"].value is not None
    assert "compile_s[1]" not in measured.values
    assert "not_compiled" not in measured.protocol["method"]
    assert measured.protocol["method"]["cuda_graphs_skipped"] == {"1 compiled": 1}


@pytest.mark.usefixtures("_no_compiler")
def test_compiled_workloads_come_last_and_have_no_values_of_the_prompt(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(roofline, "measure_bandwidth", lambda device: 1e12)
    monkeypatch.setattr(roofline, "measure_matmul_peak", lambda device, dtype: 1e15)
    given = options(batch_sizes=(1, 2), also_compiled={"batch_sizes": (2,)}, roofline=True)
    measured = measure(cell, given, CONTEXT)
    assert list(measured.samples) == ["1", "2", "2 compiled"]
    alone, beside = (names_of(measured.values, name) for name in ("2", "2 compiled"))
    assert alone - beside == {
        "prefill_tokens_per_s", "ttft_s", "ttft_device_s", "prefill_flop_utilisation",
    }  # fmt: skip
    assert beside - alone == {"compile_s"}
    same = [measured.values[f"step_bytes[{name}]"].value for name in ("2", "2 compiled")]
    assert same[0] == same[1]
    record = make_record("throughput", "nf4", measured=measured)
    assert [one.name.partition("::")[2] for one in list_series(record)] == [
        "prefill[1]", "decode[1]", "prefill[2]", "decode[2]", "decode[2 compiled]",
    ]  # fmt: skip
    assert len({one.group for one in list_series(record)}) == 5  # no group holds both


def test_compiled_steps_without_cuda_graphs_are_named(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the second batch, by a stand-in that counts as torch does; a CPU has none to miss."""
    counts = torch._dynamo.utils.counters["inductor"]

    def skip(self: TransformersGenerator, prompt: torch.Tensor, new_tokens: int) -> float:
        counts["cudagraph_skips"] += len(prompt) - 1
        return 1.0

    monkeypatch.setattr("harness.engines.transformers.generation._compile", lambda model: model)
    monkeypatch.setattr(TransformersGenerator, "compile", skip)
    measured = measure(cell, options(batch_sizes=(1, 2)), CONTEXT)
    skipped = measured.protocol["method"]["cuda_graphs_skipped"]
    assert skipped == {"1 compiled": 0, "2 compiled": 1}
    record = make_record("throughput", "nf4", measured=measured)
    assert remarks(record) == []
    on_gpu = record.model_copy(update={"cell": record.cell.model_copy(update={"device": "cuda:0"})})
    [remark] = remarks(on_gpu)
    assert remark.startswith("torch.compile went without CUDA graphs at batch 2 compiled, ")


@pytest.mark.usefixtures("_no_compiler")
def test_speeds_whose_attention_holds_all_scores_are_named_on_cuda_and_not_flagged(
    cell: Engine,
) -> None:
    """In float16 on boards below 8.0 there may be no other kernel: then nothing is amiss."""
    with sdpa_kernel(SDPBackend.MATH):
        measured = measure(cell, options(batch_sizes=(1, 2), also_compiled=None), CONTEXT)
    assert not any("attention" in reason for reason in measured.validity.reasons)
    record = make_record("throughput", "fp16", measured=measured)
    assert remarks(record) == []
    on_gpu = record.model_copy(update={"cell": record.cell.model_copy(update={"device": "cuda:0"})})
    [remark] = remarks(on_gpu)
    assert remark.startswith("torch's attention held all scores of a prompt (kernel `math`) at ")
    assert " at batch 1, 2: " in remark


@pytest.mark.usefixtures("_no_compiler")
@pytest.mark.parametrize("says", [InputError, RuntimeError])
def test_a_compiler_that_ruins_the_process_takes_no_share_of_a_peak_along(
    cell: Engine, monkeypatch: pytest.MonkeyPatch, says: type[Exception]
) -> None:
    """As after CUDA's illegal memory access: nothing runs any more, and nothing is measured."""
    ruined: list[bool] = []

    def ruin(*_: Any) -> float:
        ruined.append(True)
        raise says("an illegal memory access was encountered")

    def copy(*_: Any) -> float:
        assert not ruined, "the device is out of reach"
        return 1e12

    monkeypatch.setattr(TransformersGenerator, "compile", ruin)
    monkeypatch.setattr(roofline, "measure_bandwidth", copy)
    monkeypatch.setattr(roofline, "measure_matmul_peak", copy)
    kept: list[Measured] = []
    context = replace(CONTEXT, keep=lambda measured, before: kept.append(measured))
    try:
        kept.append(measure(cell, options(roofline=True), context))
    except RuntimeError:
        assert says is RuntimeError
    values, method = kept[-1].values, kept[-1].protocol["method"]
    assert ruined
    assert values["bandwidth_bytes_per_s"].value == 1e12
    assert values["mbu[1]"].value == pytest.approx(
        values["step_bytes[1]"].value / values["tpot_s[1]"].value / 1e12
    )
    assert method["matmul_dtype"] == "float32"
    assert ("not_compiled" in method) is (says is InputError)


@pytest.mark.usefixtures("_no_compiler")
def test_the_compiled_one_runs_over_a_static_cache_and_the_other_does_not(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[tuple[int | None, bool]] = []

    def look(length: int | None, compiled: bool) -> TransformersGenerator:
        opened.append((length, compiled))
        return TransformersGenerator(cell.model, length, compiled)  # type: ignore[attr-defined]

    monkeypatch.setattr(cell, "open_generator", look)
    measure(cell, options(), CONTEXT)
    assert opened[0] == (None, False)
    assert [length for length, compiled in opened if compiled] == [11]


def test_what_is_for_cuda_only_is_not_measured_on_a_cpu(cell: Engine) -> None:
    """Without `_no_compiler`: compiling would show as seconds and values."""
    measured = measure(cell, options(also_compiled={"device": "cuda"}), CONTEXT)
    assert list(measured.samples) == ["1"]
    given = options(also_compiled={"device": "cuda"})
    assert [w.name for w in given.workloads("cuda:1")] == ["1", "1 compiled"]


def refuse(*_: Any) -> Any:
    raise InputError("torch.compile failed on this model or machine (Unsupported: a layer)")


@pytest.mark.usefixtures("_no_compiler")
def test_where_compiling_is_impossible_the_record_says_so_and_the_others_stand(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not flagged: a flagged speed is not blessed, and nothing is wrong with these."""
    monkeypatch.setattr(TransformersGenerator, "compile", refuse)
    measured = measure(cell, options(batch_sizes=(1, 2)), CONTEXT)
    assert [r for r in measured.validity.reasons if "settled" not in r] == []
    assert list(measured.samples) == ["1", "2"]
    assert set(measured.protocol["method"]["not_compiled"]) == {"1 compiled", "2 compiled"}
    record = make_record("throughput", "nf4", measured=measured)
    why = "torch.compile failed on this model or machine (Unsupported: a layer)"
    assert remarks(record) == [
        f"nothing was measured at batch {batch} compiled: {why}" for batch in (1, 2)
    ]
    shown = show_section(finish(make_suite("throughput"), [record]), "Notes")
    assert any("at batch 1, 2 compiled: torch.compile failed" in line for line in shown)


def test_an_engine_that_compiles_nothing_keeps_its_other_numbers(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_generator(length: int | None, compiled: bool) -> TransformersGenerator:
        if compiled:
            raise UnavailableError("this engine compiles nothing")
        return TransformersGenerator(cell.model, length, compiled)  # type: ignore[attr-defined]

    monkeypatch.setattr(cell, "open_generator", open_generator)
    measured = measure(cell, options(), CONTEXT)
    assert measured.protocol["method"]["not_compiled"] == {
        "1 compiled": "this engine compiles nothing"
    }


@pytest.mark.usefixtures("_no_compiler")
def test_where_nothing_else_was_asked_for_it_is_the_suite_s_mistake(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TransformersGenerator, "compile", refuse)
    given = options(cache="static", compile=True, also_compiled=None)
    with pytest.raises(InputError, match=r"a layer\); leave out `cache: static` and `compile: tr"):
        measure(cell, given, CONTEXT)


@pytest.mark.usefixtures("_no_compiler")
def test_a_compiled_batch_that_does_not_fit_stops_larger_compiled_ones_only(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> float:
        raise MemoryError

    monkeypatch.setattr(TransformersGenerator, "compile", fail)
    measured = measure(cell, options(batch_sizes=(1, 2)), CONTEXT)
    assert list(measured.samples) == ["1", "2"]
    first, second = (r for r in measured.validity.reasons if "settled" not in r)
    assert first.startswith("out of memory at batch 1 compiled: ")
    assert second == "batch 2 compiled not tried: batch 1 compiled did not fit"


def test_ratios_and_the_paradox_are_those_of_one_mode() -> None:
    """Python hides that nf4 is slower; compiled it shows, and only there."""
    reference = speeds(b1=20.0, b8=40.0, b1_compiled=100.0, b8_compiled=100.0)
    candidate = speeds("nf4", b1=21.0, b8=41.0, b1_compiled=50.0, b8_compiled=150.0)
    paired = compare(candidate, reference)
    ratios = {n: v.value for n, v in paired.items() if n.startswith("decode_speedup")}
    assert ratios == {
        "decode_speedup[1]": pytest.approx(1.05),
        "decode_speedup[8]": pytest.approx(1.025),
        "decode_speedup[1 compiled]": pytest.approx(0.5),
        "decode_speedup[8 compiled]": pytest.approx(1.5),
    }
    assert paired["pays_from_batch"].value == 1
    assert paired["pays_from_batch[compiled]"].value == 8
    assert remarks(candidate.model_copy(update={"paired": paired})) == [
        "smaller than the reference but slower at batch 1 (×0.50) when compiled; "
        "it pays from batch 8"
    ]


def test_each_prompt_length_has_both() -> None:
    reference = speeds(**{"b1x64": 20.0, "b1x64_compiled": 20.0})
    candidate = speeds("nf4", **{"b1x64": 30.0, "b1x64_compiled": 10.0})
    paired = compare(candidate, reference)
    assert paired["pays_from_batch[64]"].value == 1
    assert paired["pays_from_batch[64 compiled]"].value is None
    [sentence] = remarks(candidate.model_copy(update={"paired": paired}))
    assert "(×0.50) after 64 tokens when compiled; it pays at no measured batch" in sentence


def test_a_value_of_one_mode_is_never_compared_with_the_other_s() -> None:
    """Runs from before both were measured are compared by what both have."""
    before, after = speeds(protocol=OLD, b1=20.0), speeds(b1=20.0, b1_compiled=90.0)
    found = compare_runs(make_run(before), make_run(after))
    assert not found.refused
    assert [one.value for one in found.compared] == ["decode_tokens_per_s[1]"]
    only_compiled = speeds(protocol={**OLD, "cache": "static", "compile": True}, b1=90.0)
    [refused] = compare_runs(make_run(only_compiled), make_run(after)).refused
    assert {d.field for d in refused.differences} == {"protocol.cache", "protocol.compile"}
    assert remarks(only_compiled) == ["decode steps are compiled, prompts are not"]


def test_a_compiled_speed_that_is_gone_is_a_loss_with_its_reason() -> None:
    why = {"method": {"not_compiled": {"1 compiled": "torch.compile failed (why)"}}}
    after = speeds(protocol={**NEW, **why}, b1=20.0)
    [lost] = compare_runs(make_run(speeds(b1=20.0, b1_compiled=90.0)), make_run(after)).missing
    assert lost.verdict == "FAIL"
    assert "decode_tokens_per_s[1 compiled] is unavailable in B: nothing was" in lost.reason
    assert "torch.compile failed (why)" in lost.reason


def test_thresholds_are_kept_and_judged_by_mode() -> None:
    def bless_nights(record: Record) -> Thresholds:
        runs = [
            make_run(record, id=f"s/{day}", utc=f"2026-01-0{day}T00:00:00+00:00")
            for day in (1, 2, 3)
        ]
        return bless(runs, "cpu-xeon", None, "why", "2026-01-03").thresholds

    thresholds = bless_nights(speeds("nf4", b1=20.0, b1_compiled=90.0))
    slower = speeds("nf4", b1=20.0, b1_compiled=70.0)
    verdicts = judge_thresholds(thresholds, ENVIRONMENT, slower)
    assert {v.metric: v.verdict for v in verdicts} == {
        "throughput.decode_tokens_per_s[1]": "PASS",
        "throughput.decode_tokens_per_s[1 compiled]": "FAIL",
    }
    # What was blessed before both were measured still judges.
    [verdict] = judge_thresholds(bless_nights(speeds("nf4", OLD, b1=20.0)), ENVIRONMENT, slower)
    assert (verdict.metric, verdict.verdict) == ("throughput.decode_tokens_per_s[1]", "PASS")


def test_a_process_that_could_not_compile_is_heard() -> None:
    methods: tuple[dict[str, Any], ...] = (
        {"clock": "c"},
        {"clock": "c", "not_compiled": {"1 compiled": "w"}},
    )
    records = speeds(b1=20.0, b1_compiled=90.0), speeds(b1=21.0)
    merged = merge_speeds(
        [
            Measured(values=record.values, protocol={**NEW, "method": method})
            for record, method in zip(records, methods, strict=True)
        ]
    )
    assert merged.values["decode_tokens_per_s[1 compiled]"].n == 1
    assert merged.protocol["method"] == methods[1]


def test_the_table_names_the_mode() -> None:
    records = [speeds(p, b1=20.0, b8=30.0, b1_compiled=90.0) for p in ("fp32", "nf4")]
    heading = show_tables(finish(make_suite("throughput"), records))[0]
    columns = [re.split(r"  +", line.strip()) for line in heading[2:4]]
    assert columns == [
        ["tok/s", "tok/s", "batch 1", "×ref", "×ref", "batch 1"],
        ["m", "verdicts", *["batch 1", "batch 8", "compiled"] * 2],
    ]


@pytest.mark.parametrize(
    ("given", "parts"),
    [
        ("also_compiled: ▼{batch_sizes: [4]}", ["size 4, which is not among `batch_sizes` 1, 8"]),
        ("also_compiled: {device: ▼cudaa}", ["did you mean 'cuda'?"]),
        ("also_compiled: {▼batches: [1]}", ["unknown key 'batches'"]),
        ("also_compiled: ▼{}, cache: static, compile: true", ["without `compile: true`"]),
    ],
)
def test_a_mistake_in_a_suite_is_explained(tmp_path: Path, given: str, parts: list[str]) -> None:
    entry = f"throughput: {{batch_sizes: [1, 8], {given}}}"
    check_marked(tmp_path, suite_text(measure=f"measure: {{{entry}}}"), *parts)


def test_limits_know_both(tmp_path: Path) -> None:
    measured = (
        "measure: {throughput: {batch_sizes: [1, 8], also_compiled: {batch_sizes: [8], "
        "device: cuda}}}"
    )
    limit = "limits: [{precision: nf4, metric: 'throughput.%s', min: 1}]"
    for metric in ("decode_speedup[8]", "decode_speedup[8 compiled]", "pays_from_batch[compiled]"):
        parts = {"measure": measured, "limits": limit % metric}
        assert load_parts(tmp_path, **parts).limits[0].metric == f"throughput.{metric}"
    marked = limit.replace("'thr", "▼'thr") % "decode_speedup[1 compiled]"
    text = suite_text(**{**PARTS, "measure": measured, "limits": marked})
    check_marked(tmp_path, text, "unknown batch size", "1, 8, 8 compiled")


@pytest.mark.parametrize("name", ["gpt2", "llama-1b", "nightly", "shapes", "speed"])
def test_the_shipped_suites_compile_on_cuda_only(name: str) -> None:
    suite = load_suite(ROOT / "suites" / f"{name}.yaml", ROOT)
    [given] = [m.options for m in suite.measurements if m.name == "throughput"]
    assert isinstance(given, Options)
    assert any(workload.also_compiled for workload in given.workloads("cuda:0"))
    assert not any(workload.also_compiled for workload in given.workloads("cpu"))
