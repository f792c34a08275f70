"""Records, journal, run file: nothing is lost, nothing half-written is read, no NaN is stored."""

from __future__ import annotations

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from harness.catalog import load_measurement
from harness.cli.schema import format_schema, locate_schema
from harness.records.journal import Journal, recover_journals
from harness.records.record import Record, Value, dump_json
from harness.records.run_file import SCHEMA, Run, RunFacts, read_run, write_run
from tests.support.records import make_record


def make_run(*records: Record) -> Run:
    facts = RunFacts(
        id="s/1", utc="2026-01-01T00:00:00+00:00", argv=["pytest"], git_sha=None, git_dirty=None,
        device="cpu",
    )  # fmt: skip
    return Run(schema=SCHEMA, run=facts, environment={"cpu": {}}, suite={}, records=records)


FIRST = make_record("perplexity", values={"ppl": Value(value=2.5, stderr=0.1, n=3)})
SECOND = make_record("mmlu", "nf4", reasons=("× naïve 🦙",), values={"acc": 0.5, "items": 4})


def journal_path(folder: Path) -> Path:
    return folder / "run.journal.jsonl"


def orphan(folder: Path, *records: Record) -> Path:
    """A journal whose process is gone."""
    journal = Journal(journal_path(folder), make_run())
    for record in records:
        journal.append(record)
    journal.close()
    return journal.path


# The journal


def test_a_journal_of_an_older_schema_becomes_a_run_file_of_this_one(tmp_path: Path) -> None:
    run = read_run(Path(__file__).parent / "schema-2.json")
    journal = Journal(journal_path(tmp_path), run.model_copy(update={"records": ()}))
    journal.append(run.records[0])
    journal.close()
    header = json.loads(journal.path.read_text().partition("\n")[0])
    assert header["schema"] == 2
    [recovered] = recover_journals(tmp_path)
    content = json.loads(recovered.read_text())
    assert (content["schema"], content["run"]["interrupted"]) == (3, True)


def test_a_killed_process_leaves_a_journal_that_becomes_a_run_file(tmp_path: Path) -> None:
    """While it lives, its journal is not touched."""
    script = """
import sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from tests.records.test_record import FIRST, SECOND, journal_path, make_run
from harness.records.journal import Journal
journal = Journal(journal_path(Path(sys.argv[1])), make_run())
journal.append(FIRST)
journal.append(SECOND)
print("ready", flush=True)
time.sleep(600)
"""
    command = [sys.executable, "-c", script, str(tmp_path), str(Path(__file__).parents[2])]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        assert recover_journals(tmp_path) == []
        assert journal_path(tmp_path).exists()
        process.send_signal(signal.SIGKILL)
    [path] = recover_journals(tmp_path)
    assert path == tmp_path / "run.json"
    run = read_run(path)
    assert run.records == (FIRST, SECOND)
    assert run.run.interrupted
    assert run.run.remarks == ("cut off before its end: 2 measurements were finished",)
    assert not journal_path(tmp_path).exists()
    assert recover_journals(tmp_path) == []


def test_a_last_line_cut_in_half_is_dropped_wherever_it_was_cut(tmp_path: Path) -> None:
    """Inside a character of several bytes, too."""
    content = orphan(tmp_path, FIRST, SECOND).read_bytes()
    end_of_first = content[:-1].rindex(b"\n") + 1
    llama = content.index("🦙".encode())
    for cut in (end_of_first, end_of_first + 1, llama + 1, llama + 3, len(content) - 1):
        journal_path(tmp_path).write_bytes(content[:cut])
        [path] = recover_journals(tmp_path)
        assert read_run(path).records == (FIRST,), cut
        path.unlink()


def test_of_a_record_that_was_written_again_the_last_counts(tmp_path: Path) -> None:
    more = FIRST.model_copy(update={"seconds": {"total": 2.0}})
    again = FIRST.model_copy(update={"noise": True})
    orphan(tmp_path, FIRST, SECOND, more, again)
    [path] = recover_journals(tmp_path)
    run = read_run(path)
    assert run.records == (more, SECOND, again)
    assert run.run.remarks == ("cut off before its end: 3 measurements were finished",)


