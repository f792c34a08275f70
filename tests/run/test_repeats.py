"""Repeats: several fresh processes as the samples of one record, and those that give nothing."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from harness.metrics import throughput
from harness.records.record import Record, Validity, dump_json
from harness.run.machine import inspect_machine
from harness.run.repeats import merge_repeats
from harness.statistics.estimates import geometric_mean_interval
from tests.support.cells_in_process import write_llama
from tests.support.executors import Watched
from tests.support.projects import FAST_THROUGHPUT, Project, find_records
from tests.support.records import make_record


@pytest.mark.e2e
def test_each_sample_is_a_process_of_its_own_and_the_interval_is_over_them(tmp_path: Path) -> None:
    checkpoint = write_llama(tmp_path / "model")
    watched = Watched(inspect_machine("cpu", Path(__file__).parents[2], online=False))
    record = watched.measure_speed(checkpoint, processes=3)
    assert record.usable, record.validity
    assert watched.process == 3
    samples = record.samples["1"]
    assert samples["rounds_per_process"] == [3, 3, 3]
    assert len(samples["ttft_s"]) == 9
    assert len(record.telemetry) == 3
    rates = record.values["decode_tokens_per_s[1]"]
    # Batch 1, three tokens: two gaps, the median round of each process.
    per_process = [2 / sorted(samples["decode_s"][i : i + 3])[1] for i in (0, 3, 6)]
    expected = geometric_mean_interval(per_process)
    assert rates.value == pytest.approx(expected.value)
    assert rates.interval == pytest.approx((expected.low, expected.high))
    assert rates.n == 3


@pytest.mark.e2e
def test_what_does_not_load_is_not_tried_again(tmp_path: Path) -> None:
    broken = write_llama(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"x" * 40)
    machine = inspect_machine("cpu", Path(__file__).parents[2], online=False)
    record = Watched(machine).measure_speed(broken, processes=3)
    assert record.validity.status == "failed"
    assert not any("processes" in reason for reason in record.validity.reasons)


def made(rate: float, status: str = "ok", reasons: tuple[str, ...] = ()) -> Record:
    values = {
        "ttft_s[1]": 1 / rate,
        "tpot_s[1]": 1 / rate,
        "prefill_tokens_per_s[1]": rate,
        "decode_tokens_per_s[1]": rate,
    }
    samples = {"1": {"ttft_s": [1 / rate], "decode_s": [2 / rate], "itl_s": [[1 / rate] * 2]}}
    samples["1"] |= {"batch_size": 1, "prompt_tokens": 8}
    return make_record(
        "throughput", values=values, samples=samples, status=status, reasons=reasons,
        seconds={"load": 1.0, "total": 2.0}, telemetry=({"samples": 3},),
        protocol={"new_tokens": 3},
    )  # fmt: skip


def died(reason: str) -> Record:
    return make_record("throughput", status="failed", reasons=(reason,))


def test_two_processes_in_numbers() -> None:
    """10 and 40: geometric mean 20, s of the logarithms ln 4/√2, over √2: ln 2; t = 12.706."""
    record = merge_repeats([made(10.0), made(40.0)])
    found = record.values["decode_tokens_per_s[1]"]
    assert found.value == pytest.approx(20)
    assert found.interval == pytest.approx(
        (20 * math.exp(-12.706204736 * math.log(2)), 20 * math.exp(12.706204736 * math.log(2)))
    )
    assert record.seconds == {"load": 1.0, "total": 4.0}
    assert len(record.telemetry) == 2
    assert record.validity == Validity()


def test_flags_are_joined_and_an_invalid_process_does_not_count() -> None:
    record = merge_repeats(
        [made(10.0), made(10.0, "flagged", ("warm",)), made(99.0, "invalid", ("hot",))]
    )
    assert record.validity.status == "flagged"
    assert set(record.validity.reasons) == {"warm", "1 of 3 processes gave no numbers", "hot"}
    assert record.values["decode_tokens_per_s[1]"].value == pytest.approx(10)


def test_the_rounds_of_an_invalid_process_are_kept_apart() -> None:
    hot = made(99.0, "invalid", ("hot",))
    record = merge_repeats([hot, made(10.0), made(10.0)])
    assert record.samples["1"]["ttft_s"] == [0.1, 0.1]
    assert record.samples["left_out"] == [{"reasons": ("hot",), "samples": hot.samples}]
    shown = throughput.list_series(record)
    assert [series.name for series in shown] == ["m[fp32]::prefill[1]", "m[fp32]::decode[1]"]
    assert shown[0].seconds == (0.1, 0.1)
    one = merge_repeats([hot, made(10.0), died("gone")])
    assert one.validity.status == "failed"
    assert one.samples["1"]["ttft_s"] == [0.1]
    assert one.samples["left_out"][0]["samples"] == hot.samples
    assert Record.model_validate_json(dump_json(one)).samples["left_out"][0]["reasons"] == ["hot"]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_numbers_of_an_invalid_process_make_no_failed_record(order: tuple[int, int]) -> None:
    """Whose numbers are taken for sound."""
    given = (made(99.0, "invalid", ("hot",)), died("gone"))
    record = merge_repeats([given[index] for index in order])
    assert record.validity.status == "invalid"
    assert set(record.validity.reasons[1:]) == {"hot", "gone"}
    assert record.samples["1"]["ttft_s"] == [1 / 99]
    assert "left_out" not in record.samples


def test_what_a_process_had_finished_before_it_failed_counts() -> None:
    part = made(40.0, "failed", ("gone at batch 2",))
    record = merge_repeats([made(10.0), part, died("gone")])
    assert record.values["decode_tokens_per_s[1]"].value == pytest.approx(20)
    assert record.validity.status == "failed"
    assert record.validity.reasons == (
        "2 of 3 processes gave not all numbers, and an interval needs 2 that do",
        "gone at batch 2",
        "gone",
    )
    assert merge_repeats([made(10.0), part, made(40.0)]).validity.status == "flagged"


@pytest.mark.parametrize(("status", "expected"), [("invalid", "invalid"), ("failed", "failed")])
def test_one_process_makes_no_interval_but_what_it_measured_stays(
    status: str, expected: str
) -> None:
    lost = died("hot") if status == "failed" else made(1.0, status, ("hot",))
    record = merge_repeats([made(10.0), lost, lost])
    assert record.validity.status == expected
    assert record.validity.reasons == (
        "2 of 3 processes gave no numbers, and an interval needs 2 that do",
        "hot",
    )
    assert record.values["decode_tokens_per_s[1]"].value == 10.0


@pytest.mark.e2e
def test_a_suite_asks_for_them_and_shows_the_interval(tmp_path: Path) -> None:
    project = Project(tmp_path)
    write_llama(tmp_path / "model")
    measured = FAST_THROUGHPUT.replace("{", "{processes: 2, roofline: false, ")
    project.write(
        "suites/s.yaml",
        "name: s\nreference: fp32\nmodels: [{name: m, source: ../model}]\n"
        f"precisions: [fp32, bf16]\nmeasure:\n  {measured}\n"
        'limits: [{metric: "throughput.decode_tokens_per_s[1]", min: 1e9}]\n',
    )
    # Of a busy machine the limit is open, not broken.
    outcome = project.run("-v", "--on-inconclusive", "fail")
    assert outcome.code == 1, outcome.text
    assert "(95 % interval " in outcome.text
    records = find_records(project.last_run("s"))
    for cell in ("m[fp32]", "m[bf16]"):
        assert records[f"{cell}::throughput"].samples["1"]["rounds_per_process"] == [3, 3]
