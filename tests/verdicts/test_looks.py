"""looks: processes that were judged again and again have bounds that allow for it."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scipy import stats

from harness.metrics.speed_ratios import compare
from harness.metrics.speed_repeats import merge_speeds
from harness.records.record import Looks, Measured, Record, Value, Verdict
from harness.statistics.repeated_looks import level_at_last_look
from harness.suite.models import Limit
from harness.verdicts.baseline import Baseline
from harness.verdicts.bless import bless
from harness.verdicts.compare import compare_runs
from harness.verdicts.limits import judge_limits
from harness.verdicts.looks import most_processes, suppose_many
from harness.verdicts.threshold_verdicts import judge_thresholds
from harness.verdicts.thresholds import Blessed, Threshold, Thresholds
from tests.support.records import make_record, make_run

SPEED = "decode_tokens_per_s[1]"
LOOKS = Looks(at=(3, 4, 5), most=16)


def timed(*speeds: float, precision: str = "nf4", **fields: Any) -> Record:
    parts = [
        Measured(values={SPEED: Value(value=x, unit="tokens/s", better="higher")}) for x in speeds
    ]
    return make_record("throughput", precision, measured=merge_speeds(parts), **fields)


REFERENCE = timed(100.0, 99.0, 101.0, 100.5, 99.5, precision="fp32")
SLOWER = timed(97.0, 96.0, 98.0, 97.5, 96.5)


def judge(record: Record, value: str, bound: float) -> Verdict:
    metric = f"throughput.{value}"
    limit = Limit.model_validate(
        {"precision": ("nf4",), "model": ("m",), "metric": metric, "min": bound}
    )
    record = record.model_copy(update={"paired": compare(record, REFERENCE)})
    [verdict] = judge_limits([limit], record, REFERENCE, "")
    return verdict


def with_looks(record: Record) -> Record:
    return record.model_copy(update={"looks": LOOKS})


@pytest.mark.parametrize(("value", "df"), [(SPEED, 4), ("decode_speedup[1]", 8)])
def test_bounds_reach_as_far_as_the_error_left_for_this_look_asks(value: str, df: float) -> None:
    """On logarithms, by t with the degrees of freedom of the look."""
    once, looked = (judge(one, value, 0.9).bounds for one in (SLOWER, with_looks(SLOWER)))
    assert once is not None
    assert looked is not None
    centre = math.log(once[0] * once[1]) / 2
    error = level_at_last_look(0.05, (3 / 16, 4 / 16, 5 / 16))
    wider = stats.t.isf(error, df) / stats.t.isf(0.05, df)
    for before, now in zip(once, looked):
        # The spreads of both sides differ a little, so Welch's degrees of freedom are not quite 8.
        assert math.log(now) - centre == pytest.approx(
            wider * (math.log(before) - centre), rel=1e-3
        )


def test_what_one_look_decides_may_be_open_at_the_third_and_the_sentence_says_so() -> None:
    """0.9701 with an upper bound of 0.9787 once and of 0.987 now, beside a limit of 0.98."""
    once, looked = (judge(one, "decode_speedup[1]", 0.98) for one in (SLOWER, with_looks(SLOWER)))
    assert once.verdict == "FAIL"
    assert looked.verdict == "INCONCLUSIVE"
    assert "process 5 of at most 16, bounds that allow for 3 looks" in looked.text
    assert "95 % bounds 0.95" in looked.text
    assert "look" not in once.text


def test_a_value_that_is_no_sample_of_processes_keeps_all_of_the_error() -> None:
    record = make_record("perplexity", "nf4", values={"ppl": Value(value=2.0, stderr=0.1, n=40)})
    limit = Limit.model_validate(
        {"precision": ("nf4",), "model": ("m",), "metric": "perplexity.ppl", "max": 3.0}
    )
    [once], [looked] = (
        judge_limits([limit], one, None, "") for one in (record, with_looks(record))
    )
    assert once == looked


def blessed(n: int, nights: int) -> Thresholds:
    utcs = [f"2026-01-0{night + 1}T00:00:00+00:00" for night in range(nights)]
    one = Threshold(
        value=100.0, unit="tokens/s", better="higher", margin=3.0, spread=0.005, n=n,
        runs=[100.0 + 0.2 * (night - 1) for night in range(nights)],
    )  # fmt: skip
    entry = Blessed(
        commit="c" * 40, run="r", runs=["r"] * nights, utcs=utcs, when="2026", reason="x",
        items=None, facts={}, values={SPEED: one},
    )  # fmt: skip
    return Thresholds(suite="s", device="cpu", cells={"m[nf4]": {"throughput": entry}})


def test_thresholds_are_judged_and_blessed_by_the_processes_that_the_suite_asks_for() -> None:
    first = timed(97.0, 96.0, 98.0)
    looks = LOOKS.model_copy(update={"first": first.values})
    more = SLOWER.model_copy(update={"looks": looks})
    baseline = Baseline("thresholds", blessed(9, 3))
    run = make_run(more).model_copy(update={"environment": {}})
    assert baseline.judge(run, more) == baseline.judge(run, first) != baseline.judge(run, SLOWER)
    thresholds = bless([run], "cpu", None, "reason", "2026-01-01").thresholds
    assert thresholds.cells["m[nf4]"]["throughput"].values[SPEED].n == 3


def test_p_of_a_comparison_is_the_error_over_all_looks() -> None:
    """Of which what is left at the last look is the p-value of a single one."""
    before = REFERENCE.model_copy(update={"cell": SLOWER.cell})
    few = Looks(at=(3, 5), most=16)
    runs = [make_run(one) for one in (before, SLOWER, with_looks(SLOWER))]
    once, looked = (compare_runs(runs[0], run).compared[0] for run in runs[1:])
    assert once.p is not None
    assert looked.p is not None
    assert level_at_last_look(looked.p, LOOKS.fractions) == pytest.approx(once.p, rel=0.02)
    assert looked.p > 2 * once.p
    assert looked.interval == once.interval
    # Of two runs with looks the smaller share counts, on whichever side it is.
    sides = [before.model_copy(update={"looks": few}), with_looks(SLOWER)]
    swapped = [with_looks(before), SLOWER.model_copy(update={"looks": few})]
    for a, b in (sides, swapped):
        assert compare_runs(make_run(a), make_run(b)).compared[0].p == looked.p


def test_very_many_processes_decide_a_limit_but_no_nights() -> None:
    """A limit at 0.972, 0.2 % from the estimate; one blessed night may differ by 2 % and more."""
    value = "decode_speedup[1]"
    assert judge(with_looks(SLOWER), value, 0.972).verdict == "INCONCLUSIVE"
    many = suppose_many(with_looks(SLOWER))
    record = many.model_copy(update={"paired": compare(many, suppose_many(REFERENCE))})
    limit = Limit.model_validate(
        {"precision": ("nf4",), "model": ("m",), "metric": f"throughput.{value}", "min": 0.972}
    )
    [verdict] = judge_limits([limit], record, REFERENCE, "")
    assert verdict.verdict == "FAIL"
    for one in (with_looks(SLOWER), many):
        assert judge_thresholds(blessed(3, 1), {}, one)[0].verdict == "INCONCLUSIVE"
    assert many.values[SPEED].value == pytest.approx(SLOWER.values[SPEED].value)


def test_a_suite_that_asks_for_many_processes_may_double_them() -> None:
    assert [most_processes(n) for n in (1, 3, 8, 12)] == [16, 16, 16, 24]