@pytest.mark.parametrize("kept", [0, 1, 30])
def test_a_journal_without_a_finished_record_leaves_nothing(tmp_path: Path, kept: int) -> None:
    content = orphan(tmp_path).read_bytes()
    journal_path(tmp_path).write_bytes(content[: -kept or None] if kept else content)
    assert recover_journals(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_a_journal_that_cannot_be_read_is_kept_aside_and_stops_nothing(tmp_path: Path) -> None:
    content = orphan(tmp_path, FIRST).read_bytes().replace(b'"utc"', b'"when"')
    journal_path(tmp_path).write_bytes(content)
    (tmp_path / "z.journal.jsonl").write_bytes(orphan(tmp_path / "z", SECOND).read_bytes())
    assert recover_journals(tmp_path) == [tmp_path / "z.json"]
    assert (tmp_path / "run.journal.unreadable").read_bytes() == content
    assert recover_journals(tmp_path) == []


def test_a_run_file_that_was_finished_is_not_replaced(tmp_path: Path) -> None:
    """The process died between writing it and removing the journal."""
    orphan(tmp_path, FIRST)
    finished = write_run(make_run(FIRST, SECOND), tmp_path / "run.json").read_bytes()
    assert recover_journals(tmp_path) == []
    assert (tmp_path / "run.json").read_bytes() == finished
    assert not journal_path(tmp_path).exists()


def test_a_journal_removed_while_it_is_looked_at_stays_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its owner finished just then: what it held is in the run file already."""
    journal = Journal(journal_path(tmp_path), make_run())
    journal.append(FIRST)
    lock = fcntl.flock

    def finish_first(*given: Any) -> None:
        journal.remove()
        lock(*given)

    monkeypatch.setattr(fcntl, "flock", finish_first)
    assert recover_journals(tmp_path) == []
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_recovered_from_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert recover_journals(tmp_path / "gone") == []


def test_a_removed_journal_is_gone_and_its_folder_made(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "deep" / "run.journal.jsonl", make_run())
    assert journal.path.read_text().count("\n") == 1
    journal.append(FIRST)
    assert journal.path.read_text().count("\n") == 2
    journal.remove()
    assert list((tmp_path / "deep").iterdir()) == []


# The run file


def test_a_run_reads_back_as_it_was_written(tmp_path: Path) -> None:
    run = make_run(FIRST, SECOND)
    path = write_run(run, tmp_path / "deep" / "run.json")
    assert read_run(path) == run
    assert list(path.parent.iterdir()) == [path]
    assert json.loads(path.read_text(encoding="utf-8"))["schema"] == SCHEMA


def test_integers_stay_integers(tmp_path: Path) -> None:
    record = make_record("footprint", values={"total_bytes": 2**53 + 1, "bits_per_weight": 4.0})
    again = read_run(write_run(make_run(record), tmp_path / "run.json")).records[0]
    assert again.values["total_bytes"].value == 2**53 + 1
    assert isinstance(again.values["bits_per_weight"].value, float)


def test_a_write_that_fails_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(make_run(FIRST), tmp_path / "run.json")
    before = path.read_bytes()

    def fail(*_: Any) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="disk full"):
        write_run(make_run(SECOND), path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_file_or_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_run(make_run(FIRST), tmp_path / "run.json")
    seen = []
    replace = os.replace

    def look(source: Any, target: Any) -> None:
        seen.extend([read_run(path), Run.model_validate_json(Path(source).read_text())])
        replace(source, target)

    monkeypatch.setattr(os, "replace", look)
    write_run(make_run(SECOND), path)
    assert [run.records for run in (*seen, read_run(path))] == [(FIRST,), (SECOND,), (SECOND,)]


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_no_nan_is_ever_written_bare(number: float) -> None:
    value = Value(value=number, stderr=number)
    assert (value.value, value.stderr) == (None, None)
    assert json.loads(dump_json(value))["value"] is None
    for place in ("items", "samples", "protocol"):
        text = dump_json(make_record("mmlu", **{place: {"x": [number, {"y": number}]}}))
        assert json.loads(text, parse_constant=pytest.fail)[place] == {"x": [None, {"y": None}]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not a readable run file"),
        (dump_json(make_run(FIRST))[:-1], "not a readable run file"),
        ("\udce9", "not a readable run file"),
        ("[]", f"expected a run file of schema {SCHEMA} or older, found None"),
        ("{}", f"expected a run file of schema {SCHEMA} or older, found None"),
        ('{"schema": 4}', f"expected a run file of schema {SCHEMA} or older, found 4; .*update"),
        ('{"schema": 0}', f"expected a run file of schema {SCHEMA} or older, found 0$"),
        ('{"schema": 1}', "not a valid run file: run: Field required"),
    ],
    ids=["empty", "truncated", "not UTF-8", "list", "no schema", "newer", "never", "missing"],
)
def test_a_file_that_is_no_run_is_refused_by_name(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError, match=rf"^{path}: (?s:{message})"):
        read_run(path)


def test_a_missing_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"gone\.json: not a readable run file"):
        read_run(tmp_path / "gone.json")


def test_an_unknown_field_is_refused(tmp_path: Path) -> None:
    data = json.loads(dump_json(make_run(FIRST)))
    data["records"][0]["valuess"] = {}
    (tmp_path / "x.json").write_text(json.dumps(data))
    with pytest.raises(ValueError, match=r"x\.json: not a valid run file: (?s:.*)\.0\.valuess"):
        read_run(tmp_path / "x.json")


def test_a_record_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    path = write_run(make_run(FIRST, SECOND, FIRST), tmp_path / "x.json")
    with pytest.raises(ValueError, match=r"x\.json: .* two records of m\[fp32\]::perplexity"):
        read_run(path)
    noise = FIRST.model_copy(update={"noise": True})
    assert len(read_run(write_run(make_run(FIRST, noise), path)).records) == 2


def test_a_run_file_of_the_first_schema_can_be_read() -> None:
    """A file as version 1 wrote it, of the smoke suite."""
    run = read_run(Path(__file__).parent / "schema-1.json")
    ours, theirs = (
        next(r for r in run.records if r.measurement == "mmlu" and r.cell.precision == p)
        for p in ("nf4", "fp32")
    )
    assert ours.values["acc"].value == 498 / 504
    again = load_measurement("mmlu").compare(ours, theirs)["accuracy_drop"]
    assert again.value == ours.paired["accuracy_drop"].value
    assert again.bounds is not None


def test_a_run_file_of_the_second_schema_can_be_read() -> None:
    """It has no device's name and no remarks, and its limits have no positions."""
    run = read_run(Path(__file__).parent / "schema-2.json")
    assert [record.cell.precision for record in run.records] == ["fp32", "nf4"]
    assert run.records[1].verdicts[0].bounds is not None
    assert (run.run.device_name, run.run.baseline, run.run.remarks) == ("", None, ())
    assert "position" not in run.suite["limits"][0]


def test_a_record_is_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        FIRST.measurement = "mmlu"


# Its schema


@pytest.fixture(scope="module")
def validator() -> Any:
    schema = json.loads(locate_schema("run").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def test_the_shipped_schema_is_up_to_date() -> None:
    """If this fails, run ``python -m harness.cli.schema``."""
    assert locate_schema("run").read_text(encoding="utf-8") == format_schema("run")


def test_a_run_file_follows_the_schema(validator: Any, tmp_path: Path) -> None:
    orphan(tmp_path, FIRST, SECOND)
    [path] = recover_journals(tmp_path)
    validator.validate(json.loads(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data.pop("schema"),
        lambda data: data.update(schema=4),
        lambda data: data.update(extra=1),
        lambda data: data["run"].pop("utc"),
        lambda data: data["records"][0].pop("cell"),
        lambda data: data["records"][0]["validity"].update(status="fine"),
        lambda data: data["records"][0]["values"]["ppl"].update(value="2.5"),
        lambda data: data["records"][0]["values"]["ppl"].pop("value"),
    ],
)
def test_what_is_no_run_file_does_not_follow_the_schema(
    validator: Any, spoil: Any, tmp_path: Path
) -> None:
    data = json.loads(dump_json(make_run(FIRST)))
    validator.validate(data)
    spoil(data)
    assert not validator.is_valid(data)
    (tmp_path / "x.json").write_text(json.dumps(data))
    if data["records"][0].get("values", {}).get("ppl", {}).get("value") != "2.5":
        with pytest.raises(ValueError, match=r"x\.json"):
            read_run(tmp_path / "x.json")
