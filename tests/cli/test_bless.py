"""harness bless: run files to thresholds, as a person uses it in a repository."""

from __future__ import annotations

import difflib
from pathlib import Path

import pytest

from harness.cli import main
from harness.records.run_file import Run, write_run
from harness.verdicts.thresholds import read_thresholds
from tests.support.records import ENVIRONMENT, make_choices, make_peaks, make_run, make_speeds

Capture = pytest.CaptureFixture[str]


class Repository:
    """A folder with run files, and the thresholds made of them."""

    def __init__(self, folder: Path, capsys: Capture) -> None:
        self.folder = folder
        self.thresholds = folder / "results/thresholds/s/cpu-xeon.json"
        self._capsys = capsys

    def save(self, run: Run, name: str) -> str:
        return str(write_run(run, self.folder / "results/runs/s" / f"{name}-cpu-xeon.json"))

    def bless(self, *runs: str, reason: str = "why") -> tuple[int, str, str]:
        code = main(["bless", *runs, "--reason", reason, "--root", str(self.folder)])
        out, err = self._capsys.readouterr()
        return code, out, err


@pytest.fixture
def repository(tmp_path: Path, capsys: Capture) -> Repository:
    return Repository(tmp_path, capsys)


DAY, NEXT = "20260101T000000Z-abcdef1234", "20260102T000000Z-abcdef1234"


def test_several_runs_make_one_file_and_every_value_is_printed(repository: Repository) -> None:
    runs = [
        repository.save(make_run(make_speeds(s, None, 1), id=f"s/{s}"), f"{s}")
        for s in (99.9, 100.0, 100.1)
    ]
    code, out, _ = repository.bless(*runs)
    assert code == 0
    assert out.splitlines() == [
        "m[nf4] throughput.decode_tokens_per_s[1]: new, 100 tokens/s",
        "3 runs of one night show nothing of how nights differ: many verdicts on 1 speed will be "
        "INCONCLUSIVE; bless runs of 3 nights",
        f"thresholds: {repository.thresholds}: review and commit it",
    ]
    stored = read_thresholds(repository.thresholds)
    assert stored.cells["m[nf4]"]["throughput"].values["decode_tokens_per_s[1]"].n == 3


def test_the_diff_of_a_bless_is_what_was_blessed(repository: Repository) -> None:
    first = repository.save(make_run(make_choices(), make_peaks(1 << 30)), DAY)
    assert repository.bless(first, reason="first")[0] == 0
    before = repository.thresholds.read_text().splitlines()
    later = repository.save(make_run(make_choices(lost=3), id="s/2", git_sha="1" * 40), NEXT)
    code, out, _ = repository.bless(later, reason="a new tokenizer")
    assert code == 0
    assert "m[nf4] mmlu.acc: 0.5 → 0.497 (-0.60%), looser; margin 0.01 → 0.01" in out
    after = repository.thresholds.read_text().splitlines()
    changed = [
        line[1:].strip()
        for line in difflib.unified_diff(before, after, lineterm="", n=0)
        if line[0] == "+" and line[:3] != "+++"
    ]
    names = [line.partition(":")[0].strip('"') for line in changed]
    assert [name for name in names if name != "when"] == [
        "commit",
        "run",
        "s/2",  # of all its runs
        "reason",
        "items",
        "value",
        "row",
    ]
    assert '"reason": "a new tokenizer",' in changed


def test_a_folder_is_its_newest_run(repository: Repository) -> None:
    repository.save(make_run(make_peaks(1 << 30)), DAY)
    newest = repository.save(make_run(make_peaks(1 << 20), id="s/2"), NEXT)
    assert repository.bless(str(Path(newest).parent))[0] == 0
    blessed = read_thresholds(repository.thresholds).cells["m[nf4]"]["memory"]
    assert (blessed.run, blessed.values["peak_bytes"].value) == ("s/2", 1 << 20)


def test_what_is_left_out_is_printed_and_the_rest_blessed(repository: Repository) -> None:
    run = repository.save(make_run(make_speeds(100.0, None, 1), make_peaks(1 << 30)), DAY)
    code, out, _ = repository.bless(run)
    assert code == 0
    assert "not blessed: m[nf4] throughput.decode_tokens_per_s[1]: 1 processes, 3 are" in out
    assert set(read_thresholds(repository.thresholds).cells["m[nf4]"]) == {"memory"}


@pytest.mark.parametrize(
    ("runs", "reason", "message"),
    [
        ([make_run(make_peaks(9), git_dirty=True)], "why", "of a dirty tree: commit first"),
        ([make_run(make_peaks(9), interrupted=True)], "why", "was interrupted"),
        ([make_run(make_peaks(9))], "  ", "a reason is needed"),
        ([make_run(make_peaks(9))] * 2, "why", "was given twice"),
        (
            [
                make_run(make_choices()),
                make_run(
                    make_choices(),
                    environment={**ENVIRONMENT, "cpu": {**ENVIRONMENT["cpu"], "name": "EPYC"}},
                ),
            ],
            "why",
            "different devices: cpu-epyc, cpu-xeon",
        ),
    ],
    ids=["dirty", "interrupted", "reason", "twice", "devices"],
)
def test_a_refusal_is_one_line_and_leaves_the_file_as_it_was(
    repository: Repository, runs: list[Run], reason: str, message: str
) -> None:
    assert repository.bless(repository.save(make_run(make_peaks(1 << 30)), DAY))[0] == 0
    before = repository.thresholds.read_bytes()
    paths = [repository.save(run, f"{i}") for i, run in enumerate(runs)]
    code, out, err = repository.bless(*paths, reason=reason)
    assert (code, out) == (4, "")
    assert message in err
    assert len(err.splitlines()) == 1
    assert repository.thresholds.read_bytes() == before
    assert [path.name for path in repository.thresholds.parent.iterdir()] == ["cpu-xeon.json"]


def test_a_damaged_file_is_not_written_over(repository: Repository) -> None:
    run = repository.save(make_run(make_peaks(1 << 30)), DAY)
    assert repository.bless(run)[0] == 0
    repository.thresholds.write_text(repository.thresholds.read_text()[:-9])
    before = repository.thresholds.read_bytes()
    code, _, err = repository.bless(run)
    assert code == 4
    assert f"{repository.thresholds}: not a readable thresholds file" in err
    assert repository.thresholds.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nosuch.json", "--reason", "x"], "neither a run file or folder, nor a git revision"),
        (["--reason", "x"], "Missing argument"),
        (["nosuch.json"], "Missing option '--reason'"),
    ],
)
def test_wrong_arguments_are_answered(
    capsys: Capture, tmp_path: Path, arguments: list[str], message: str
) -> None:
    assert main(["bless", *arguments, "--root", str(tmp_path)]) == 4
    assert message in capsys.readouterr().err
