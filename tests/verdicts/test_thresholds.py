"""thresholds: what later runs are judged by, and the file that they are in."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from harness.cli.schema import format_schema, locate_schema
from harness.errors import InputError
from harness.metrics.perplexity import METRIC as PERPLEXITY
from harness.records.record import Record, Value, Verdict
from harness.records.run_file import Run
from harness.statistics.shares import paired_difference
from harness.verdicts.bless import bless
from harness.verdicts.threshold_verdicts import judge_thresholds, propose_tighter
from harness.verdicts.thresholds import (
    Thresholds,
    list_unmeasured,
    pack_list,
    pack_row,
    path_of,
    read_thresholds,
    unpack_list,
    unpack_row,
    write_thresholds,
)
from tests.support.records import (
    ENVIRONMENT,
    EVERYTHING,
    make_choices,
    make_peaks,
    make_perplexity,
    make_record,
    make_run,
    make_speeds,
)

DECODE = "decode_tokens_per_s[1]"
EVENING = tuple(f"2026-01-01T{hour}:00:00+00:00" for hour in (20, 21, 22))


def blessed(*runs: Run, previous: Thresholds | None = None) -> Thresholds:
    return bless(runs, "cpu-xeon", previous, "because", "2026-01-02").thresholds


def judge(
    thresholds: Thresholds, *records: Record, environment: Any = ENVIRONMENT
) -> list[Verdict]:
    return [v for r in records for v in judge_thresholds(thresholds, environment, r)]


def outcomes(thresholds: Thresholds, *records: Record) -> dict[str, str]:
    return {v.metric: v.verdict for v in judge(thresholds, *records)}


ALL = {
    "mmlu.acc",
    "perplexity.ppl",
    "throughput.decode_tokens_per_s[1]",
    "memory.load_peak_bytes",
    "memory.weights_bytes",
    "memory.prefill_peak_bytes",
    "memory.generate_peak_bytes",
    "memory.peak_bytes",
}


SPEED = f"throughput.{DECODE}"


def test_a_blessed_run_passes_against_itself_but_for_speeds_of_one_night() -> None:
    thresholds = blessed(make_run(*EVERYTHING))
    found = judge(thresholds, *EVERYTHING)
    assert {v.metric for v in found} == ALL
    assert {v.metric for v in found if v.verdict == "PASS"} == ALL - {SPEED}
    assert {v.metric for v in found if v.verdict == "INCONCLUSIVE"} == {SPEED}
    assert {v.against for v in found} == {"threshold"}
    assert propose_tighter(thresholds, ENVIRONMENT, EVERYTHING) == []


@pytest.mark.parametrize(
    ("worse", "failing"),
    [
        (make_choices(lost=30), {"mmlu.acc"}),
        (make_perplexity(155.0, 165.0, 175.0, 160.0), {"perplexity.ppl"}),
        (make_speeds(90.0), {"throughput.decode_tokens_per_s[1]"}),
        (make_peaks(int(1.1 * (1 << 30))), {m for m in ALL if m.startswith("memory")}),
    ],
    ids=["accuracy", "perplexity", "speed", "memory"],
)
def test_a_worsened_copy_fails_for_exactly_what_got_worse(worse: Record, failing: set[str]) -> None:
    thresholds = blessed(make_run(*EVERYTHING))
    records = [worse if r.measurement == worse.measurement else r for r in EVERYTHING]
    found = outcomes(thresholds, *records)
    assert {metric for metric, verdict in found.items() if verdict == "FAIL"} == failing
    assert {v for m, v in found.items() if m not in failing | {SPEED}} == {"PASS"}


def test_both_sides_of_a_margin() -> None:
    """Memory: 2 % of 1 GiB, and a margin itself is still within. Perplexity: 0.5 %."""
    thresholds = blessed(make_run(make_peaks(1 << 30)))
    limit = (1 << 30) + 0.02 * (1 << 30)
    assert set(outcomes(thresholds, make_peaks(math.floor(limit))).values()) == {"PASS"}
    assert set(outcomes(thresholds, make_peaks(math.floor(limit) + 1)).values()) == {"FAIL"}
    small = blessed(make_run(make_peaks(10 << 20)))  # 1 MiB, which is more
    assert set(outcomes(small, make_peaks(11 << 20)).values()) == {"PASS"}
    assert set(outcomes(small, make_peaks((11 << 20) + 1)).values()) == {"FAIL"}
    base = make_perplexity(*[100.0] * 12)
    thresholds = blessed(make_run(base))
    for factor, outcome in ((1.00499, "PASS"), (1.00501, "FAIL"), (0.5, "PASS")):
        nll = 100 + 100 * math.log(factor)
        assert outcomes(thresholds, make_perplexity(*[nll] * 12))["perplexity.ppl"] == outcome


def test_one_process_is_judged_by_the_blessed_spread_and_the_night() -> None:
    """A run of one process: 10 % slower or faster shows, 2 % may be luck."""
    thresholds = blessed(make_run(make_speeds(100.0, 0.01, 6)))

    def judged(speed: float) -> str:
        return outcomes(thresholds, make_speeds(speed, None, 1)).popitem()[1]

    assert [judged(s) for s in (120.0, 98.0, 90.0)] == ["PASS", "INCONCLUSIVE", "FAIL"]


def test_a_threshold_without_spread_concludes_nothing_about_one_process() -> None:
    thresholds = blessed(make_run(make_speeds(100.0)))
    data = thresholds.model_dump(by_alias=True)
    data["cells"]["m[nf4]"]["throughput"]["values"]["decode_tokens_per_s[1]"]["spread"] = None
    [verdict] = judge(Thresholds.model_validate(data), make_speeds(50.0, None, 1))
    assert verdict.verdict == "INCONCLUSIVE"
    assert "bless from 3 or more" in verdict.text


def test_another_question_is_not_judged_and_its_numbers_are_shown() -> None:
    thresholds = blessed(make_run(*EVERYTHING))
    other = make_choices(lost=100, protocol={"shots": 0})
    [verdict] = judge(thresholds, other)
    assert (verdict.metric, verdict.verdict) == ("mmlu", "INCONCLUSIVE")
    assert "protocol.shots (5 → 0); acc was 0.5, is 0.4 (-20.00 %)" in verdict.text
    assert "--allow protocol.shots compares all the same; bless it anew" in verdict.text
    for allow in ("protocol.shots", "protocol"):
        [verdict] = judge_thresholds(thresholds, ENVIRONMENT, other, [allow])
        assert (verdict.metric, verdict.verdict) == ("mmlu.acc", "FAIL")
        assert "protocol.shots (5 → 0) was allowed to differ" in verdict.text


def test_what_is_under_test_is_judged_and_named_as_the_suspect() -> None:
    """New weights and another library: what got worse fails, the rest passes."""
    nf4 = make_choices().cell.model_copy(update={"weights_sha256": "a" * 64})
    before = [r.model_copy(update={"cell": nf4}) for r in EVERYTHING]
    thresholds = blessed(make_run(*before))
    cell = nf4.model_copy(update={"weights_sha256": "b" * 64, "device": "cpu"})
    now = [make_choices(lost=60), *EVERYTHING[1:]]
    libraries = {**ENVIRONMENT["libraries"], "bitsandbytes": "0.51"}
    newer = {**ENVIRONMENT, "libraries": libraries}
    records = [r.model_copy(update={"cell": cell}) for r in now]
    found = judge(thresholds, *records, environment=newer)
    assert {v.metric for v in found} == ALL
    assert {v.metric for v in found if v.verdict == "FAIL"} == {"mmlu.acc"}
    suspects = "; since the blessing: weights, bitsandbytes 0.50.2 → 0.51."
    assert all(v.text.endswith(suspects) for v in found)


def test_a_slowdown_under_another_power_limit_is_left_open() -> None:
    def on_gpu(speed: float, watts: float) -> Run:
        board = {"name": "H200", "power_limit_w": watts}
        environment = {**ENVIRONMENT, "gpu": {"driver": "560", "devices": [board]}}
        record = make_speeds(speed)
        cell = record.cell.model_copy(update={"device": "cuda:0"})
        return make_run(record.model_copy(update={"cell": cell}), environment=environment)

    thresholds = blessed(on_gpu(100.0, 700.0))
    for watts, outcome in ((700.0, "FAIL"), (500.0, "INCONCLUSIVE")):
        now = on_gpu(80.0, watts)
        [verdict] = judge(thresholds, now.records[0], environment=now.environment)
        assert verdict.verdict == outcome
    assert "gpu.power_limit_w (700.0 → 500.0) differs" in verdict.text


def test_a_value_that_is_gone_fails_and_a_record_without_numbers_is_left_to_others() -> None:
    thresholds = blessed(make_run(*EVERYTHING))
    gone = make_peaks(1).model_copy(update={"values": {"peak_bytes": Value(value=None)}})
    assert set(outcomes(thresholds, gone).values()) == {"FAIL"}
    assert judge(thresholds, make_speeds(1.0, status="failed", reasons=("it died",))) == []
    assert list_unmeasured(thresholds, EVERYTHING[:2]) == ["m[nf4] throughput", "m[nf4] memory"]


def test_what_is_surely_better_proposes_to_be_blessed() -> None:
    thresholds = blessed(make_run(*EVERYTHING))
    [line] = propose_tighter(thresholds, ENVIRONMENT, [make_speeds(120.0)])
    assert line.startswith("m[nf4] throughput.decode_tokens_per_s[1] is 20.0% better")
    assert "harness bless" in line
    assert propose_tighter(thresholds, ENVIRONMENT, [make_speeds(102.0)]) == []
    assert propose_tighter(thresholds, ENVIRONMENT, [make_speeds(105.0, 0.08)]) == []


def test_small_steps_are_compared_with_the_anchor() -> None:
    """Each run 1 % larger than the last passes against the last, not against the blessed one."""
    sizes = [(100 + n) << 20 for n in range(8)]
    thresholds = blessed(make_run(make_peaks(sizes[0])))
    steps = [outcomes(thresholds, make_peaks(size))["memory.peak_bytes"] for size in sizes]
    assert steps == ["PASS"] * 3 + ["FAIL"] * 5
    for before, after in pairwise(sizes):
        last = blessed(make_run(make_peaks(before)))
        assert outcomes(last, make_peaks(after))["memory.peak_bytes"] == "PASS"


def make_text(*luck: float, worse: float = 0.0) -> Record:
    """Twelve chunks of a text, off by ``luck`` in turn and all by ``worse``, in nats."""
    nll = [150.0 + 7 * (i % 5) + luck[i % len(luck)] + worse for i in range(12)]
    return make_perplexity(*nll)


def test_perplexity_of_one_blessed_run_is_judged_chunk_by_chunk() -> None:
    """As `harness compare` judges both runs, and not as if every run had the same digits."""
    base = make_text(0.0)
    thresholds = blessed(make_run(base))
    by_luck, worse = make_text(-9.0, 12.0, 2.0, -7.0, 8.0), make_text(0.1, -0.1, worse=3.0)
    for now, outcome in ((by_luck, "INCONCLUSIVE"), (worse, "FAIL"), (make_text(0.2, 0.1), "PASS")):
        [verdict] = judge(thresholds, now)
        ratio = PERPLEXITY.compare(now, base)["ratio"]
        ppl = base.values["ppl"].value
        assert ppl is not None
        assert ratio.bounds is not None
        assert verdict.verdict == outcome
        assert verdict.bounds == pytest.approx([end * ppl for end in ratio.bounds], rel=1e-6)
    assert by_luck.values["ppl"].value > 1.005 * ppl  # type: ignore[operator]


def test_chunks_that_are_equal_stay_so_though_they_are_kept_in_single_precision() -> None:
    base = make_text(0.1, 1 / 3)
    data = blessed(make_run(base)).model_dump(by_alias=True)
    data["cells"]["m[nf4]"]["perplexity"]["items"] = "0" * 16  # as if something else differed
    [verdict] = judge(Thresholds.model_validate(data), base)
    assert (verdict.verdict, verdict.bounds) == ("PASS", None)  # exact, and not nearly so


def test_one_blessed_run_whose_chunks_were_not_kept_decides_nothing_but_equality() -> None:
    base = make_text(0.0)
    data = blessed(make_run(base)).model_dump(by_alias=True)
    data["cells"]["m[nf4]"]["perplexity"]["lists"] = {}
    old = Thresholds.model_validate(data)
    assert outcomes(old, base) == {"perplexity.ppl": "PASS"}
    [verdict] = judge(old, make_text(5.0))
    assert verdict.verdict == "INCONCLUSIVE"
    assert "it cannot be compared with this one chunk by chunk: bless it anew" in verdict.text


def test_a_list_of_numbers_survives_packing_to_seven_digits() -> None:
    numbers = [1234.5678, None, 1e-9, 0.0, -7.25]
    found = unpack_list(pack_list(numbers))
    assert found[1] is None
    assert [x for x in found if x is not None] == pytest.approx([1234.5678, 1e-9, 0, -7.25], 1e-7)
    with pytest.raises(ValueError, match="cannot be read"):
        unpack_list("abcde")


def test_words_of_one_blessed_run_are_compared_one_by_one() -> None:
    """A sum of two words' log-likelihoods says nothing of one run's luck; the words do."""

    def answer(*more: float) -> Record:
        nats = [-2.0 - 0.1 * (i % 7) - more[i % len(more)] for i in range(30)]
        items = {"right": "10" * 15, "log_likelihoods": nats}
        ppl = Value(value=math.exp(-sum(nats) / 30), better="lower", n=30)
        return make_record("lambada", values={"perplexity": ppl}, items=items)

    base = answer(0.0)
    acc = {"acc": Value(value=0.5, better="higher", n=30)}
    base = base.model_copy(update={"values": {**base.values, **acc}})
    thresholds = blessed(make_run(base))
    for more, outcome in (((0.3, -0.2), "INCONCLUSIVE"), ((0.05, 0.03), "FAIL"), ((0.0,), "PASS")):
        now = answer(*more)
        now = now.model_copy(update={"values": {**now.values, **acc}})
        assert outcomes(thresholds, now)["lambada.perplexity"] == outcome


def test_agreement_of_one_blessed_run_is_judged_chunk_by_chunk() -> None:
    def agree(*counts: int) -> Record:
        share = Value(value=sum(counts) / len(counts) / 100, better="higher", n=len(counts))
        tokens = [100] * len(counts)
        items = {"chunk_kl": [1.0] * len(counts), "chunk_agrees": [*counts], "chunk_tokens": tokens}
        return make_record("divergence", values={"top1_agreement": share}, items=items)

    before = [90 + i % 4 for i in range(12)]
    thresholds = blessed(make_run(agree(*before)))
    by_luck = agree(*(x + (5, -7)[i % 2] for i, x in enumerate(before)))
    fewer = agree(*(x - 2 - i % 2 for i, x in enumerate(before)))
    assert outcomes(thresholds, by_luck) == {"divergence.top1_agreement": "INCONCLUSIVE"}
    assert outcomes(thresholds, fewer) == {"divergence.top1_agreement": "FAIL"}


def test_the_bounds_of_one_more_run_by_hand() -> None:
    """σ = 10 MiB of 4 runs about 1,015: SE = σ·sqrt(1 + 1/4), t(0.95, 3) = 2.3534."""
    mib = 1 << 20
    sizes = (1005, 1005, 1025, 1025)
    runs = [make_run(make_peaks(size * mib), id=f"{i}") for i, size in enumerate(sizes)]
    thresholds = blessed(*runs)
    threshold = thresholds.cells["m[nf4]"]["memory"].values["peak_bytes"]
    sigma = math.sqrt(400 / 3)
    assert threshold.spread == pytest.approx(sigma * mib)
    assert threshold.margin == pytest.approx(0.02 * 1015 * mib)
    verdict = next(
        v for v in judge(thresholds, make_peaks(1020 * mib)) if v.metric == "memory.peak_bytes"
    )
    reach = 2.35336 * sigma * math.sqrt(1.25)
    assert verdict.bounds == pytest.approx(((1020 - reach) * mib, (1020 + reach) * mib), rel=1e-4)
    assert verdict.verdict == "INCONCLUSIVE"  # 5 + 30.4 MiB may be more than the margin of 20.3
    assert "this machine cannot hold this margin: 4 blessed runs differ by more" in verdict.text
    # Five peaks vary: p = 2 %/5 is at t(0.996, 3) = 6.32 errors of 12.9 MiB.
    assert set(outcomes(thresholds, make_peaks(1095 * mib)).values()) == {"INCONCLUSIVE"}
    assert set(outcomes(thresholds, make_peaks(1098 * mib)).values()) == {"FAIL"}


def test_bounds_and_the_smallest_detectable_are_in_the_values_unit() -> None:
    """1 % of 3 and of 6 processes: SE = 1 %·sqrt(1/3 + 1/6)."""
    thresholds = blessed(make_run(make_speeds(100.0, 0.01, 3)))
    [verdict] = judge(thresholds, make_speeds(80.0, 0.01, 6))
    assert verdict.verdict == "FAIL"
    assert verdict.bounds is not None
    low, high = verdict.bounds
    assert low < 80.0 < high
    assert verdict.smallest_detectable is not None
    assert 3.0 < verdict.smallest_detectable < 20.0
    assert "do not decide" not in verdict.text


def test_bounds_of_one_blessed_night_reach_as_far_as_nights_by_hand() -> None:
    """3 processes, and 1: 2.92·1 %·sqrt(4/3) = 3.372 %. Nights: 1.645·2 %·sqrt(2) = 4.652 %.

    Together sqrt(3.372² + 4.652²) = 5.75 % about, a little less below and more above.
    """
    thresholds = blessed(make_run(make_speeds(100.0, 0.01, 3)))
    [verdict] = judge(thresholds, make_speeds(100.0, None, 1))
    assert verdict.verdict == "INCONCLUSIVE"
    below, above = (100 * math.expm1(x) for x in (-0.03372, 0.03372))
    reach = 1.644854 * 2 * math.sqrt(2)
    ends = (100 - math.hypot(below, reach), 100 + math.hypot(above, reach))
    assert verdict.bounds == pytest.approx(ends, 1e-4)
    assert verdict.enough is None
    assert "measure both in one night" in verdict.text


def test_one_blessed_night_does_not_show_how_nights_differ_by_hand() -> None:
    """Nights taken to differ by 2 %: SE = sqrt(1/6 + 1/6 + 2·4) % = 2.89 %, p = 2 % at 5.9 %."""
    thresholds = blessed(make_run(make_speeds(100.0, 0.01, 6)))
    verdicts = [judge(thresholds, make_speeds(speed, 0.01, 6))[0] for speed in (94.5, 93.5)]
    assert [v.verdict for v in verdicts] == ["INCONCLUSIVE", "FAIL"]
    assert "nights of one machine may differ by 2% and more" in verdicts[0].text


def nights(shifts: Sequence[float], spread: float = 0.002, cells: int = 12) -> list[Run]:
    """Runs of speeds that scatter by ``spread``, a night's shift added to all."""
    rng = np.random.default_rng(3)
    return [
        make_run(
            *(
                rename(make_speeds(100 * math.exp(shift + rng.normal(0, spread)), spread, 3), i)
                for i in range(cells)
            ),
            id=f"s/{number}",
            utc=f"2026-01-{number + 1:02}T02:00:00+00:00",
        )
        for number, shift in enumerate(shifts)
    ]


