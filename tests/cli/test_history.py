"""``harness history``: what it reads, what it leaves out and says so, what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from harness.cli import main
from harness.records.record import Record, Value
from harness.records.run_file import Run, RunFacts, write_run
from harness.report.history import draw_trend
from harness.verdicts.history import Observation, Series, divide
from tests.support.records import make_record

CPU = "Intel(R) Xeon(R) Processor"


def ppl(value: float | None, **fields: Any) -> Record:
    return make_record("perplexity", "nf4", values={"ppl": make_value(value)}, **fields)


def speed(value: float) -> Record:
    values = {"decode_tokens_per_s[1]": make_value(value, "higher", "tokens/s")}
    return make_record("throughput", "nf4", values=values)


def make_value(value: float | None, better: Any = "lower", unit: str = "") -> Value:
    return Value(value=value, better=better, unit=unit)


def write_day(
    folder: Path,
    number: int,
    *records: Record,
    suite: str = "smoke",
    cpu: str = CPU,
    dirty: bool = False,
    **environment: Any,
) -> Path:
    """The run file of day ``number`` (from 0), measured on commit ``cNNNN…``."""
    utc = f"2026-01-{number + 1:02}T03:00:00+00:00"
    facts = RunFacts(
        id=f"{suite}/{number}-{cpu}", utc=utc, argv=[], git_sha=f"c{number:03}" + "0" * 36,
        git_dirty=dirty, device="cpu",
    )  # fmt: skip
    run = Run(
        run=facts,
        environment={"cpu": {"name": cpu}, "libraries": {"torch": "2.13"}, **environment},
        suite={"name": suite},
        records=records,
    )
    # Named so that the order of names is not that of time.
    return write_run(run, folder / suite / f"{100 - number}.json")


def history(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main(["history", *map(str, arguments)])
    printed = capsys.readouterr()
    return code, printed.out, printed.err


def read(capsys: pytest.CaptureFixture[str], *arguments: object) -> Any:
    code, out, _ = history(capsys, *arguments, "--format", "json")
    assert code == 0
    return json.loads(out)


def list_values(data: Any) -> list[float]:
    (group,) = data["groups"]
    (series,) = group["series"]
    return [day["value"] for one in series["segments"] for day in one["observations"]]


SPEED = "throughput.decode_tokens_per_s[1]"


def write_change(folder: Path) -> None:
    for day in range(10):
        write_day(folder, day, ppl(5.0 if day < 6 else 5.5), speed(40.0))


def test_a_change_is_shown_with_its_commit_date_and_direction(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_change(tmp_path)
    code, out, err = history(capsys, tmp_path)
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "smoke on cpu-intel-xeon: 10 runs, 2026-01-01 to 2026-01-10",
        "cell    value           runs        first → last",
        "m[nf4]  perplexity.ppl  ▁▁▁▁▁▁████  5 → 5.5",
        "",
        "Each run",
        "m[nf4] perplexity.ppl: 5 ×6, 5.5 (+10 %) ×4",
        "",
        "Changes of level",
        "m[nf4] perplexity.ppl at c006000000 2026-01-07: +10 %, worse (5 → 5.5); before it "
        "c005000000",
        "",
        "1 quiet series: 1 without a change",
        "",
        "worse now than before: m[nf4] perplexity.ppl",
    ]


def test_series_too_short_to_judge_are_not_called_quiet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_change(tmp_path)
    for path in sorted(tmp_path.rglob("*.json"))[3:]:
        path.unlink()
    code, out, _ = history(capsys, str(tmp_path))
    assert code == 0
    assert "2 series with fewer than 4 runs: too few to judge" in out
    assert "quiet" not in out


def test_a_shift_for_the_worse_may_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_change(tmp_path)
    assert history(capsys, tmp_path, "--fail-on-shift")[0] == 1
    assert history(capsys, tmp_path, "--fail-on-shift", "--metric", SPEED)[0] == 0
    for day in range(10, 14):
        write_day(tmp_path, day, ppl(5.0), speed(40.0))
    assert history(capsys, tmp_path, "--fail-on-shift")[0] == 0  # it came back
    assert read(capsys, tmp_path)["worse"] == []


def test_a_change_that_was_meant_is_accepted_by_its_commit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_change(tmp_path)
    code, out, _ = history(capsys, tmp_path, "--fail-on-shift", "--accept", "c006000")
    assert code == 0
    assert "worse now" not in out
    _, out, _ = history(capsys, tmp_path, "--accept", "c006000", "--metric", "perplexity.ppl")
    assert "begun anew at c006000000 2026-01-07, not comparable with before: accepted (1 s" in out
    for wrong in ("c0", "c0060001", "none0000"):
        code, _, err = history(capsys, tmp_path, "--accept", wrong)
        assert code == 4
        assert f"--accept {wrong}: expected 7 or more digits of a commit" in err


def test_what_the_newest_runs_may_have_begun_is_shown_and_does_not_fail(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(14):
        write_day(tmp_path, day, ppl((5.0 if day < 12 else 5.5) + day % 3 / 100))
    code, out, _ = history(capsys, tmp_path, "--fail-on-shift")
    assert code == 0
    assert "m[nf4] perplexity.ppl: possible: the newest 2 runs: +9.9 %, worse (5.01 → 5.505)" in out
    assert "; 1 more decides" in out


def test_a_jump_there_and_back_is_shown_with_its_size(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between other questions, too: one scale for the whole series."""
    for day, value in enumerate([1.942, 2.008, 1.942]):
        write_day(tmp_path, day, ppl(value))
    _, out, _ = history(capsys, tmp_path, "--metric", "perplexity.ppl")
    assert "▁█▁   1.942 → 1.942" in out
    assert "m[nf4] perplexity.ppl: 1.942, 2.008 (+3.4 %), 1.942 (-3.3 %)" in out


