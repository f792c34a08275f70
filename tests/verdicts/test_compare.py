"""compare: what got worse, what is the same, what is undecided, and what may not be compared."""

from __future__ import annotations

import copy
import json
import math
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from harness.records.record import Record, Verdict
from harness.records.run_file import Run
from harness.report.comparison import dump_comparison, show_comparison
from harness.report.markdown import write_markdown
from harness.report.terminal import write_terminal
from harness.verdicts.baseline import Baseline
from harness.verdicts.compare import Comparison, compare_runs, count_tested
from tests.support.records import (
    ENVIRONMENT,
    make_choices,
    make_peaks,
    make_perplexity,
    make_record,
    make_run,
    make_speeds,
)


def compare(a: Record, b: Record, **given: Any) -> Comparison:
    return compare_runs(make_run(a), make_run(b), **given)


def verdicts(comparison: Comparison) -> dict[str, str]:
    return {f"{one.measurement}.{one.value}": one.verdict for one in comparison.compared}


def test_the_same_items_are_identical_without_any_statistics() -> None:
    found = compare(make_choices(3, 2), make_choices(3, 2))
    assert verdicts(found) == {"mmlu.acc": "IDENTICAL"}
    assert found.verdict == "PASS"
    again = compare(make_perplexity(150.0, 160.0, 170.0), make_perplexity(150.0, 160.0, 170.0))
    assert verdicts(again) == {"perplexity.ppl": "IDENTICAL"}


@pytest.mark.parametrize(
    ("lost", "won", "n", "outcome"),
    [
        (60, 10, 2000, "FAIL"),  # 2.5 points, of which one is allowed
        (10, 60, 2000, "PASS"),
        (5, 5, 4000, "PASS"),
        (12, 8, 400, "INCONCLUSIVE"),  # exactly the margin
        (9, 1, 400, "FAIL"),
        (4, 1, 200, "INCONCLUSIVE"),  # 1.5 points, and perhaps chance
    ],
)
def test_an_accuracy_is_judged_item_by_item(lost: int, won: int, n: int, outcome: str) -> None:
    [one] = compare(make_choices(n=n), make_choices(lost, won, n)).compared
    assert one.verdict == outcome
    assert one.change == pytest.approx((lost - won) / n)
    assert (one.margin, one.is_ratio) == (0.01, False)


def test_a_perplexity_is_judged_chunk_by_chunk() -> None:
    rng = np.random.default_rng(0)
    before = rng.normal(150, 40, 60)

    def worse_by(nats: float) -> str:
        after = before + nats * 100 + rng.normal(0, 0.1, 60)
        found = compare(make_perplexity(*before.tolist()), make_perplexity(*after.tolist()))
        return verdicts(found)["perplexity.ppl"]

    assert worse_by(0.001) == "PASS"  # texts differ by 40 nats, the two runs by a tenth
    assert worse_by(0.02) == "FAIL"
    assert worse_by(-0.02) == "PASS"


@pytest.mark.parametrize(
    ("factor", "spread", "outcome"),
    [
        (0.95, 0.01, "FAIL"),
        (1.0, 0.01, "PASS"),
        (1.05, 0.01, "PASS"),
        (0.95, 0.10, "INCONCLUSIVE"),
        (1.0, 0.05, "INCONCLUSIVE"),
        (0.5, None, "INCONCLUSIVE"),  # one process a side
    ],
)
def test_a_speed_is_judged_process_by_process(
    factor: float, spread: float | None, outcome: str
) -> None:
    found = compare(make_speeds(100.0, spread), make_speeds(100.0 * factor, spread))
    assert verdicts(found) == {"throughput.decode_tokens_per_s[1]": outcome}


@pytest.mark.parametrize(
    ("a", "b", "outcome"),
    [
        ((), (), "FAIL"),
        ((), ("other processes used 1.3 of 2 cores",), "INCONCLUSIVE"),
        (("other processes used 1 of 2 cores",),) * 2 + ("INCONCLUSIVE",),
        (("power capped at 500 W in 80 % of samples",),) * 2 + ("FAIL",),
        (("power capped at 500 W",), (), "INCONCLUSIVE"),
    ],
)
def test_a_slowdown_on_a_busy_machine_is_no_regression(
    a: tuple[str, ...], b: tuple[str, ...], outcome: str
) -> None:
    before, after = (
        make_speeds(speed, status="flagged" if why else "ok", reasons=why)
        for speed, why in ((100.0, a), (90.0, b))
    )
    [one] = compare(before, after).compared
    assert one.verdict == outcome
    assert all(why in one.reason for why in b if outcome == "INCONCLUSIVE")