def rename(record: Record, number: int) -> Record:
    cell = record.cell.model_copy(update={"id": f"m{number}[nf4]"})
    return record.model_copy(update={"cell": cell})


def test_three_steady_nights_see_a_slowdown_and_three_unsteady_ones_do_not() -> None:
    slow = rename(make_speeds(95.0, 0.002, 3), 0)
    [steady] = judge(blessed(*nights([0.0, 0.0, 0.0])), slow)
    [unsteady] = judge(blessed(*nights([-0.02, 0.0, 0.02])), slow)
    assert (steady.verdict, unsteady.verdict) == ("FAIL", "INCONCLUSIVE")
    assert "this machine cannot hold this margin: 3 blessed nights" in unsteady.text


def test_three_runs_of_one_night_are_one_night_by_hand() -> None:
    """They agree within 0.2 %, and say nothing of nights: -5 % may be the night, -15 % is none."""
    runs = nights([0.0, 0.0, 0.0])
    hours = [
        run.model_copy(update={"run": run.run.model_copy(update={"utc": utc})})
        for run, utc in zip(runs, EVENING, strict=True)
    ]
    thresholds = blessed(*hours)
    verdicts = [judge(thresholds, rename(make_speeds(s, 0.002, 3), 0))[0] for s in (95.0, 85.0)]
    assert [v.verdict for v in verdicts] == ["INCONCLUSIVE", "FAIL"]
    assert "measure both in one night" in verdicts[0].text
    threshold = thresholds.cells["m0[nf4]"]["throughput"].values[DECODE]
    assert verdicts[0].bounds is not None
    # 1.645 times 2 %·sqrt(2), and a little that 12 processes of 0.2 % add.
    reach = 1.644854 * 0.02 * math.sqrt(2) * threshold.value
    assert verdicts[0].bounds[1] - 95.0 == pytest.approx(reach, rel=0.01)