def test_the_same_as_markdown_and_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_change(tmp_path)
    _, out, _ = history(capsys, tmp_path, "--format", "md")
    assert "| m\\[nf4\\] | perplexity.ppl | ▁▁▁▁▁▁████ | 5 → 5.5 |" in out
    assert "- m\\[nf4\\] perplexity.ppl at c006000000 2026-01-07: +10 %, worse" in out
    data = read(capsys, tmp_path)
    first, second = data["groups"][0]["series"]
    (point,) = first["segments"][0]["change_points"]
    assert point["observation"]["sha"].startswith("c006")
    assert point["previous"]["sha"].startswith("c005")
    assert (point["before"], point["after"], point["meaning"]) == (5.0, 5.5, "worse")
    assert second["metric"] == "throughput.decode_tokens_per_s[1]"
    assert not second["notable"]


def test_a_named_metric_is_shown_though_nothing_changed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_change(tmp_path)
    for name in ("throughput.decode_tokens_per_s", "throughput.decode_tokens_per_s[1]"):
        _, out, _ = history(capsys, tmp_path, "--metric", name)
        assert "m[nf4]  throughput.decode_tokens_per_s[1]  ▄▄▄▄▄▄▄▄▄▄  40 → 40 tokens/s" in out
        assert "perplexity" not in out
    _, out, _ = history(
        capsys, tmp_path, "--metric", "perplexity.ppl", "--metric", "throughput.decode_tokens_per_s"
    )
    assert "perplexity.ppl" in out
    assert "decode_tokens_per_s[1]" in out


def test_values_compared_with_the_reference_are_shown_where_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(4):
        write_day(tmp_path, day, ppl(5.0, paired={"ratio": make_value(1.25)}))
    assert list_values(read(capsys, tmp_path)) == [5.0] * 4
    assert list_values(read(capsys, tmp_path, "--metric", "perplexity.ratio")) == [1.25] * 4