@pytest.mark.parametrize(
    ("a", "b", "outcome"),
    [
        ((), (), "PASS"),
        (("other processes used 1.3 of 2 cores",), (), "INCONCLUSIVE"),
        ((), ("other processes used 1.3 of 2 cores",), "PASS"),  # a free machine is no slower
        (("power capped at 500 W in 80 % of samples",),) * 2 + ("PASS",),
    ],
)
def test_a_flagged_baseline_lets_nothing_pass(
    a: tuple[str, ...], b: tuple[str, ...], outcome: str
) -> None:
    """Its clean speed may be 100 tokens/s, of which 85 would be a regression."""
    before, after = (
        make_speeds(speed, status="flagged" if why else "ok", reasons=why)
        for speed, why in ((80.0, a), (85.0, b))
    )
    [one] = compare(before, after).compared
    assert one.verdict == outcome
    assert one.reason == (f"flagged: {a[0]} (A)" if outcome == "INCONCLUSIVE" else "")
    baseline = Baseline("an earlier run", make_run(before))
    [verdict] = baseline.judge(make_run(after), after)
    assert verdict.verdict == outcome


def test_bytes_are_exact() -> None:
    big = 1 << 30
    for factor, outcome in ((1.019, "PASS"), (1.021, "FAIL"), (0.5, "PASS")):
        found = compare(make_peaks(big), make_peaks(int(big * factor)))
        assert set(verdicts(found).values()) == {outcome}
    small = compare(make_peaks(4 << 20), make_peaks((4 << 20) + (1 << 19)))
    assert set(verdicts(small).values()) == {"PASS"}  # half a megabyte is what allocators keep
    assert set(verdicts(compare(make_peaks(big), make_peaks(big))).values()) == {"IDENTICAL"}


def test_an_improvement_is_named_and_is_a_pass() -> None:
    [one] = compare(make_speeds(100.0), make_speeds(120.0)).compared
    assert (one.verdict, one.improved) == ("PASS", True)
    assert not compare(make_speeds(100.0), make_speeds(101.0)).compared[0].improved


def test_many_comparisons_find_one_by_chance_and_it_is_left_open() -> None:
    """One cell of twenty with p of 1 %: among so many comparisons that is no surprise."""
    alone = (make_choices(n=200), make_choices(11, 2, 200))
    assert compare(*alone).compared[0].verdict == "FAIL"

    def rename(record: Record, number: int) -> Record:
        name = f"m{number}"
        cell = record.cell.model_copy(update={"id": f"{name}[nf4]", "model": name})
        return record.model_copy(update={"cell": cell})

    quiet = (make_choices(n=200), make_choices(3, 3, 200))
    sides = [[rename(pair[i], k) for k, pair in enumerate([alone] + [quiet] * 19)] for i in (0, 1)]
    found = compare_runs(make_run(*sides[0]), make_run(*sides[1]))
    first = found.compared[0]
    assert first.verdict == "INCONCLUSIVE"
    assert "among this many comparisons" in first.reason
    assert first.p is not None
    assert first.q is not None
    assert first.p < 0.02
    assert first.q > 0.05


