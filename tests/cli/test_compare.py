"""harness compare and bless: files, folders, revisions, and every way they can be wrong."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from harness.cli import main
from harness.records.run_file import Run, write_run
from tests.support.records import (
    ENVIRONMENT,
    make_choices,
    make_peaks,
    make_perplexity,
    make_run,
    make_speeds,
)

Capture = pytest.CaptureFixture[str]
SAME = make_run(make_choices(n=2000), make_peaks(1 << 30))
WORSE = make_run(make_choices(60, 10, 2000), make_peaks(1 << 30))
OPEN = make_run(make_choices(25, 10, 2000), make_peaks(1 << 30))


def save(run: Run, path: Path) -> str:
    return str(write_run(run, path))


def compare(capsys: Capture, *arguments: str) -> tuple[int, str, str]:
    code = main(["compare", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize(
    ("b", "options", "code"),
    [
        (SAME, (), 0),
        (WORSE, (), 1),
        (OPEN, (), 0),
        (OPEN, ("--on-inconclusive", "fail"), 2),
        (make_run(make_choices(n=2000, protocol={"shots": 0})), (), 3),
        (make_run(make_choices(n=2000, protocol={"shots": 0})), ("--allow", "protocol"), 0),
    ],
    ids=["same", "worse", "open", "strict", "incomparable", "allowed"],
)
def test_the_exit_status_is_the_verdict(
    tmp_path: Path, capsys: Capture, b: Run, options: tuple[str, ...], code: int
) -> None:
    paths = [save(SAME, tmp_path / "a.json"), save(b, tmp_path / "b.json")]
    assert compare(capsys, *paths, *options)[0] == code


def test_a_folder_stands_for_its_newest_run(tmp_path: Path, capsys: Capture) -> None:
    for side, runs in (("a", [WORSE, SAME]), ("b", [SAME, WORSE])):
        for day, run in enumerate(runs):
            save(run, tmp_path / side / "s" / f"2026010{day + 1}T000000Z-abcdef1234-cpu-xeon.json")
    code, out, _ = compare(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    assert code == 1
    assert "20260102T000000Z" in out.splitlines()[0]
    assert out.splitlines()[0].endswith(".json (the newest of 2 runs)")


def test_an_interrupted_run_is_not_taken_without_a_word(tmp_path: Path, capsys: Capture) -> None:
    said = {"interrupted": True, "remarks": ("a remark", "interrupted: 2 of 6 measurements made")}
    cut = SAME.model_copy(update={"run": SAME.run.model_copy(update=said)})
    save(SAME, tmp_path / "s/20260101T000000Z-abcdef1234-cpu-xeon.json")
    newest = save(cut, tmp_path / "s/20260102T000000Z-abcdef1234-cpu-xeon.json")
    _, out, _ = compare(capsys, str(tmp_path), newest)
    a, b = out.splitlines()[:2]
    assert a == f"A: {newest} (the newest of 2 runs; interrupted: 2 of 6 measurements made)"
    assert b == f"B: {newest} (interrupted: 2 of 6 measurements made)"


def test_boards_of_one_family_are_different_devices(tmp_path: Path, capsys: Capture) -> None:
    """The 3090 and the 4090 are no first and second run of a second."""
    for name in ("cuda-rtx-3090", "cuda-rtx-4090"):
        save(SAME, tmp_path / "s" / f"20260101T000000Z-abcdef1234-{name}.json")
    from harness.records.find_runs import find_runs

    assert len(find_runs(str(tmp_path), tmp_path)) == 2


def git(folder: Path, *arguments: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True
    ).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two commits with different results, and a work tree with others."""
    git(tmp_path, "init", "-q")
    path = tmp_path / "results/reference/s/20260101T000000Z-abcdef1234-cpu-xeon.json"
    for run, name in ((SAME, "first"), (WORSE, "second")):
        save(run, path)
        git(tmp_path, "add", "results")
        git(tmp_path, "commit", "-q", "-m", name)
    path.write_text("not committed")
    return tmp_path