def test_cells_and_suites_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for day in range(4):
        other = make_record("perplexity", "int8", values={"ppl": make_value(7.0)})
        write_day(tmp_path, day, ppl(5.0), other)
        write_day(tmp_path, day, ppl(6.0), suite="nightly")
    chosen = ("--cell", "m[nf4]", "--suite", "nightly")
    assert list_values(read(capsys, tmp_path, *chosen)) == [6.0] * 4
    chosen = ("--cell", "m[int8]", "--suite", "smoke")
    assert list_values(read(capsys, tmp_path, *chosen)) == [7.0] * 4


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--metric", "perplexity.pl"], "did you mean 'perplexity.ppl'?"),
        (["--metric", "throughput.decode_tokens_per_s[8]"], "did you mean 'throughput.decode"),
        (["--cell", "m[nf5]"], "unknown cell 'm[nf5]'; did you mean 'm[nf4]'?"),
        (["--suite", "smok"], "unknown suite 'smok'; did you mean 'smoke'?"),
        (["--last", "0"], "0 is not in the range x>=1"),
    ],
)
def test_a_name_that_no_file_holds_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_change(tmp_path)
    code, out, err = history(capsys, tmp_path, *arguments)
    assert (code, out) == (4, "")
    assert message in err


def test_the_last_runs_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for day in range(8):
        write_day(tmp_path, day, ppl(float(day + 1)))
    assert list_values(read(capsys, tmp_path, "--last", 3)) == [6.0, 7.0, 8.0]
    assert read(capsys, tmp_path, "--last", 3)["groups"][0]["runs"] == 3


def test_runs_are_ordered_by_time_not_by_name_or_time_zone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(3):
        path = write_day(tmp_path, day, ppl(float(day + 1)))
    data = json.loads(path.read_text())
    # Nine in the morning in Tokyo is midnight in UTC: three hours before the second day.
    data["run"]["utc"] = "2026-01-02T09:00:00+09:00"
    path.write_text(json.dumps(data))
    assert list_values(read(capsys, tmp_path)) == [1.0, 3.0, 2.0]


def test_another_protocol_begins_a_series_anew_and_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(12):
        protocol = {"context": 512 if day < 6 else 1024, "text": {"path": f"{day}.txt"}}
        write_day(tmp_path, day, ppl(5.0 if day < 6 else 4.0, protocol=protocol))
    _, out, _ = history(capsys, tmp_path, "--metric", "perplexity.ppl")
    assert "██████│▁▁▁▁▁▁  4 → 4" in out
    assert "begun anew at c006000000 2026-01-07, not comparable" in out
    assert "protocol.context 512 → 1024 (1 series)" in out
    assert "better" not in out
    assert "method" not in out


def test_other_weights_go_on_with_a_series_and_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(8):
        record = ppl(5.0 if day < 4 else 6.0)
        facts = {"weights_sha256": "a" * 64 if day < 4 else "b" * 64}
        cell = record.cell.model_copy(update=facts)
        write_day(tmp_path, day, record.model_copy(update={"cell": cell}))
    _, out, _ = history(capsys, tmp_path)
    assert "+20 %, worse (5 → 6); before it c003000000; new: weights" in out


