"""The answer in words: which precision, by what, and what stands against the others."""

from __future__ import annotations

from typing import Any

from harness.records.record import Value
from harness.records.run_file import Run
from harness.report.document import Document, Lines
from harness.report.terminal import write_terminal
from harness.report.weighing import answer, find_weights, list_choices
from tests.support.pages import make_page_run
from tests.support.records import make_record, make_run


def tell(run: Run) -> list[str]:
    return [line for line in write_terminal(Document("", answer(run))).split("\n") if line]


def with_reference(*records: Any) -> Run:
    run = make_run(*records)
    return run.model_copy(update={"suite": {**run.suite, "reference": "fp32"}})


def sized(precision: str, size: int, model: str = "m") -> Any:
    return make_record("footprint", precision, model=model, values={"total_bytes": size})


def test_the_smallest_that_holds_its_limits_is_named_and_what_stands_against_the_others() -> None:
    run, _ = make_page_run()
    assert tell(run) == [
        "m: nf4 is the smallest and the fastest that holds all its limits.",
        "nf4: 1.00 MB weights (0.25 × fp32's), 1.050 ±0.010 × the reference's perplexity, "
        "0.5000 ±0.0500 nats/token divergence, 90.0 ±1.0 tokens/s decoding at batch 1 "
        "(0.90 × fp32's)",
        "fp4 breaks perplexity.ratio",
        "int8 is undecided on perplexity.ratio",
    ]


def test_smallest_and_fastest_may_be_two() -> None:
    speeds = {"fp32": 10.0, "nf4": 5.0, "bf16": 20.0}
    sizes = {"fp32": 4_000_000, "nf4": 1_000_000, "bf16": 2_000_000}
    records = [sized(name, size) for name, size in sizes.items()]
    for name, speed in speeds.items():
        values = {"decode_tokens_per_s[1]": Value(value=speed, better="higher")}
        records.append(make_record("throughput", name, values=values))
    first, *facts = tell(with_reference(*records))
    assert first == ("m: nf4 is the smallest measured, bf16 the fastest; no limit was set.")
    assert [line.split(":")[0] for line in facts] == ["nf4", "bf16"]


def test_what_was_not_measured_is_not_guessed() -> None:
    [line] = tell(with_reference(sized("fp32", 4)))
    assert line == "m: only fp32 was measured, so there is nothing to choose."
    failed = make_record("footprint", "nf4", status="failed", reasons=("gone",))
    first, second = tell(with_reference(sized("fp32", 4), failed))
    assert first == "m: nothing to compare."
    assert second == "nf4 breaks footprint"


def test_none_that_holds_its_limits_is_said() -> None:
    run, _ = make_page_run()
    kept = [r for r in run.records if r.cell.precision != "nf4"]
    first, *_ = tell(run.model_copy(update={"records": tuple(kept)}))
    assert first == "m: no precision is known to hold all its limits."


def test_every_model_has_an_answer_of_its_own() -> None:
    records = [sized(p, size, model) for model in "ab" for p, size in (("fp32", 4), ("nf4", 1))]
    assert [line.split(":")[0] for line in tell(with_reference(*records))] == [
        *("a", "nf4"), *("b", "nf4"),
    ]  # fmt: skip


def test_the_values_that_limits_are_set_on_come_first() -> None:
    run, _ = make_page_run()
    assert [w.measurement for w in find_weights(run, "quality")][:1] == ["perplexity"]
    limits = [{"metric": "mmlu.accuracy_drop"}, {"metric": "throughput.decode_speedup[8]"}]
    other = run.model_copy(update={"suite": {**run.suite, "limits": limits}})
    assert find_weights(other, "quality")[0].measurement == "mmlu"
    assert find_weights(other, "speed")[0].value == "decode_tokens_per_s[8]"
    assert find_weights(run, "speed")[0].value == "decode_tokens_per_s[1]"


def test_the_reference_has_the_loss_of_no_difference() -> None:
    run, _ = make_page_run()
    [reference, *_] = list_choices(run)["m"]
    read = {w.measurement: w.read(reference) for w in find_weights(run, "quality")}
    assert {name: value and value.value for name, value in read.items()} == {
        "perplexity": 1.0,
        "divergence": 0.0,
        "mmlu": 0.0,
    }


def test_a_number_of_a_flagged_record_is_marked() -> None:
    run, _ = make_page_run()
    int8 = next(c for c in list_choices(run)["m"] if c.precision == "int8")
    assert find_weights(run, "speed")[0].describe(int8).startswith("40.0 ±1.0* tokens/s decoding")


def test_below_a_sentence_stand_facts_one_to_a_line() -> None:
    run, _ = make_page_run()
    [section] = answer(run)
    [lines] = section.parts
    assert isinstance(lines, Lines)
    assert len(lines.lines) == 3