def test_two_commits_are_compared_by_revision(repository: Path, capsys: Capture) -> None:
    """Read from git's objects: what lies in the work tree stays what it is."""
    code, out, err = compare(capsys, "HEAD~1", "HEAD", "--root", str(repository))
    assert code == 1, err
    assert out.startswith("A: HEAD~1:results/reference/s/")
    assert "mmlu.acc" in out
    assert git(repository, "status", "--porcelain").startswith("M")
    assert compare(capsys, "HEAD", "HEAD", "--root", str(repository))[0] == 0


def test_a_file_is_compared_with_a_revision(repository: Path, capsys: Capture) -> None:
    path = save(SAME, repository / "now.json")
    assert compare(capsys, "HEAD", path, "--root", str(repository))[0] == 0
    assert compare(capsys, path, "HEAD", "--root", str(repository))[0] == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cut.json", '{"schema": 2, "run": {', "not a readable run file"),
        ("newer.json", '{"schema": 99}', "found 99; a newer precision-harness wrote it"),
        ("edited.json", '{"schema": 2, "run": {}}', "run.id: Field required"),
        ("list.json", "[]", "found None"),
    ],
)
def test_what_is_no_run_file_ends_in_one_line(
    tmp_path: Path, capsys: Capture, name: str, content: str, message: str
) -> None:
    good = save(SAME, tmp_path / "a.json")
    (tmp_path / name).write_text(content)
    for pair in ((good, str(tmp_path / name)), (str(tmp_path / name), good)):
        code, out, err = compare(capsys, *pair)
        assert (code, out) == (4, "")
        assert message in err
        assert name in err
        assert "Traceback" not in err
        assert len(err.splitlines()) == 1


def test_an_edited_number_of_the_wrong_type_is_named(tmp_path: Path, capsys: Capture) -> None:
    good = save(SAME, tmp_path / "a.json")
    data = json.loads(Path(good).read_text())
    data["records"][0]["values"]["acc"]["value"] = "half"
    (tmp_path / "b.json").write_text(json.dumps(data))
    code, _, err = compare(capsys, good, str(tmp_path / "b.json"))
    assert code == 4
    assert "records.0.values.acc.value" in err


def test_damaged_thresholds_are_called_thresholds(tmp_path: Path, capsys: Capture) -> None:
    run, kept = save(SAME, tmp_path / "a.json"), tmp_path / "cpu-xeon.json"
    kept.write_text('{\n "schema": 2,\n "suite": "s",\n "device": "cpu-xeon",\n "ce')
    code, _, err = compare(capsys, str(kept), run)
    assert code == 4
    assert "cpu-xeon.json: not a readable thresholds file" in err


def test_a_run_without_records_and_a_record_twice_are_refused(
    tmp_path: Path, capsys: Capture
) -> None:
    good = save(SAME, tmp_path / "a.json")
    empty = save(make_run(), tmp_path / "empty.json")
    assert "has no record" in compare(capsys, good, empty)[2]
    twice = save(make_run(make_choices(), make_choices()), tmp_path / "twice.json")
    code, _, err = compare(capsys, good, twice)
    assert code == 4
    assert "two records of m[nf4]::mmlu" in err


def test_different_suites_have_nothing_to_compare(tmp_path: Path, capsys: Capture) -> None:
    paths = [save(make_run(make_choices(), suite=name), tmp_path / f"{name}.json") for name in "ab"]
    code, _, err = compare(capsys, *paths)
    assert code == 4
    assert "A has runs of a, B of b" in err


def test_neither_path_nor_revision(repository: Path, capsys: Capture) -> None:
    code, _, err = compare(capsys, "HEAD", "nosuch", "--root", str(repository))
    assert code == 4
    assert "'nosuch' is neither a run file or folder, nor a git revision" in err
    (repository / "leer").mkdir()
    assert "no run file in this folder" in compare(capsys, str(repository / "leer"), "HEAD")[2]


def test_a_revision_without_results(tmp_path: Path, capsys: Capture) -> None:
    git(tmp_path, "init", "-q")
    git(tmp_path, "commit", "-q", "--allow-empty", "-m", "nothing")
    code, _, err = compare(capsys, "HEAD", "HEAD", "--root", str(tmp_path))
    assert code == 4
    assert "no run file is committed under results/" in err


