"""Limits: both sides of each, what they apply to, and the sentence about them."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest

from harness.catalog import load_measurement
from harness.records.record import Record, Value
from harness.records.values import to_value
from harness.statistics.estimates import clustered_interval
from tests.support.limits import (
    CANDIDATE,
    RATIO,
    REFERENCE,
    exact,
    judge,
    limit,
    perplexity,
)
from tests.support.records import make_record


@pytest.mark.parametrize(
    ("bounds", "outcome"),
    [
        ({"max": RATIO}, "PASS"),
        ({"max": math.nextafter(RATIO, 0)}, "FAIL"),
        ({"max": math.nextafter(RATIO, 2)}, "PASS"),
        ({"min": RATIO}, "PASS"),
        ({"min": math.nextafter(RATIO, 2)}, "FAIL"),
        ({"min": math.nextafter(RATIO, 0)}, "PASS"),
        ({"min": RATIO, "max": RATIO}, "PASS"),
        ({"min": 1.0, "max": 1.2}, "FAIL"),
        ({"min": 1.3, "max": 1.4}, "FAIL"),
    ],
)
def test_a_limit_holds_at_its_bound_and_not_one_ulp_beyond(
    bounds: dict[str, float], outcome: str
) -> None:
    """Judged unrounded: what reads the same to six digits is not the same."""
    [verdict] = judge(CANDIDATE, REFERENCE, limit("perplexity.ratio", **bounds))
    assert verdict.verdict == outcome
    assert verdict.value == RATIO


def test_the_text_says_value_bound_both_sides_and_the_line_of_the_suite() -> None:
    [verdict] = judge(CANDIDATE, REFERENCE, limit("perplexity.ratio", max=1.1))
    assert verdict.text == (
        "m[nf4]: perplexity.ratio is 1.284, the limit is max 1.1; ppl 3.49, reference fp32 2.718 "
        "(s.yaml:9:5)."
    )
    assert (verdict.metric, verdict.bound) == ("perplexity.ratio", "max 1.1")


def test_the_text_shows_the_digits_that_decided() -> None:
    record = make_record("perplexity", "nf4", values={"nll": exact(1.10000001)})
    [verdict] = judge(record, None, limit("perplexity.nll", max=1.1))
    assert "perplexity.nll is 1.10000001, the limit is max 1.1" in verdict.text
    record = make_record("footprint", "nf4", values={"total_bytes": Value(value=12345679)})
    [verdict] = judge(record, None, limit("footprint.total_bytes", max=12345678))
    assert verdict.verdict == "FAIL"
    assert "total_bytes is 12,345,679, the limit is max 12345678" in verdict.text


def test_a_unit_stands_with_its_number() -> None:
    value = exact(20.0, unit="tokens/s")
    record = make_record("throughput", "nf4", values={"decode_tokens_per_s[1]": value})
    [verdict] = judge(record, None, limit("throughput.decode_tokens_per_s[1]", min=10.0))
    assert "is 20 tokens/s, the limit is min 10" in verdict.text


@pytest.mark.parametrize(
    ("metric", "outcomes"),
    [
        ("throughput.tpot_s[1]", {"throughput.tpot_s[1]": "PASS"}),
        ("throughput.tpot_s[8]", {"throughput.tpot_s[8]": "FAIL"}),
        (
            "throughput.tpot_s",
            {"throughput.tpot_s[1]": "PASS", "throughput.tpot_s[8]": "FAIL"},
        ),
        ("throughput.tpot_s[4]", {"throughput.tpot_s[4]": "INCONCLUSIVE"}),
        (
            "throughput.decode_speedup",
            {"throughput.decode_speedup[1]": "PASS", "throughput.decode_speedup[8]": "PASS"},
        ),
    ],
)
def test_a_limit_without_qualifier_bounds_every_batch_size(
    metric: str, outcomes: dict[str, str]
) -> None:
    def record(precision: str, decode: float) -> Record:
        values = {"tpot_s[1]": exact(0.1), "tpot_s[8]": exact(0.3)}
        values |= {f"decode_tokens_per_s[{b}]": sampled(decode) for b in (1, 8)}
        return make_record("throughput", precision, values=values)

    verdicts = judge(record("nf4", 5.0), record("fp32", 50.0), limit(metric, max=0.2))
    assert {v.metric: v.verdict for v in verdicts} == outcomes


def test_a_limit_on_a_total_does_not_bound_its_parts() -> None:
    values = {"acc": exact(0.5), "acc[anatomy]": exact(0.1)}
    record = make_record("mmlu", "nf4", values=values)
    [verdict] = judge(record, None, limit("mmlu.acc", min=0.3))
    assert (verdict.metric, verdict.verdict) == ("mmlu.acc", "PASS")
    [verdict] = judge(record, None, limit("mmlu.acc[anatomy]", min=0.3))
    assert (verdict.metric, verdict.verdict) == ("mmlu.acc[anatomy]", "FAIL")


def sampled(speed: float, stderr: float = 0.01, n: int = 3) -> Value:
    """A speed of ``n`` processes; ``stderr`` is relative."""
    return Value(value=speed, stderr=speed * stderr, n=n)


def test_a_limit_applies_to_its_own_models_precisions_and_measurement() -> None:
    bound = limit("perplexity.nll", max=0.1)
    assert len(judge(CANDIDATE, REFERENCE, bound, bound)) == 2
    for record in (
        perplexity("fp32", 1.0),
        perplexity("nf4", 1.0, model="other"),
        make_record("mmlu", "nf4", values={"nll": 1.0}),
    ):
        assert judge(record, REFERENCE, bound) == ()


def test_an_invalid_record_breaks_the_limit_that_says_why() -> None:
    record = make_record(
        "perplexity", "nf4", values={"ppl": None, "nonfinite_tokens": 3}, status="invalid"
    )
    [verdict] = judge(record, REFERENCE, limit("perplexity.nonfinite_tokens", max=0.0))
    assert verdict.verdict == "FAIL"


def test_a_catastrophic_ratio_fails_however_large() -> None:
    # exp of the mean overflows
    items = {"chunk_nll": [2000.0] * 12, "chunk_tokens": [2] * 12}
    record = perplexity("nf4", 1.0, items=items)
    [verdict] = judge(record, REFERENCE, limit("perplexity.ratio", max=1.1))
    assert verdict.verdict == "FAIL"


def test_a_broken_speed_limit_shows_both_speeds_at_its_batch_size() -> None:
    values = {
        "prefill_tokens_per_s[1]": 200.0,
        "decode_tokens_per_s[1]": 50.0,
        "decode_tokens_per_s[8]": 10.0,
    }
    ours, theirs = (
        make_record("throughput", p, values={name: sampled(v) for name, v in speeds.items()})
        for p, speeds in (("nf4", values), ("fp32", dict.fromkeys(values, 100.0)))
    )
    [verdict] = judge(ours, theirs, limit("throughput.decode_speedup[8]", min=0.5))
    assert verdict.verdict == "FAIL"
    assert "; decode_tokens_per_s[8] 10, reference fp32 100;" in verdict.text


def test_an_unavailable_value_is_inconclusive() -> None:
    record = make_record("memory", "nf4", values={"generate_peak_bytes": None}, status="flagged")
    [verdict] = judge(record, None, limit("memory.generate_peak_bytes", max=9.0))
    assert verdict.verdict == "INCONCLUSIVE"
    assert verdict.text.endswith("against max 9: generate_peak_bytes is unavailable")


# Three values: the interval decides, not the number alone.


def paired_items(lost: int, won: int, n: int) -> tuple[Record, Record]:
    """A candidate and a reference whose n answers differ so, half of the others right."""
    same = "10" * ((n - lost - won) // 2) + "1" * ((n - lost - won) % 2)
    return tuple(  # type: ignore[return-value]
        make_record("mmlu", p, items={"right": right})
        for p, right in (
            ("nf4", "0" * lost + "1" * won + same),
            ("fp32", "1" * lost + "0" * won + same),
        )
    )


@pytest.mark.parametrize(
    ("lost", "won", "n", "max_drop", "outcome"),
    [
        (5, 5, 2000, 0.02, "PASS"),  # surely less than the limit
        (60, 5, 2000, 0.02, "FAIL"),  # a drop of 0.0275, surely a drop
        (45, 5, 2000, 0.02, "INCONCLUSIVE"),  # a drop of 0.02, which is no more than the limit
        (3, 1, 50, 0.02, "INCONCLUSIVE"),  # 0.04, and perhaps nothing
        (0, 0, 50, 0.02, "INCONCLUSIVE"),  # nothing flipped, of too few items
        (0, 0, 500, 0.02, "PASS"),
    ],
)
def test_a_drop_passes_fails_or_is_left_open(
    lost: int, won: int, n: int, max_drop: float, outcome: str
) -> None:
    ours, theirs = paired_items(lost, won, n)
    [verdict] = judge(ours, theirs, limit("mmlu.accuracy_drop", max=max_drop))
    assert verdict.verdict == outcome, verdict.text
    lower, upper = verdict.bounds or (0, 0)
    assert lower < (lost - won) / n < upper


def test_an_open_limit_says_how_many_items_would_decide_and_what_would_be_seen() -> None:
    """50 items, none flipped: z²/(n + z²) < 0.02 from 133 on; by the square root 320 at most."""
    ours, theirs = paired_items(0, 0, 50)
    [verdict] = judge(ours, theirs, limit("mmlu.accuracy_drop", max=0.02))
    assert "50 items do not decide it" in verdict.text
    assert re.search(r"about \d+ would", verdict.text)
    assert verdict.smallest_detectable is not None
    assert verdict.smallest_detectable > 0.02


def test_the_number_of_items_that_is_named_does_decide() -> None:
    ours, theirs = paired_items(12, 6, 600)  # a drop of 1 %
    [verdict] = judge(ours, theirs, limit("mmlu.accuracy_drop", max=0.015))
    assert verdict.verdict == "INCONCLUSIVE"
    [enough] = re.findall(r"about ([\d,]+) would", verdict.text)
    times = -(-int(enough.replace(",", "")) // 600)
    ours, theirs = paired_items(12 * times, 6 * times, 600 * times)
    assert judge(ours, theirs, limit("mmlu.accuracy_drop", max=0.015))[0].verdict == "PASS"


def test_one_process_decides_no_limit_on_a_speed() -> None:
    ours, theirs = (
        make_record("throughput", p, values={"decode_tokens_per_s[1]": Value(value=v, n=10)})
        for p, v in (("nf4", 10.0), ("fp32", 100.0))
    )
    for metric in ("throughput.decode_speedup[1]", "throughput.decode_tokens_per_s[1]"):
        [verdict] = judge(ours, theirs, limit(metric, min=0.5))
        assert verdict.verdict == "INCONCLUSIVE"
        assert "measure in 3 or more" in verdict.text


@pytest.mark.parametrize(
    ("spread", "outcome"), [(0.001, "PASS"), (0.05, "INCONCLUSIVE"), (0.01, "PASS")]
)
def test_the_spread_between_processes_decides(spread: float, outcome: str) -> None:
    """0.9 of the reference, 0.85 allowed: sure at 1 % a side, open at 5 %."""
    ours, theirs = (
        make_record("throughput", p, values={"decode_tokens_per_s[1]": sampled(v, spread)})
        for p, v in (("nf4", 90.0), ("fp32", 100.0))
    )
    [verdict] = judge(ours, theirs, limit("throughput.decode_speedup[1]", min=0.85))
    assert verdict.verdict == outcome


def test_a_demanded_gain_must_be_shown() -> None:
    """A limit beyond equality: twice as fast, or it is no pass."""

    def verdict(speed: float) -> str:
        ours, theirs = (
            make_record("throughput", p, values={"decode_tokens_per_s[1]": sampled(v)})
            for p, v in (("nf4", speed), ("fp32", 100.0))
        )
        return judge(ours, theirs, limit("throughput.decode_speedup[1]", min=2.0))[0].verdict

    assert [verdict(v) for v in (150.0, 195.0, 205.0, 250.0)] == [
        "FAIL",
        "INCONCLUSIVE",
        "INCONCLUSIVE",
        "PASS",
    ]


@pytest.mark.parametrize(("limits", "outcome"), [(1, "FAIL"), (10, "INCONCLUSIVE")])
def test_a_mean_just_beyond_its_limit_is_no_sure_break_among_many_limits(
    limits: int, outcome: str
) -> None:
    """It is surely not zero, which says nothing about the limit: beyond it at p = 0.03."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 1, 400)
    sums = noise - noise.mean() - 1.0 - 1.88 * noise.std(ddof=1) / 20
    spec = load_measurement("mmlu").values["answer_logprob"]
    value = to_value(spec, clustered_interval(sums.tolist(), [1] * 400))
    assert value.p is not None
    assert value.p < 1e-40
    record = make_record("mmlu", "nf4", values={"answer_logprob": value})
    many = [limit("mmlu.answer_logprob", min=-1.0 - i) for i in range(limits)]
    verdict = judge(record, None, *many)[0]
    assert verdict.verdict == outcome, verdict.text
    assert ("among this many limits" in verdict.text) is (limits > 1)


@pytest.mark.parametrize("spread", [0.01, 0.5])
def test_no_harm_is_seen_where_a_speedup_cannot_be(spread: float) -> None:
    """Below a minimum lies the harm, and below 0 nothing."""
    ours, theirs = (
        make_record("throughput", p, values={"decode_tokens_per_s[1]": sampled(v, spread)})
        for p, v in (("nf4", 90.0), ("fp32", 100.0))
    )
    [verdict] = judge(ours, theirs, limit("throughput.decode_speedup[1]", min=0.5))
    if spread == 0.5:
        assert verdict.smallest_detectable is None
        assert "harm is seen" not in verdict.text
    else:
        assert verdict.smallest_detectable is not None
        assert 0 < verdict.smallest_detectable < 0.5
        assert "harm is seen in 4 of 5 runs at or below 0.4" in verdict.text