def test_speeds_and_other_values_are_families_of_their_own() -> None:
    """A lost accuracy is one of two, however many speeds are compared beside it; q by hand."""
    speeds = [f"decode_tokens_per_s[{i}]" for i in range(1, 19)]

    def measure(lost: int, slower: float) -> list[Record]:
        same = make_speeds(100.0).values["decode_tokens_per_s[1]"]
        changed = make_speeds(slower).values["decode_tokens_per_s[1]"]
        values = dict.fromkeys(speeds, same) | {speeds[0]: changed}
        return [
            make_choices(lost, 2 if lost else 0, 200),
            make_perplexity(*(150.0 + (lost and i % 3 - 1) for i in range(12))),
            make_record("throughput", values=values),
        ]

    found = compare_runs(make_run(*measure(0, 100.0)), make_run(*measure(11, 97.0))).compared
    quality = [one for one in found if one.measurement != "throughput"]
    timed = [one for one in found if one.measurement == "throughput"]
    assert len(timed) == len(speeds)
    for family in (quality, timed):
        ps = [one.p for one in family if one.p is not None]
        lowest = min(family, key=lambda one: one.p or 1.0)
        assert lowest.q == pytest.approx(min(1.0, min(ps) * len(ps)))
    assert quality[0].verdict == "FAIL"  # q = 2·p; one of twenty it would be left open
    assert 2 * (quality[0].p or 1.0) < 0.02 < 20 * (quality[0].p or 0.0)


def test_a_single_comparison_that_chance_explains_is_not_blamed_on_many() -> None:
    [one] = compare(make_choices(n=200), make_choices(6, 1, 200)).compared
    assert one.verdict == "INCONCLUSIVE"
    assert one.reason == "equal runs differ this much by chance (p = 0.035)"


def test_a_record_judged_by_a_run_is_one_of_as_many_as_the_run_has() -> None:
    """2 points fewer at p = 0.006: one value among ten may show as much by chance."""

    def judge(values: int) -> Verdict:
        cell = make_record("mmlu", "nf4").cell
        cells = [cell.model_copy(update={"id": f"m{i}[nf4]"}) for i in range(values)]
        alike = [make_choices(n=400).model_copy(update={"cell": one}) for one in cells]
        now = make_choices(9, 1, 400).model_copy(update={"cell": cells[0]})
        [verdict] = Baseline("an earlier run", make_run(*alike)).judge(make_run(now), now)
        return verdict

    few, many = judge(1), judge(10)
    assert (few.verdict, many.verdict) == ("FAIL", "INCONCLUSIVE")
    assert "equal runs differ this much by chance" in many.text
    assert few.smallest_detectable is not None
    assert many.smallest_detectable is not None
    assert few.smallest_detectable < many.smallest_detectable


def test_only_what_could_fail_by_chance_is_counted() -> None:
    noise, failed = make_choices(noise=True), make_choices(status="failed")
    run = make_run(make_choices(), make_perplexity(1.0, 2.0), make_speeds(9.0))
    assert (count_tested(run, speeds=False), count_tested(run, speeds=True)) == (2, 1)
    nothing = make_run(noise, failed, make_record("unheard_of"), make_peaks(1))
    assert count_tested(nothing, speeds=False) == count_tested(nothing, speeds=True) == 0