def test_a_field_that_does_not_differ_was_probably_misspelt(
    tmp_path: Path, capsys: Capture
) -> None:
    path = save(SAME, tmp_path / "a.json")
    code, _, err = compare(capsys, path, path, "--allow", "librarys,protocol.shot")
    assert code == 0
    assert "--allow librarys: stops no comparison" in err
    assert "--allow protocol.shot: both sides have the same" in err


def test_the_formats_say_the_same(tmp_path: Path, capsys: Capture) -> None:
    paths = [save(SAME, tmp_path / "a.json"), save(WORSE, tmp_path / "b.json")]
    [data] = json.loads(compare(capsys, *paths, "--format", "json")[1])
    assert data["verdict"] == "FAIL"
    assert "| m\\[nf4\\] |" in compare(capsys, *paths, "--format", "md")[1]


def test_a_run_is_judged_by_thresholds(tmp_path: Path, capsys: Capture) -> None:
    good = save(SAME, tmp_path / "a.json")
    assert main(["bless", good, "--reason", "x", "--root", str(tmp_path)]) == 0
    capsys.readouterr()
    thresholds = str(tmp_path / "results/thresholds/s/cpu-xeon.json")
    code, out, _ = compare(capsys, thresholds, good)
    assert (code, out.splitlines()[-1]) == (0, "6 PASS")
    code, out, _ = compare(capsys, thresholds, save(WORSE, tmp_path / "b.json"))
    assert (code, out.splitlines()[-1]) == (1, "1 FAIL, 5 PASS")
    assert "mmlu.acc is 0.475 (95 % bounds 0.4" in out
    other = make_run(make_choices(n=2000, protocol={"shots": 0}))
    assert compare(capsys, thresholds, save(other, tmp_path / "c.json"))[0] == 3
    [data] = json.loads(compare(capsys, thresholds, good, "--format", "json")[1])
    assert {v["against"] for v in data["verdicts"]} == {"threshold"}
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "results")
    git(tmp_path, "commit", "-q", "-m", "blessed")
    code, out, _ = compare(capsys, "HEAD", good, "--root", str(tmp_path))
    assert (code, out.splitlines()[0]) == (0, "thresholds: HEAD:results/thresholds/s/cpu-xeon.json")


def test_a_run_that_lost_what_is_blessed_fails(tmp_path: Path, capsys: Capture) -> None:
    good = save(make_run(make_choices(), make_speeds(100.0)), tmp_path / "a.json")
    assert main(["bless", good, "--reason", "x", "--root", str(tmp_path)]) == 0
    capsys.readouterr()
    thresholds = str(tmp_path / "results/thresholds/s/cpu-xeon.json")
    died = make_speeds(1.0, status="failed", reasons=("killed by SIGSEGV",))
    code, out, _ = compare(
        capsys, thresholds, save(make_run(make_choices(), died), tmp_path / "b.json")
    )
    assert code == 1
    assert "m[nf4] throughput failed: killed by SIGSEGV" in out
    part = save(make_run(make_choices()), tmp_path / "c.json")
    code, out, _ = compare(capsys, thresholds, part, "--on-inconclusive", "fail")
    assert code == 2
    assert "m[nf4] throughput was not measured" in out
    assert "they go first" in compare(capsys, part, thresholds)[2]
    of_other = Path(thresholds).read_text().replace('"suite": "s"', '"suite": "other"')
    (tmp_path / "other.json").write_text(of_other)
    code, _, err = compare(capsys, str(tmp_path / "other.json"), part)
    assert code == 4
    assert "holds thresholds of suite 'other', this is 's'" in err


def test_what_was_allowed_is_shown_with_what_still_stops_a_comparison(
    tmp_path: Path, capsys: Capture
) -> None:
    cell = make_choices().cell.model_copy(update={"tokenizer_sha256": "other"})
    other = make_run(make_choices(protocol={"shots": 0}).model_copy(update={"cell": cell}))
    good = save(make_run(make_choices()), tmp_path / "a.json")
    assert main(["bless", good, "--reason", "x", "--root", str(tmp_path)]) == 0
    capsys.readouterr()
    b = save(other, tmp_path / "b.json")
    for a in (good, str(tmp_path / "results/thresholds/s/cpu-xeon.json")):
        code, out, err = compare(capsys, a, b, "--allow", "tokenizer")
        assert (code, err) == (3, "")
        assert "protocol.shots (5 → 0)" in out
        assert compare(capsys, a, b, "--allow", "tokenizer, protocol")[0] == 0
    assert (
        "tokenizer (none → other) was allowed to differ"
        in compare(capsys, good, b, "--allow", "tokenizer")[1]
    )