def test_a_file_that_does_not_say_when_its_runs_were_counts_as_of_one_night(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_thresholds(blessed(*nights([0.0, 0.0, 0.0])), path)
    slow = rename(make_speeds(95.0, 0.002, 3), 0)
    assert judge(read_thresholds(path), slow)[0].verdict == "FAIL"
    data = json.loads(path.read_text())
    for measurements in data["cells"].values():
        assert measurements["throughput"].pop("utcs")[0] == "2026-01-01T02:00:00+00:00"
    path.write_text(json.dumps(data))
    [verdict] = judge(read_thresholds(path), slow)
    assert verdict.verdict == "INCONCLUSIVE"
    assert "measure both in one night" in verdict.text


def test_a_file_of_schema_1_is_read_with_the_declared_margin(tmp_path: Path) -> None:
    """It widened margins, and did not keep how many nights a speed is from."""
    path = tmp_path / "x.json"
    write_thresholds(blessed(*nights([0.0, 0.0, 0.0])), path)
    data = json.loads(path.read_text()) | {"schema": 1}
    for measurements in data["cells"].values():
        for one in measurements.values():
            del one["runs"], one["utcs"]
            for number, value in enumerate(one["values"].values()):
                del value["runs"]
                value["margin"] = None if number else 14.0
    path.write_text(json.dumps(data))
    old = read_thresholds(path)
    threshold = old.cells["m0[nf4]"]["throughput"].values[DECODE]
    assert threshold.margin == pytest.approx(0.03 * threshold.value)
    [verdict] = judge(old, rename(make_speeds(95.0, 0.002, 3), 0))
    assert verdict.verdict == "INCONCLUSIVE"
    assert "measure both in one night" in verdict.text


def test_divergence_of_schema_1_is_judged_though_its_reference_is_one_hash(tmp_path: Path) -> None:
    """It hashed the reference's facts together with its weights, which are apart since."""

    def diverge(kl: float, weights: str = "a" * 64) -> Record:
        reference = {"precision": {"use": "fp32"}, "weights_sha256": weights}
        items = {"chunk_kl": [kl * (9 + i % 3) for i in range(12)], "chunk_tokens": [9] * 12}
        protocol = {"reference": reference, "context": 32}
        mean = {"kl_mean": Value(value=kl, unit="nats/token")}
        return make_record("divergence", values=mean, items=items, protocol=protocol)

    path, before = tmp_path / "x.json", diverge(0.1)
    write_thresholds(blessed(make_run(before)), path)
    data = json.loads(path.read_text()) | {"schema": 1}
    [facts] = [one["facts"] for cell in data["cells"].values() for one in cell.values()]
    text = json.dumps(before.protocol["reference"], sort_keys=True)
    facts["protocol.reference"] = f"sha256:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
    del facts["reference's weights"]
    path.write_text(json.dumps(data))
    old = read_thresholds(path)
    assert outcomes(old, diverge(0.1)) == {"divergence.kl_mean": "PASS"}
    assert outcomes(old, diverge(0.2)) == {"divergence.kl_mean": "FAIL"}
    assert outcomes(old, diverge(0.2, weights="b" * 64)) == {"divergence.kl_mean": "FAIL"}
    facts["protocol.context"] = 16
    path.write_text(json.dumps(data))
    [refused] = judge(read_thresholds(path), diverge(0.2))
    assert (refused.verdict, "protocol.context (16 → 32)" in refused.text) == ("INCONCLUSIVE", True)


def test_noise_of_many_tasks_raises_few_alarms() -> None:
    """112 tasks of 300 items, of which 4 % flip: each alone at 5 % would fail in most nights."""
    rng = np.random.default_rng(8)
    rows = rng.random((112, 300)) < 0.5

    def night() -> list[Record]:
        flipped = rows ^ (rng.random(rows.shape) < 0.04)
        marks = ["".join("01"[x] for x in row) for row in flipped.astype(int)]
        return [
            rename(make_choices(n=300, items={"right": row, "chosen": row}), i)
            for i, row in enumerate(marks)
        ]

    thresholds = blessed(make_run(*night()))
    alarms = sum("FAIL" in outcomes(thresholds, *night()).values() for _ in range(5))
    assert alarms <= 1


def test_equal_items_pass_only_with_the_blessed_number() -> None:
    """An edited, tighter threshold is judged, though the items are those that were blessed."""
    base = make_perplexity(150.0, 160.0)
    thresholds = blessed(make_run(base))
    [verdict] = judge(thresholds, base)
    assert (verdict.verdict, "every item is as it was" in verdict.text) == ("PASS", True)
    data = thresholds.model_dump(by_alias=True)
    data["cells"]["m[nf4]"]["perplexity"]["values"]["ppl"]["value"] *= 0.9
    assert set(outcomes(Thresholds.model_validate(data), base).values()) == {"FAIL"}


def test_numbers_of_an_invalid_record_are_not_judged() -> None:
    thresholds = blessed(make_run(*EVERYTHING))
    for speed in (50.0, 100.0, 150.0):
        [verdict] = judge(thresholds, make_speeds(speed, status="invalid", reasons=("too hot",)))
        assert verdict.verdict == "INCONCLUSIVE"
        assert "this number is invalid: too hot" in verdict.text
    gone = make_perplexity(150.0, status="invalid", reasons=("NaN",))
    gone = gone.model_copy(update={"values": {"ppl": Value(value=None)}})
    assert outcomes(thresholds, gone) == {"perplexity.ppl": "FAIL"}
    hot = make_speeds(150.0, status="invalid", reasons=("too hot",))
    assert propose_tighter(thresholds, ENVIRONMENT, [hot]) == []


@pytest.mark.parametrize(
    ("name", "update", "why"),
    [
        (DECODE, {"better": "lower"}, "lower is better, in 'tokens/s', the harness that higher"),
        (DECODE, {"unit": "tokens/min"}, "'tokens/min', the harness that higher is better, in"),
        (DECODE, {"spread": None}, "no spread between processes: bless from 3 or more of them"),
        (DECODE, {"value": 0}, "the threshold 0 is no positive number"),
        ("tpot_s[1]", {}, "the harness keeps no threshold of this value"),
        ("nosuch", {}, "unknown value 'nosuch'. Known: decode_tokens_per_s[1]"),
    ],
)
def test_a_threshold_that_makes_no_sense_judges_nothing(
    name: str, update: dict[str, Any], why: str
) -> None:
    """One of an older harness, or edited: neither a PASS nor a crash."""
    data = blessed(make_run(make_speeds(100.0))).model_dump(by_alias=True)
    values = data["cells"]["m[nf4]"]["throughput"]["values"]
    values[name] = {**values.pop(DECODE), **update}
    thresholds = Thresholds.model_validate(data)
    for record in (make_speeds(50.0), make_speeds(200.0)):
        [verdict] = judge(thresholds, record)
        assert (verdict.verdict, verdict.value) == ("INCONCLUSIVE", None)
        assert why in verdict.text
        assert propose_tighter(thresholds, ENVIRONMENT, [record]) == []


# The file


def test_a_file_reads_back_and_changes_only_where_something_was_blessed(tmp_path: Path) -> None:
    path = path_of(tmp_path, "s", "cpu-xeon")
    assert path == tmp_path / "results/thresholds/s/cpu-xeon.json"
    first = blessed(make_run(*EVERYTHING))
    write_thresholds(first, path)
    assert read_thresholds(path) == first
    before = path.read_text().splitlines()
    write_thresholds(blessed(make_run(make_peaks(1 << 20)), previous=first), path)
    changed = [line for line in path.read_text().splitlines() if line not in before]
    assert changed
    assert all('"value"' in line or '"margin"' in line for line in changed)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[:-20], "not a readable thresholds file"),
        (lambda text: "[]", "expected thresholds of schema 2, found None"),
        (lambda text: text.replace('"schema": 2', '"schema": 3'), "schema 2, found 3"),
        (lambda text: text.replace('"better": "lower"', '"better": "less"', 1), "better: Input"),
        (lambda text: text.replace('"n": 1', '"n": "one"', 1), r"\.n: Input should be a valid"),
        (lambda text: text.replace('"margin"', '"margins"', 1), "margin"),
        (lambda text: text.replace('"margin": ', '"margin": NaN, "x": ', 1), "finite number"),
        (lambda text: text.replace('"margin": ', '"margin": Infinity, "x": ', 1), "finite number"),
        (lambda text: text.replace('"margin": ', '"margin": -', 1), "greater than or equal to 0"),
        (lambda text: text.replace('"unit": "bytes"', '"unit": 8', 1), r"\.unit: Input should be"),
        (lambda text: text.replace('"n": 6', '"n": 0'), r"\]\.n: Input should be greater than"),
        (lambda text: text.replace('"n": 6', '"n": 1'), "a spread is of 2 samples or more"),
        (lambda text: text.replace('"spread": null', '"spread": "1"', 1), r"\.spread: Input"),
        (lambda text: re.sub('"margin": [0-9.]+', '"margin": null', text, count=1), r"\.margin"),
        (lambda text: re.sub('("value": )([0-9.]+)', r'\1"\2"', text, count=1), r"\.value"),
        (lambda text: text.replace('"memory": {', '"mmlu": {', 1), "'mmlu' is there twice"),
    ],
)
def test_a_damaged_file_is_refused_by_name_and_field(
    tmp_path: Path, spoil: Any, message: str
) -> None:
    path = path_of(tmp_path, "s", "cpu-xeon")
    write_thresholds(blessed(make_run(*EVERYTHING)), path)
    path.write_text(spoil(path.read_text()))
    with pytest.raises(InputError, match=message) as caught:
        read_thresholds(path)
    assert str(caught.value).startswith(str(path))