def test_the_named_number_of_items_does_decide() -> None:
    """Also where nothing was won: the bound that the test holds at 0 is not what must move."""
    [one] = compare(make_choices(n=100), make_choices(3, 0, 100)).compared
    assert one.verdict == "INCONCLUSIVE"
    [enough] = re.findall(r"about ([\d,]+) would, in 4 of 5 runs, if it is as", one.reason)
    times = -(-int(enough.replace(",", "")) // 100)
    assert 1 < times < 10
    again = compare(make_choices(n=100 * times), make_choices(3 * times, 0, 100 * times))
    assert again.compared[0].verdict == "FAIL"


def test_undecided_says_what_would_decide() -> None:
    [one] = compare(make_choices(n=200), make_choices(4, 1, 200)).compared
    assert re.search(r"200 items do not decide it; about [\d,]+ would, in 4 of 5", one.reason)
    assert one.smallest_detectable is not None
    assert one.smallest_detectable > 0.01
    shown = show_comparison("a", "b", compare(make_choices(n=200), make_choices(4, 1, 200)))
    assert f"; to decide: {one.enough:,} items of mmlu, more than its data has" in write_terminal(
        shown, 250
    )


def test_runs_of_two_nights_have_to_differ_by_more_than_nights_do() -> None:
    """5 % with a spread of 0.5 %: clear within a night, and perhaps the night otherwise."""
    before, after = make_speeds(100.0, 0.005, 6), make_speeds(95.0, 0.005, 6)
    found = []
    for utc in ("2026-01-01T08:00:00+00:00", "2026-01-02T00:00:00+00:00"):
        [one] = compare_runs(make_run(before), make_run(after, utc=utc, id="s/2")).compared
        found.append(one)
    assert [one.verdict for one in found] == ["FAIL", "INCONCLUSIVE"]
    assert "measure both in one night, in turn" in found[1].reason
    within, apart = (one.interval or (0.0, 0.0) for one in found)
    for near, far in zip(within, apart, strict=True):  # 1.96 standard deviations of two nights
        reach = math.hypot(near - 0.95, 1.959963985 * 0.02 * math.sqrt(2))
        assert abs(far - 0.95) == pytest.approx(reach)
    later = make_run(before, utc="2026-01-02T00:00:00+00:00", id="s/4")
    [same] = compare_runs(make_run(before), later).compared
    assert (same.verdict, same.enough) == ("INCONCLUSIVE", None)  # 3 % slower might look like it
    assert "measure both in one night, in turn" in same.reason
    slow = make_run(make_speeds(85.0, 0.005, 6), utc="2026-01-02T00:00:00+00:00", id="s/3")
    assert compare_runs(make_run(before), slow).compared[0].verdict == "FAIL"


# What only one run has


def test_what_b_lost_fails_and_what_it_skipped_is_open() -> None:
    failed = make_speeds(1.0, status="failed", reasons=("out of memory",))
    found = compare(make_speeds(100.0), failed)
    assert found.verdict == "FAIL"
    assert found.missing[0].reason == "failed in B: out of memory"
    skipped = compare_runs(
        make_run(make_speeds(100.0), make_choices()),
        make_run(make_speeds(1.0, status="skipped", reasons=("no GPU",)), make_choices()),
    )
    assert skipped.verdict == "INCONCLUSIVE"
    assert skipped.missing[0].verdict == "INCONCLUSIVE"


def test_what_one_run_alone_has_is_named() -> None:
    found = compare_runs(
        make_run(make_speeds(100.0), make_choices()), make_run(make_choices(), make_peaks(9))
    )
    assert [(m.measurement, m.side, m.reason) for m in found.missing] == [
        ("throughput", "B", "not in B"),
        ("memory", "A", "not in A"),
    ]
    assert found.verdict == "INCONCLUSIVE"
    text = write_terminal(show_comparison("a", "b", found))
    assert text.splitlines()[-1] == "INCONCLUSIVE: 1 IDENTICAL, 2 missing"


def test_a_batch_that_no_longer_fits_fails() -> None:
    before, after = make_speeds(100.0), make_speeds(100.0)
    lost = {**before.values, "decode_tokens_per_s[64]": before.values["decode_tokens_per_s[1]"]}
    found = compare(before.model_copy(update={"values": lost}), after)
    assert found.verdict == "FAIL"
    assert "decode_tokens_per_s[64] is unavailable in B" in found.missing[0].reason


# What may not be compared


def with_cell(**facts: Any) -> Callable[[Run], Run]:
    def change(run: Run) -> Run:
        records = tuple(
            r.model_copy(update={"cell": r.cell.model_copy(update=facts)}) for r in run.records
        )
        return run.model_copy(update={"records": records})

    return change


def with_record(**fields: Any) -> Callable[[Run], Run]:
    def change(run: Run) -> Run:
        records = tuple(r.model_copy(update=fields) for r in run.records)
        return run.model_copy(update={"records": records})

    return change


def with_environment(group: str, name: str, value: Any) -> Callable[[Run], Run]:
    def change(run: Run) -> Run:
        environment = copy.deepcopy(run.environment)
        environment[group][name] = value
        return run.model_copy(update={"environment": environment})

    return change


QUESTIONS = {
    "tokenizer": (make_choices(), with_cell(tokenizer_sha256="other")),
    "protocol.shots": (make_choices(), with_record(protocol={"shots": 0})),
    "protocol.context": (make_perplexity(150.0, 151.0), with_record(protocol={"context": 64})),
    "cpu.name": (make_speeds(9.0), with_environment("cpu", "name", "EPYC")),
    "threads": (make_speeds(9.0), with_environment("torch", "threads", 1)),
    "protocol.allocator": (make_peaks(9), with_record(protocol={"allocator": "jemalloc"})),
    "items": (make_choices(), with_record(items={"right": "101", "chosen": "ABA"})),
}


@pytest.mark.parametrize("field", QUESTIONS)
def test_another_question_is_refused_by_the_name_of_its_field(field: str) -> None:
    record, change = QUESTIONS[field]
    before = make_run(record)
    found = compare_runs(before, change(before))
    assert found.verdict == "INCOMPARABLE"
    assert [d.field for d in found.refused[0].differences] == [field]
    assert found.compared == ()


@pytest.mark.parametrize("field", [f for f in QUESTIONS if f != "items"])
def test_an_allowed_difference_is_a_flag(field: str) -> None:
    record, change = QUESTIONS[field]
    before = make_run(record)
    for allow in (field, field.partition(".")[0]):
        found = compare_runs(before, change(before), allow=[allow])
        assert found.refused == ()
        assert found.compared
        assert [flag.partition(" ")[0] for flag in found.flags] == [field]


def test_what_is_refused_is_shown_all_the_same() -> None:
    before = make_run(make_choices())
    after = make_run(make_choices(lost=100, protocol={"shots": 0}))
    text = write_terminal(show_comparison("a", "b", compare_runs(before, after)), 200)
    assert (
        "m[nf4] mmlu is incomparable with A: protocol.shots (5 → 0); acc was 0.5, is 0.4 " in text
    )
    assert "(-20.00 %); --allow protocol.shots compares all the same" in text


CODED = {"declared": {"double_quant": False}, "attested": {"attention": "sdpa", "tf32": False}}
SUSPECTS = {
    "weights": with_cell(weights_sha256="b" * 64),
    "device cpu → cuda": with_cell(device="cuda:0"),
    "precision.double_quant False → True": with_cell(declared={"double_quant": True}),
    "attention sdpa → eager": with_cell(attested={"attention": "eager", "tf32": False}),
    "tf32 False → True": with_cell(attested={"attention": "sdpa", "tf32": True}),
    "torch 2.13.0 → 2.14.0": with_environment("libraries", "torch", "2.14.0"),
    "bitsandbytes 0.50.2 → 1": with_environment("libraries", "bitsandbytes", "1"),
    "harness": with_environment("harness", "sources_sha256", "2" * 64),
}


@pytest.mark.parametrize("suspect", SUSPECTS)
@pytest.mark.parametrize(("lost", "verdict"), [(0, "IDENTICAL"), (60, "FAIL")])
def test_what_is_under_test_is_judged_and_named(suspect: str, lost: int, verdict: str) -> None:
    """A guard that goes quiet when something changed is no guard."""
    environment = {**ENVIRONMENT, "harness": {"sources_sha256": "1" * 64}}
    sides = [
        with_cell(weights_sha256="a" * 64, **CODED)(make_run(record, environment=environment))
        for record in (make_choices(n=2000), make_choices(lost, 0, 2000))
    ]
    found = compare_runs(sides[0], SUSPECTS[suspect](sides[1]))
    [one] = found.compared
    assert (one.verdict, one.suspects) == (verdict, f"; since A: {suspect}")
    text = write_terminal(show_comparison("a", "b", found), 200)
    assert (f"m[nf4] mmlu.acc FAIL: since A: {suspect}" in text) == (verdict == "FAIL")


def test_what_one_side_did_not_record_is_no_suspect() -> None:
    before = make_run(make_choices())
    [one] = compare_runs(before, with_cell(attested={"attention": "sdpa"})(before)).compared
    assert one.suspects == ""


def test_weights_of_the_reference_are_under_test_its_precision_is_not() -> None:
    def diverge(weights: str, precision: str) -> Run:
        facts = {"precision": precision, "weights_sha256": weights}
        items = {"chunk_kl": [1.0, 2.0], "chunk_tokens": [9, 9]}
        values = {"kl_mean": 0.1}
        protocol = {"reference": facts}
        return make_run(make_record("divergence", values=values, items=items, protocol=protocol))

    before = diverge("a", "fp32")
    assert compare_runs(before, diverge("b", "fp32")).compared[0].verdict == "IDENTICAL"
    [refused] = compare_runs(before, diverge("a", "bf16")).refused
    assert [d.field for d in refused.differences] == ["protocol.reference"]


GPU = {
    **ENVIRONMENT,
    "gpu": {
        "driver": "560",
        "devices": [{"name": "H200", "power_limit_w": 700.0, "max_sm_mhz": 1980, "mig": False}],
    },
}


def on_other_gpu(record: Record, name: str, value: Any) -> Comparison:
    """The first record of a run on ``GPU``, ``record`` where one of its facts is another."""
    other = copy.deepcopy(GPU)
    place = other["gpu"] if name in other["gpu"] else other["gpu"]["devices"][0]
    place[name] = value  # type: ignore[index]
    first = make_speeds(100.0) if record.measurement == "throughput" else make_choices()
    sides = (make_run(first, environment=GPU), make_run(record, environment=other))
    return compare_runs(*map(with_cell(device="cuda:0"), sides))


@pytest.mark.parametrize(("name", "value"), [("name", "H100"), ("mig", True)])
def test_speeds_of_other_boards_are_refused(name: str, value: Any) -> None:
    found = on_other_gpu(make_speeds(100.0), name, value)
    assert [d.field for d in found.refused[0].differences] == [f"gpu.{name}"]
    assert on_other_gpu(make_choices(), name, value).verdict == "PASS"


@pytest.mark.parametrize(("name", "value"), [("power_limit_w", 500.0), ("max_sm_mhz", 1200)])
def test_speeds_under_other_conditions_are_flagged_and_no_regression(name: str, value: Any) -> None:
    found = on_other_gpu(make_speeds(80.0), name, value)
    assert found.compared[0].verdict == "INCONCLUSIVE"
    assert f"flagged: gpu.{name} (" in found.compared[0].reason
    assert [flag.partition(" ")[0] for flag in found.flags] == [f"gpu.{name}"]
    assert on_other_gpu(make_speeds(100.0), name, value).compared[0].verdict == "PASS"


def test_another_driver_is_a_suspect() -> None:
    [one] = on_other_gpu(make_speeds(80.0), "driver", "570").compared
    assert (one.verdict, one.suspects) == ("FAIL", "; since A: gpu.driver 560 → 570")


def test_equal_answers_are_identical_whatever_their_likelihoods() -> None:
    """Also where too few items could show it by statistics."""
    scores = [[-1.0, -2.0], [-3.0, -1.0]]
    items = {"right": "10", "chosen": "AA", "log_likelihoods": scores}
    near = {**items, "log_likelihoods": [[-1.0001, -2.0], [-3.0, -1.0]]}
    before, after = (make_choices(n=2, items=one) for one in (items, near))
    assert verdicts(compare(before, after)) == {"mmlu.acc": "IDENTICAL"}
    other = make_choices(n=2, items={**items, "chosen": "AB"})
    assert verdicts(compare(before, other)) == {"mmlu.acc": "INCONCLUSIVE"}


# Showing it


def test_the_table_has_the_worst_first_and_counts_what_is_equal() -> None:
    before = make_run(make_choices(n=2000), make_speeds(100.0), make_peaks(1 << 30))
    after = make_run(make_choices(60, 10, 2000), make_speeds(101.0), make_peaks(1 << 30))
    found = ("run 1", "run 2", compare_runs(before, after))
    lines = write_terminal(show_comparison(*found)).splitlines()
    assert lines[:2] == ["A: run 1", "B: run 2"]
    assert lines[4].split()[:3] == ["m[nf4]", "mmlu.acc", "FAIL"]
    assert lines[-1] == "FAIL: 1 FAIL, 5 IDENTICAL, 1 PASS"
    markdown = write_markdown(show_comparison(*found))
    assert "| FAIL |" in markdown
    data = json.loads(json.dumps(dump_comparison(*found, []), allow_nan=False))
    assert data["verdict"] == "FAIL"
    assert {one["verdict"] for one in data["compared"]} == {"FAIL", "IDENTICAL", "PASS"}


def test_nothing_in_common_is_incomparable() -> None:
    found = compare_runs(make_run(make_choices()), make_run(make_record("mmlu", "bf16")))
    assert found.verdict == "INCOMPARABLE"
