"""Several processes as one measurement: the process is the sample."""

from __future__ import annotations

import math
from statistics import fmean, stdev

import pytest

from harness.metrics.speed_repeats import merge_speeds
from harness.metrics.throughput import list_series
from harness.records.record import Measured, Validity, Value
from harness.records.values import processes_of
from harness.statistics.estimates import Processes
from tests.support.records import make_record


def process(
    decode: float | None, rounds: int = 3, flags: tuple[str, ...] = (), energy: float = 0.0
) -> Measured:
    """One process with ``decode`` tokens/s at batch 1."""
    values = {
        "prefill_tokens_per_s[1]": Value(value=7.0, unit="tokens/s", better="higher", n=rounds),
        "decode_tokens_per_s[1]": Value(value=decode, unit="tokens/s", better="higher", n=rounds),
        "step_bytes[1]": Value(value=1000, unit="bytes", better="lower"),
        "energy_j_per_token[1]": Value(value=None, unit="J", better="lower"),
        "energy_j_per_token[8]": Value(value=energy, unit="J", better="lower"),
    }
    times = [(decode or 1) + n for n in range(rounds)]
    workload = {"batch_size": 1, "prompt_tokens": 8, "ttft_s": times, "decode_s": times}
    return Measured(
        values=values,
        protocol={"new_tokens": 4},
        samples={"1": {**workload, "itl_s": [[t] * 3 for t in times]}},
        validity=Validity(status="flagged" if flags else "ok", reasons=flags),
    )


def test_a_speed_is_the_geometric_mean_with_its_interval_over_processes() -> None:
    speeds = [10.0, 12.0, 11.0]
    value = merge_speeds([process(s) for s in speeds]).values["decode_tokens_per_s[1]"]
    logs = [math.log(speed) for speed in speeds]
    reach = 4.302652729911275 * stdev(logs) / math.sqrt(3)  # t of 2 degrees of freedom, 97.5 %
    assert value.value == pytest.approx(math.exp(fmean(logs)))
    assert value.interval == (
        pytest.approx(math.exp(fmean(logs) - reach)),
        pytest.approx(math.exp(fmean(logs) + reach)),
    )
    assert value.n == 3  # processes, however many rounds each had
    assert (value.unit, value.better) == ("tokens/s", "higher")
    assert value.stderr == pytest.approx(value.value * stdev(logs) / math.sqrt(3))
    assert processes_of(value) == Processes(value.value, pytest.approx(stdev(logs)), 3)


def test_a_value_of_one_process_has_no_spread() -> None:
    value = process(10.0).values["decode_tokens_per_s[1]"]
    assert processes_of(value) == Processes(10.0, None, 1)
    assert processes_of(Value(value=None)) is None


def test_exact_and_missing_values_are_unchanged() -> None:
    values = merge_speeds([process(10.0), process(12.0)]).values
    assert values["step_bytes[1]"].value == 1000
    assert isinstance(values["step_bytes[1]"].value, int)
    assert values["step_bytes[1]"].interval is None
    assert values["energy_j_per_token[1]"].value is None
    assert values["energy_j_per_token[1]"].n is None
    assert values["energy_j_per_token[8]"].value == 0.0


def test_values_with_a_zero_have_a_plain_mean_and_no_interval() -> None:
    values = merge_speeds([process(1.0), process(2.0, energy=3.0)]).values
    assert values["energy_j_per_token[8]"].value == 1.5
    assert values["energy_j_per_token[8]"].interval is None


def test_a_value_that_one_process_lacks_is_that_of_the_others() -> None:
    merged = merge_speeds([process(None), process(12.0), process(3.0)])
    value = merged.values["decode_tokens_per_s[1]"]
    assert value.value == pytest.approx(6.0)
    assert value.n == 2


def test_every_round_is_kept_with_its_process() -> None:
    merged = merge_speeds([process(10.0, rounds=3), process(20.0, rounds=4)])
    samples = merged.samples["1"]
    assert samples["ttft_s"] == samples["decode_s"] == [10, 11, 12, 20, 21, 22, 23]
    assert len(samples["itl_s"]) == 7
    assert samples["rounds_per_process"] == [3, 4]
    assert (samples["batch_size"], samples["prompt_tokens"]) == (1, 8)


def test_a_batch_that_one_process_could_not_run_has_no_rounds_of_it() -> None:
    full = process(10.0).model_copy(update={"samples": {}, "values": {}})
    merged = merge_speeds([full, process(20.0)])
    assert merged.samples["1"]["rounds_per_process"] == [0, 3]
    assert merged.values["decode_tokens_per_s[1]"].n == 1


def test_flags_are_joined() -> None:
    merged = merge_speeds([process(10.0, flags=("a", "b")), process(12.0, flags=("b", "c"))])
    assert (merged.validity.status, merged.validity.reasons) == ("flagged", ("a", "b", "c"))


def test_pytest_benchmark_is_given_the_rounds_of_all_processes() -> None:
    merged = merge_speeds([process(10.0, rounds=3), process(20.0, rounds=4)])
    prefill, decode = list_series(make_record("throughput", "nf4", measured=merged))
    assert prefill.name == "m[nf4]::prefill[1]"
    assert decode.seconds == (10, 11, 12, 20, 21, 22, 23)
    assert decode.extra["tokens"] == 3