def test_a_file_follows_the_shipped_schema(tmp_path: Path) -> None:
    """If the schema is not up to date, run ``python -m harness.cli.schema``."""
    shipped = locate_schema("thresholds").read_text(encoding="utf-8")
    assert shipped == format_schema("thresholds")
    validator = jsonschema.Draft202012Validator(json.loads(shipped))
    path = tmp_path / "x.json"
    write_thresholds(blessed(make_run(*EVERYTHING)), path)
    data = json.loads(path.read_text())
    validator.validate(data)
    data["cells"]["m[nf4]"]["memory"]["values"]["peak_bytes"]["margin"] = -1
    assert not validator.is_valid(data)


def test_no_bare_nan_is_in_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_thresholds(blessed(make_run(*EVERYTHING)), path)
    json.loads(path.read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("lost", "won", "n", "outcome"),
    [
        (1, 0, 40, "INCONCLUSIVE"),  # 2.5 points, and may be a tie
        (9, 0, 40, "FAIL"),
        (20, 9, 1000, "INCONCLUSIVE"),  # 1.1 points among 29 that turned: chance
        (15, 0, 1000, "FAIL"),
        (5, 5, 4000, "PASS"),
    ],
)
def test_answers_are_judged_item_by_item(lost: int, won: int, n: int, outcome: str) -> None:
    thresholds = blessed(make_run(make_choices(n=n)))
    found = outcomes(thresholds, make_choices(lost, won, n))
    assert found == {"mmlu.acc": outcome}


