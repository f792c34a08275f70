"""`harness recommend`: the smallest precision whose evidence holds, and a word on the rest."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.records.record import Record, Value
from harness.records.run_file import Run, write_run
from tests.support.records import make_record
from tests.support.summaries import finish, make_suite

GB = 10**9
N = 4000
MEASURED = ("footprint", "memory", "mmlu", "throughput")


def record_cell(
    precision: str, size: float, lost: int, speed: float, processes: int = 6, model: str = "m"
) -> list[Record]:
    """A cell that holds ``size`` GB, peaks at 1 GB more, and is wrong on ``lost`` items of N."""
    right = "0" * lost + "1" * (N - lost)
    stderr = 0.01 * speed / processes**0.5 if processes > 1 else None
    decode = Value(value=speed, unit="tokens/s", better="higher", stderr=stderr, n=processes)
    if stderr:
        half = 2.02 * stderr  # t(0.95) of five degrees of freedom
        decode = decode.model_copy(update={"bounds": (speed - half, speed + half)})
    size = int(size * GB)
    return [
        make_record("footprint", precision, model=model, values={"total_bytes": size}),
        make_record("memory", precision, model=model, values={"peak_bytes": size + GB}),
        make_record(
            "mmlu",
            precision,
            model=model,
            values={"acc": Value(value=1 - lost / N, unit="", better="higher", n=N)},
            protocol={"shots": 5},
            items={"right": right, "chosen": right},
        ),
        make_record(
            "throughput", precision, model=model, values={"decode_tokens_per_s[1]": decode}
        ),
    ]


def make_three(**changes: Any) -> Run:
    """fp32 of 16 GB; int8 of 5 GB that loses 8 items; nf4 of 3 GB that loses 100: 2.5 points."""
    cells = {
        "fp32": record_cell("fp32", 16, 0, 40),
        "int8": record_cell("int8", 5, 8, 50),
        "nf4": record_cell("nf4", 3, 100, 90),
    }
    cells |= changes
    records = [record for cell in cells.values() for record in cell]
    return finish(make_suite(*MEASURED), records)


def ask(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], run: Run, *arguments: str
) -> tuple[int, dict[str, Any]]:
    path = write_run(run, tmp_path / "run.json")
    status = main(["recommend", str(path), *arguments, "--format", "json"])
    return status, json.loads(capsys.readouterr().out)


def find(answer: dict[str, Any], precision: str, about: str) -> dict[str, Any]:
    (own,) = (p for p in answer["precisions"] if p["precision"] == precision)
    found: dict[str, Any] = next(f for f in own["findings"] if f["about"] == about)
    return found


@pytest.mark.parametrize(
    ("demands", "chosen"),
    [
        (("--max-drop", "0.05"), "nf4"),  # the smallest
        (("--max-drop", "1%"), "int8"),  # nf4 surely loses more
        (("--vram", "17GB", "--max-drop", "0"), "fp32"),  # only the reference surely loses nothing
        (("--vram", "24GB"), "nf4"),
        (("--min-tokens-per-s", "45"), "nf4"),
        (("--min-tokens-per-s", "45", "--max-drop", "1%"), "int8"),
    ],
)
def test_the_smallest_whose_evidence_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], demands: tuple[str, ...], chosen: str
) -> None:
    status, answer = ask(tmp_path, capsys, make_three(), *demands)
    assert (status, answer["chosen"]) == (0, chosen)
    assert [p["precision"] for p in answer["precisions"]] == ["nf4", "int8", "fp32"]


def test_what_does_not_hold_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = make_three()
    status, answer = ask(tmp_path, capsys, run, "--max-drop", "1%", "--vram", "5.5GB")
    assert (status, answer["chosen"], answer["open"]) == (1, None, [])
    assert "m[nf4]: mmlu.accuracy_drop is 0.025" in find(answer, "nf4", "quality")["text"]
    assert find(answer, "nf4", "quality")["verdict"] == "FAIL"
    int8 = find(answer, "int8", "memory")
    assert int8["verdict"] == "FAIL"  # its weights would fit, its peak does not
    assert "memory.peak_bytes is 6" in int8["text"]
    path = str(tmp_path / "run.json")
    assert main(["recommend", path, "--max-drop", "1%", "--vram", "5.5GB"]) == 1
    shown = capsys.readouterr().out
    assert shown.startswith("m: none of the 3 precisions holds every demand.\n")
    assert "Why not:\nm[nf4]: mmlu.accuracy_drop" in shown
    assert "bytes are those of a CPU" in shown


def test_an_interval_across_the_demand_is_undecided_and_says_what_decides(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """nf4 loses 2.5 points of 4000 items: 2.1 to 2.9 at one-sided 95 %, so 2.7 is open."""
    status, answer = ask(tmp_path, capsys, make_three(), "--max-drop", "2.7%")
    assert (status, answer["chosen"], answer["open"]) == (0, "int8", ["nf4"])
    found = find(answer, "nf4", "quality")
    assert found["verdict"] == "INCONCLUSIVE"
    assert "items of mmlu" in found["text"].partition("to decide: ")[2]
    assert main(["recommend", str(tmp_path / "run.json"), "--max-drop", "2.7%"]) == 0
    first = capsys.readouterr().out.partition("\n")[0]
    assert first == (
        "m: int8, the smallest whose evidence holds every demand. Smaller and undecided: nf4."
    )


def test_a_speed_of_one_process_decides_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = {"nf4": record_cell("nf4", 3, 0, 90, processes=1)}
    status, answer = ask(tmp_path, capsys, make_three(**one), "--min-tokens-per-s", "60")
    assert (status, answer["open"]) == (2, ["nf4"])
    text = find(answer, "nf4", "speed")["text"]
    assert "to decide: `processes: 6` of throughput in s.yaml" in text


def test_a_speed_is_that_of_the_batch_at_every_prompt_length(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """50 tokens/s at one length and 20 at another is no 30; nor is another batch, or compiling."""

    def rename(record: Record) -> Record:
        if record.measurement != "throughput":
            return record
        (value,) = record.values.values()
        slow = value.model_copy(update={"value": 20.0, "bounds": (19.8, 20.2), "stderr": 0.1})
        names = ("1x64", "8x64", "1 compiled")
        values = {f"decode_tokens_per_s[{name}]": value for name in names}
        return record.model_copy(update={"values": values | {"decode_tokens_per_s[1x512]": slow}})

    run = make_three()
    run = run.model_copy(update={"records": tuple(map(rename, run.records))})
    assert ask(tmp_path, capsys, run, "--min-tokens-per-s", "15")[1]["chosen"] == "nf4"
    status, answer = ask(tmp_path, capsys, run, "--min-tokens-per-s", "30")
    assert status == 1
    (own,) = (p for p in answer["precisions"] if p["precision"] == "nf4")
    assert [f["verdict"] for f in own["findings"]] == ["PASS", "FAIL"]
    assert ask(tmp_path, capsys, run, "--min-tokens-per-s", "30", "--batch", "8")[0] == 0


def test_weights_that_fit_are_not_a_peak_that_fits(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_three()
    kept = tuple(r for r in run.records if r.measurement != "memory")
    status, answer = ask(
        tmp_path, capsys, run.model_copy(update={"records": kept}), "--vram", "4GiB"
    )
    assert (status, answer["open"]) == (2, ["nf4"])
    assert "its weights fit" in find(answer, "nf4", "memory")["text"]
    assert find(answer, "int8", "memory")["verdict"] == "FAIL"  # even its weights do not


def test_a_failed_measurement_is_no_evidence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = record_cell("nf4", 3, 0, 90)
    broken[2] = make_record("mmlu", "nf4", status="failed", reasons=("out of memory",))
    _, answer = ask(tmp_path, capsys, make_three(nf4=broken), "--max-drop", "1%")
    assert answer["open"] == ["nf4"]
    text = find(answer, "nf4", "quality")["text"]
    assert text == "m[nf4]: mmlu has no number that counts: out of memory"


def test_rules_of_thumb_only_where_nothing_was_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_three()
    arguments = ("--max-drop", "1%", "--card", "T4")
    assert ask(tmp_path, capsys, run, *arguments)[1]["rules_of_thumb"] == []
    kept = tuple(r for r in run.records if r.measurement != "mmlu")
    blind = run.model_copy(update={"records": kept})
    status, answer = ask(tmp_path, capsys, blind, *arguments)
    assert status == 2
    rules = answer["rules_of_thumb"]
    assert rules[0] == "nothing was measured about quality"
    assert any(rule.startswith("T4: fp16, instead of bf16") for rule in rules)
    assert any(rule.startswith("inference: nf4, ") for rule in rules)
    assert main(["recommend", str(tmp_path / "run.json"), *arguments, "--use", "fine-tuning"]) == 2
    shown = capsys.readouterr().out
    assert "Rules of thumb, not evidence:\nnothing was measured about quality\n" in shown
    assert "fine-tuning: nf4, with adapters in 16 bits (QLoRA)" in shown


def test_bad_input_has_a_sentence_and_a_way_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(run: Run, *arguments: str) -> str:
        path = write_run(run, tmp_path / "run.json")
        assert main(["recommend", str(path), *arguments]) == 4
        return capsys.readouterr().err

    run = make_three()
    alone = run.model_copy(update={"records": run.records[:4]})
    assert (
        "this run has one precision of m only (fp32): nothing to choose between; list more under "
        "`precisions:` in s.yaml and run it"
    ) in refuse(alone, "--vram", "24GiB")
    other = tuple(record_cell("fp32", 1, 0, 1, model="other"))
    both = run.model_copy(update={"records": (*run.records, *other)})
    assert "has several models: choose with --model (m, other)" in refuse(both, "--vram", "1GB")
    assert "unknown model 'mm'; did you mean 'm'?" in refuse(run, "--vram", "1GB", "--model", "mm")
    assert "say what you demand: --vram, --max-drop" in refuse(run)
    assert "found '24'; of what? 24GiB" in refuse(run, "--vram", "24")
    assert "expected a share such as 0.02 or 2%, found '2'; did you mean 2%?" in refuse(
        run, "--max-drop", "2"
    )
    assert "expected a share such as 0.02 or 2%, found '-1%'" in refuse(run, "--max-drop", "-1%")
    assert "unknown card 'T5'; did you mean 'T4'?" in refuse(run, "--vram", "1GB", "--card", "T5")
    assert main(["recommend", str(tmp_path / "none.json"), "--vram", "1GB"]) == 4


def test_a_run_of_another_model_beside_it_must_be_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A folder with runs of two suites that measured different models."""
    first, second = (
        make_three(),
        finish(make_suite("footprint"), record_cell("nf4", 1, 0, 1, model="n")[:1]),
    )
    for number, run in enumerate((first, second)):
        facts = run.run.model_copy(update={"id": f"suite{number}/x"})
        name = f"20260101T00000{number}Z-abcdef1234-cpu-xeon.json"
        folder = tmp_path / f"suite{number}"
        folder.mkdir()
        write_run(run.model_copy(update={"run": facts}), folder / name)
    assert main(["recommend", str(tmp_path), "--vram", "24GB"]) == 4
    assert "has several models: choose with --model (m, n)" in capsys.readouterr().err
    assert main(["recommend", str(tmp_path), "--vram", "24GB", "--model", "m"]) == 0