def test_another_device_is_another_series(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(8):
        write_day(tmp_path, day, ppl(5.0), cpu=CPU if day < 4 else "AMD EPYC 9654")
    groups = read(capsys, tmp_path)["groups"]
    assert [(g["device"], g["runs"]) for g in groups] == [
        ("cpu-amd-epyc-9654", 4),
        ("cpu-intel-xeon", 4),
    ]


def test_what_has_no_number_is_left_out_and_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_day(tmp_path, 0, ppl(5.0))
    write_day(tmp_path, 1, ppl(99.0, status="invalid", reasons=("hot",)))
    write_day(tmp_path, 2, ppl(None, status="failed"))
    write_day(tmp_path, 3, ppl(None))
    write_day(tmp_path, 4, ppl(5.0, status="flagged", reasons=("warm",)))
    write_day(tmp_path, 5, ppl(98.0, noise=True))
    assert list_values(read(capsys, tmp_path)) == [5.0, 5.0]
    _, out, _ = history(capsys, tmp_path)
    counts = "left out: records failed: 1, records invalid: 1, values unavailable: 1"
    assert out.splitlines()[-1] == counts


def test_a_number_measured_once_counts_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_day(tmp_path, 0, ppl(5.0), make_record("memory", status="failed"))
    (tmp_path / "copy.json").write_bytes((tmp_path / "smoke/100.json").read_bytes())
    write_day(tmp_path, 1, ppl(5.0, reused_from=f"smoke/0-{CPU}"))
    for day in (2, 3):  # of a run whose file is not there
        write_day(tmp_path, day, ppl(6.0, reused_from="smoke/gone"))
    data = read(capsys, tmp_path)
    assert list_values(data) == [5.0, 6.0]
    assert data["groups"][0]["runs"] == 4
    assert data["left_out"] == {"records failed": 1}


def test_runs_of_a_changed_work_tree_are_marked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(8):
        write_day(tmp_path, day, ppl(5.0 if day < 4 else 6.0), dirty=day == 4)
    _, out, _ = history(capsys, tmp_path)
    assert "8 runs, 2026-01-01 to 2026-01-08 (1 of a changed work tree, marked +)" in out
    assert "c004000000+ 2026-01-05: +20 %, worse" in out


def test_libraries_that_are_new_with_a_change_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(8):
        libraries = {"torch": "2.12" if day < 4 else "2.13", "datasets": "4"}
        write_day(tmp_path, day, ppl(5.0 if day < 4 else 6.0), libraries=libraries)
    _, out, _ = history(capsys, tmp_path)
    assert "before it c003000000; new: torch 2.12 → 2.13\n" in out


def test_files_that_cannot_be_read_are_named_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(4):
        write_day(tmp_path, day, ppl(5.0))
    good = json.loads((tmp_path / "smoke/100.json").read_text())
    damaged = {
        "cut.json": json.dumps(good)[:200],
        "newer.json": json.dumps({**good, "schema": 99}),
        "edited.json": json.dumps({**good, "records": [{"measurement": "perplexity"}]}),
        "text.json": json.dumps(good).replace("5.0", '"five"'),
        "time.json": json.dumps(good).replace("2026-01-01T03:00:00+00:00", "yesterday"),
    }
    for name, content in damaged.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "thresholds.json").write_text('{"schema": 1, "values": {}}')
    code, out, err = history(capsys, tmp_path)
    assert code == 0
    assert "4 runs" in out
    assert "left out: JSON files that are no run files: 1" in out
    lines = err.splitlines()
    assert len(lines) == len(damaged)
    for name in damaged:
        assert any(f"/{name}: " in line for line in lines), name
    assert "update" in next(line for line in lines if "newer" in line)
    assert "records.0.cell: Field required" in next(line for line in lines if "edited" in line)


def test_many_damaged_files_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_day(tmp_path, 0, ppl(5.0))
    for i in range(9):
        (tmp_path / f"cut{i}.json").write_text("{")
    _, _, err = history(capsys, tmp_path)
    assert len(err.splitlines()) == 6
    assert err.splitlines()[-1] == "warning: skipped 4 more files that cannot be read"


@pytest.mark.parametrize("content", [None, "{", '{"a": 1}'])
def test_a_folder_without_a_run_is_refused(
    content: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if content:
        (tmp_path / "a.json").write_text(content)
    code, out, err = history(capsys, tmp_path)
    assert (code, out) == (4, "")
    assert "no run file that can be read" in err
    code, _, err = history(capsys, tmp_path / "nowhere")
    assert code == 4
    assert "expected a folder" in err


def test_nothing_in_a_file_acts_on_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for day in range(4):
        write_day(tmp_path, day, make_record("perplexity", "\x1b[2J", values={"ppl": 5.0}))
    _, out, _ = history(capsys, tmp_path, "--metric", "perplexity.ppl")
    assert "\x1b" not in out


def test_a_long_history_is_drawn_no_wider_than_a_line() -> None:
    observations = [
        Observation(f"r{i}", f"{i:04}", None, False, 1.0 if i < 150 else 2.0, {"w": i // 100}, {})
        for i in range(200)
    ]
    series = Series("s", "d", "c", "m.v", "", None, None, divide(observations, logarithmic=False))
    assert draw_trend(series) == "▁" * 20 + "│" + "▁" * 10 + "█" * 10
