"""The reference measured against itself: the floor, and values below it."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import list_measurements, load_measurement
from harness.descriptions import BatchTokens, OptionsBase
from harness.metrics.choice_values import CHOICE_VALUES
from harness.records.record import Record, Value
from harness.records.run_file import read_run
from harness.run.varied import vary_batch
from harness.verdicts.pairing import complete_records, is_noise
from tests.support.projects import Project
from tests.support.records import make_record, make_run
from tests.support.suite_files import check_marked, suite_text
from tests.support.summaries import finish, show_section, show_tables
from tests.verdicts.test_pairing import make_suite


def perplexity(precision: str, nll: float, **fields: Any) -> Record:
    items = {"chunk_nll": [nll * 2, nll * 2], "chunk_tokens": [2, 2]}
    return make_record(
        "perplexity", precision, values={"ppl": math.exp(nll), "nll": nll}, items=items, **fields
    )


REFERENCE = perplexity("fp32", 1.0)
AGAIN = perplexity("fp32", 1.001, noise=True, reference_only=True)


def complete(*records: Record) -> list[Record]:
    return list(complete_records(make_suite(), records))


def test_the_distance_of_the_reference_from_itself_is_the_floor() -> None:
    """exp(0.001) - 1 = 0.0010005; a candidate is as far below 1 as above it."""
    _, again, candidate = complete(REFERENCE, AGAIN, perplexity("nf4", 0.9995))
    assert again.paired["ratio"].value == pytest.approx(math.exp(0.001))
    assert candidate.paired["ratio"].floor == pytest.approx(math.exp(0.001) - 1)
    assert again.verdicts == ()


@pytest.mark.parametrize(
    ("value", "floor", "noise"),
    [
        (0.02, 0.02, True),
        (-0.02, 0.02, True),
        (0.0201, 0.02, False),
        (0.0, 0.02, False),  # no difference at all is none to be doubted
        (0.02, None, False),
        (None, 0.02, False),
        (0.02, 0.0, False),
    ],
)
def test_a_difference_up_to_the_floor_is_noise(value: Any, floor: Any, noise: bool) -> None:
    assert is_noise(Value(value=value, floor=floor), CHOICE_VALUES["accuracy_drop"]) is noise


def test_a_ratio_is_measured_from_one() -> None:
    spec = CHOICE_VALUES["retention"]
    assert is_noise(Value(value=0.99, floor=0.011), spec)
    assert not is_noise(Value(value=0.98, floor=0.011), spec)


def test_without_a_second_reference_there_is_no_floor() -> None:
    _, candidate = complete(REFERENCE, perplexity("nf4", 1.2))
    assert candidate.paired["ratio"].floor is None
    failed = make_record("perplexity", "fp32", status="failed", reasons=("x",), noise=True)
    _, _, candidate = complete(REFERENCE, failed, perplexity("nf4", 1.2))
    assert candidate.paired["ratio"].floor is None


def test_the_matrix_shows_the_floor_and_marks_values_below_it() -> None:
    run = finish(make_suite(), [REFERENCE, AGAIN, perplexity("nf4", 1.0005)])
    [lines] = show_tables(run)
    again, candidate = (next(x for x in lines if name in x) for name in ("fp32 again", "nf4"))
    assert "1.0010" in again
    assert "noise floor" in again
    assert "~1.0005" in candidate
    assert (
        "~ within the noise: as close to the reference as the reference measured again"
        in show_section(run, "Notes")
    )
    wider = finish(make_suite(), [REFERENCE, AGAIN, perplexity("nf4", 1.2)])
    assert "~" not in "".join(show_tables(wider)[0])


class _Batches(OptionsBase):
    batch_size: BatchTokens = 8
    context: int = 8
    BATCH = "batch_size"


def test_the_second_time_the_batches_are_others() -> None:
    assert vary_batch(_Batches()) == _Batches(batch_size=4)
    assert vary_batch(_Batches(batch_size=1)) == _Batches(batch_size=2)
    assert vary_batch(_Batches(batch_size="auto")) == _Batches(batch_size=128)
    assert vary_batch(_Batches(batch_size=4096)) == _Batches(batch_size=128)  # 2,048 may be as auto


@pytest.mark.parametrize("name", list_measurements())
def test_only_what_the_numbers_do_not_depend_on_is_varied(name: str) -> None:
    """Memory at another batch size would be another measurement."""
    fields = load_measurement(name).options.model_fields
    varied = load_measurement(name).options.BATCH
    knobs = {"batch_size", "batch_tokens"} & fields.keys()
    assert {varied} == (knobs if name != "memory" and knobs else {None})


def test_the_table_of_changed_answers() -> None:
    subjects = {"rivers": 4, "books": 2, "kings": 2}
    reference = make_record(
        "mmlu", items={"right": "11111111", "chosen": "AAAAAAAA", "subjects": subjects}
    )
    candidate = make_record(
        "mmlu",
        "nf4",
        items={
            "right": "00111110",
            "chosen": "BBAAAAAC",
            "tied": "10000000",
            "subjects": subjects,
        },
        values={"items": 8, "ties": 1},
    )
    _, lines = show_tables(finish(make_suite(), [reference, candidate]))
    assert lines[1].split() == [
        *["nf4", "mmlu", "8", "37.5%", "3", "0", "1"],
        *["rivers", "50.0,", "kings", "50.0"],
    ]
    assert len(lines) == 2
    assert len(show_tables(make_run(reference))) == 1


def test_noise_takes_a_reference(tmp_path: Path) -> None:
    text = suite_text(noise="▼noise: true", reference=None)
    check_marked(tmp_path, text, "noise: there is no `reference:` to measure a second time")


@pytest.mark.e2e
def test_a_suite_measures_its_reference_twice_in_two_processes(tmp_path: Path) -> None:
    """int8 against fp32 and fp32 against itself: a row, a floor, and both in the run file."""
    project = Project(tmp_path)
    project.write(
        "suites/noise.yaml",
        """name: noise
reference: fp32
noise: true
models: [{name: tiny, source: "builtin:tiny-world"}]
precisions: [fp32, bf16]
measure:
  mmlu: {data: "builtin:tiny-world/quiz", shots: 1, limit: 5}
""",
    )
    outcome = project.run("suites/noise.yaml")
    assert outcome.code == 0, outcome.text
    assert "fp32 again" in outcome.text
    [path] = (tmp_path / "results" / "runs" / "noise").glob("*.json")
    first, again, candidate = read_run(path).records
    assert (first.noise, again.noise, candidate.noise) == (False, True, False)
    assert again.items["cost"]["batch_tokens"] == 128
    assert first.items["cost"]["batch_tokens"] == 512
    assert again.paired["flip_rate"].value == 0.0
    assert candidate.paired["accuracy_drop"].floor == 0.0
    assert again.seconds["load"] != first.seconds["load"]