def test_two_equal_shares_of_different_items_keep_their_own_rows() -> None:
    """acc and acc_norm are both 50 %, of opposite items: each is compared with its own."""

    def record(right: str, right_norm: str) -> Record:
        rows = {"right": right, "right_norm": right_norm}
        names = {"acc": "right", "acc_norm": "right_norm"}
        values = {
            name: Value(value=rows[row].count("1") / len(rows[row]), better="higher")
            for name, row in names.items()
        }
        return make_record("hellaswag", "nf4", values=values, items=rows)

    thresholds = blessed(make_run(record("10" * 500, "01" * 500)))
    now = record("10" * 499 + "00", "01" * 500)  # acc alone lost one item of 1,000
    found = judge(thresholds, now)
    assert {v.metric: v.verdict for v in found} == {
        "hellaswag.acc": "PASS",
        "hellaswag.acc_norm": "PASS",
    }
    for verdict, lost in zip(found, (1, 0), strict=True):
        drop = paired_difference(lost, 0, 1000)
        assert verdict.bounds == pytest.approx((0.5 - drop.upper, 0.5 - drop.lower))


def test_a_row_is_kept_in_a_fraction_of_its_length() -> None:
    row = make_choices(200, 100, 14_000).items["right"] + "-"
    packed = pack_row(row)
    assert unpack_row(packed) == row
    assert len(packed) < len(row) / 4
    with pytest.raises(ValueError, match="a row of items cannot be read"):
        unpack_row(packed[:-10] + "0" * 10)


