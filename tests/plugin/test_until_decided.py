"""--until-decided: more processes of what is open, in real runs; its options and their mistakes."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from tests.support.cells_in_process import write_checkpoint
from tests.support.projects import FAST_THROUGHPUT, Project, find_records, finish

pytestmark = pytest.mark.e2e
BF16, FP32 = "m[bf16]::throughput", "m[fp32]::throughput"
# One process shows no spread, so the limit is open at first; nothing is so slow that two or a few
# more leave it open. That it is one of speeds, not of a ratio, makes it hold on a busy machine.
SUITE = f"""name: s
reference: fp32
models: [{{name: m, source: ../model}}]
precisions: [fp32, bf16]
measure:
  {FAST_THROUGHPUT.replace("{", "{roofline: false, ")}
  footprint: {{}}
limits:
  - {{precision: bf16, metric: "throughput.decode_tokens_per_s[1]", min: 1e-9}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project(tmp_path)
    write_checkpoint(tmp_path / "model", num_hidden_layers=1)
    project.write("suites/s.yaml", SUITE)
    return project


def test_what_is_open_gets_more_processes_and_what_is_decided_none(project: Project) -> None:
    plain = project.run("-v")
    assert "INCONCLUSIVE" in plain.text
    outcome = project.run("-v", "--until-decided", "--at-most", "4m", "--on-inconclusive", "fail")
    assert outcome.code == 0, outcome.text
    assert set(outcome.results.values()) == {"PASSED"}
    # What is judged only when all is measured comes last.
    order = [name.rpartition("::")[2] for name in outcome.results]
    assert order == ["footprint", "footprint", "throughput", "throughput"]
    records = find_records(project.last_run("s"))
    record, other = records[BF16], records[FP32]
    looks = record.looks
    assert looks is not None
    assert other.looks is not None
    # No look has fewer than three processes; the other cell has no limit.
    assert looks.at == tuple(range(3, 3 + len(looks.at)))
    assert other.looks.at == ()
    # Every process is a sample, and its rounds are kept.
    n = looks.at[-1]
    measured = n - 1 + len(record.samples.get("left_out", ()))  # while the machine was busy
    speed = record.values["decode_tokens_per_s[1]"]
    assert speed.n == n
    assert record.samples["1"]["rounds_per_process"] == [3] * n
    assert len(record.telemetry) == n
    # The verdict's bounds are wider than those of a single look.
    [verdict] = record.verdicts
    assert verdict.bounds is not None
    assert speed.bounds is not None
    assert verdict.bounds[0] < speed.bounds[0]
    assert verdict.bounds[1] > speed.bounds[1]
    assert f"process {n} of at most 16, bounds that allow for {len(looks.at)} look" in verdict.text
    assert f"round {measured}: open are m[bf16] throughput.decode_tokens_per_s[1]" in outcome.text
    [said] = [one for one in project.last_run("s").run.remarks if "--until-decided" in one]
    assert f"{measured} more processes in {measured} rounds" in said
    assert said in " ".join(outcome.text.split())


def test_ctrl_c_in_a_round_keeps_what_was_measured_before(project: Project) -> None:
    project.write("suites/s.yaml", SUITE.replace("min_time_s: 0", "min_time_s: 5"))
    process = project.start("-v", "--until-decided")
    assert process.stdout is not None
    shown = ""
    for line in process.stdout:
        shown += line
        if "--until-decided, round 1" in line:
            break
    os.killpg(process.pid, signal.SIGINT)
    outcome = finish(process)
    assert outcome.code == pytest.ExitCode.INTERRUPTED, shown + outcome.text
    run = project.last_run("s")
    assert len(run.records) == 4
    for name in (BF16, FP32):
        record = find_records(run)[name]
        assert record.usable
        assert record.values["decode_tokens_per_s[1]"].value
    assert not list((project.folder / "results/runs/s").glob("*journal*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--until-decided", "--at-most", "20"], "such as 90s, 20m or 1h30m, found '20'"),
        (["--until-decided", "--at-most", "0m"], "such as 90s, 20m or 1h30m, found '0m'"),
        (["--at-most", "20m"], "--at-most bounds --until-decided and --confirm: give one of them"),
        (["--until-decided", "--no-isolate"], "--until-decided needs processes: leave out"),
    ],
    ids=lambda given: " ".join(given) if isinstance(given, list) else "",
)
def test_options_that_make_no_sense_are_refused(
    project: Project, arguments: list[str], message: str
) -> None:
    outcome = project.collect(*arguments)
    assert outcome.code == pytest.ExitCode.USAGE_ERROR, outcome.text
    assert message in outcome.text