def test_two_suites_of_one_folder_are_both_compared(tmp_path: Path, capsys: Capture) -> None:
    for side, speed in (("a", 100.0), ("b", 50.0)):
        slow = make_run(make_speeds(speed), suite="slow")
        save(slow, tmp_path / side / "20260101T000000Z-abcdef1234-cpu-xeon.json")
        same = make_run(make_choices(), suite="same", id="same/20260102T000000Z-a-cpu-xeon")
        save(same, tmp_path / side / "20260102T000000Z-abcdef1234-cpu-xeon.json")
    code, out, _ = compare(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    assert code == 1
    assert "throughput.decode_tokens_per_s[1]" in out


def test_a_run_is_compared_with_that_of_its_own_board(tmp_path: Path, capsys: Capture) -> None:
    def save_on(side: str, board: str, day: int) -> None:
        environment = {**ENVIRONMENT, "cpu": {"name": board}}
        run = make_run(
            make_choices(), environment=environment, utc=f"2026-01-0{day}T00:00:00+00:00"
        )
        save(run, tmp_path / side / f"2026010{day}T000000Z-abcdef1234-cpu-{board.lower()}.json")

    for side in "ab":
        save_on(side, "EPYC", 1)
        save_on(side, "Xeon", 2)
    code, out, _ = compare(capsys, str(tmp_path / "a"), str(tmp_path / "b"))
    assert code == 0
    sides = [line for line in out.splitlines() if line[:2] in ("A:", "B:")]
    assert ["epyc" in line for line in sides] == [True, True, False, False]


@pytest.mark.parametrize(
    ("measurement", "field", "value"),
    [
        (0, "right", 5),
        (0, "right", None),
        (1, "chunk_nll", [1.0]),
        (1, "chunk_nll", ["a", "b"]),
        (1, "chunk_tokens", "many"),
    ],
)
def test_edited_items_end_in_one_line(
    tmp_path: Path, capsys: Capture, measurement: int, field: str, value: object
) -> None:
    good = save(make_run(make_choices(), make_perplexity(150.0, 151.0)), tmp_path / "a.json")
    data = json.loads(Path(good).read_text())
    data["records"][measurement]["items"][field] = value
    (tmp_path / "b.json").write_text(json.dumps(data))
    code, _, err = compare(capsys, good, str(tmp_path / "b.json"))
    assert code in (3, 4)
    assert "Traceback" not in err


def test_what_a_file_says_is_no_command_to_a_terminal_or_to_github(
    tmp_path: Path, capsys: Capture
) -> None:
    evil = "2.13\n::error::owned \x1b[2J"
    other = make_run(make_choices(protocol={"shots": evil}))
    paths = [save(make_run(make_choices()), tmp_path / "a.json"), save(other, tmp_path / "b.json")]
    for form in ("text", "md"):
        code, out, _ = compare(capsys, *paths, "--format", form)
        assert code == 3
        assert not any(line.startswith("::") for line in out.splitlines())
        assert "\x1b" not in out


# bless


def test_a_run_is_blessed_and_what_changes_is_printed(tmp_path: Path, capsys: Capture) -> None:
    path = save(make_run(make_choices(), make_speeds(100.0)), tmp_path / "a.json")
    arguments = ["bless", path, "--reason", "first", "--root", str(tmp_path)]
    assert main(arguments) == 0
    assert "m[nf4] mmlu.acc: new, 0.5" in capsys.readouterr().out
    assert (tmp_path / "results/thresholds/s/cpu-xeon.json").exists()
    assert main(arguments) == 0
    assert "no value changed" in capsys.readouterr().out


def test_what_cannot_be_blessed_leaves_the_file_as_it_was(tmp_path: Path, capsys: Capture) -> None:
    path = save(make_run(make_choices(), git_dirty=True), tmp_path / "a.json")
    assert main(["bless", path, "--reason", "x", "--root", str(tmp_path)]) == 4
    assert "a dirty tree" in capsys.readouterr().err
    assert not (tmp_path / "results").exists()
    assert main(["bless", path]) == 4