@pytest.mark.parametrize("name", ["../../elsewhere", "a/b", "", "."])
def test_no_name_leads_out_of_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match="no file is made of it"):
        path_of(tmp_path, name, "cpu-xeon")


def test_rows_of_other_lengths_cannot_be_paired_whatever_is_allowed() -> None:
    thresholds = blessed(make_run(make_choices(n=180, protocol={"limit": 30})))
    few = make_choices(n=30, protocol={"limit": 5})
    for allow in ((), ("protocol.limit",), ("protocol",)):
        [verdict] = judge_thresholds(thresholds, ENVIRONMENT, few, allow)
        assert (verdict.verdict, verdict.value) == ("INCONCLUSIVE", None)
        assert verdict.text.endswith(
            "; 30 items cannot be paired with the 180 that were blessed: bless again, or restore "
            "the items"
        )
        assert "--allow" not in verdict.text


def test_a_misspelt_value_is_answered_with_the_closest() -> None:
    thresholds = blessed(make_run(make_peaks(1 << 20)))
    data = thresholds.model_dump(mode="json", by_alias=True)
    values = data["cells"]["m[nf4]"]["memory"]["values"]
    data["cells"]["m[nf4]"]["memory"]["values"] = {"peak_byte": values["peak_bytes"]}
    [verdict] = judge(Thresholds.model_validate(data), make_peaks(1 << 20))
    assert verdict.verdict == "INCONCLUSIVE"
    assert "unknown value 'peak_byte'; did you mean 'peak_bytes'?" in verdict.text


def test_the_margin_is_shown_as_the_change_is() -> None:
    [verdict] = judge(blessed(make_run(make_speeds(100.0))), make_speeds(50.0))
    assert "(-50.00 % from 100 tokens/s, blessed at abcdef1234)" in verdict.text
    assert "; the margin is 3 tokens/s (3.00 %)" in verdict.text
