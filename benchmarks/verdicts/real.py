"""Real runs of the smoke suite by pytest: A/A, nf4 declared as bf16's equal, a slow decode loop."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median

from harness.errors import InputError
from harness.records.run_file import Run, read_run
from harness.run.ab import Plan, Sample, Side, compare_sides, run_plan
from harness.run.repeats import merge_repeats
from harness.verdicts.bless import bless
from harness.verdicts.compare import Compared, compare_runs
from harness.verdicts.threshold_verdicts import judge_thresholds
from verdicts.delayed import make_delayed_python
from verdicts.share import Share
from verdicts.worlds import as_run

# The verdicts of each run.
Found = list[list[str]]

_SMOKE = Path(__file__).resolve().parents[2] / "suites/smoke.yaml"
_BLESSED = 3
_SLEEP = 0.10  # of the time of a token
_DECODE = "decode_tokens_per_s[1]"
_ROUNDS = {"min_rounds": 5, "min_time_s": 0.5, "max_time_s": 1, "warmup_s": 0.5}


def measure_real(
    runs: int, pairs: int, precisions: Sequence[str] | None, keep: Path | None, notes: list[str]
) -> list[Share]:
    """Every real share; ``notes`` gets what failed, and how large the injected harm was."""
    with tempfile.TemporaryDirectory(prefix="calibration-") as temporary:
        work = (keep or Path(temporary)).resolve()
        repository = make_repository(work / "repository", precisions)
        shares = [_check_nf4(repository, work, notes)]
        shares += _check_sleep(repository, work, pairs, notes)
        shares += _check_runs(repository, work, runs, notes)
        return shares


def make_repository(
    folder: Path,
    precisions: Sequence[str] | None,
    model: Path | None = None,
    warmup_s: float = _ROUNDS["warmup_s"],
) -> Path:
    """A clean git repository with the suites: runs of it are of a commit and may be blessed.

    ``model`` is copied into it, and is what the smoke suite measures.
    """
    import yaml

    smoke = yaml.safe_load(_SMOKE.read_text(encoding="utf-8"))
    smoke["noise"] = False
    smoke["measure"].pop("side_by_side")
    smoke["measure"]["throughput"] |= {**_ROUNDS, "warmup_s": warmup_s, "processes": 3}
    if precisions:
        wanted = {smoke["reference"], *precisions}
        smoke["precisions"] = [
            one
            for one in smoke["precisions"]
            if (one if isinstance(one, str) else one["name"]) in wanted
        ]
        smoke["limits"] = []  # some are of precisions that are no longer there
    equal = {
        "models": smoke["models"],
        "name": "equal",
        "reference": "bf16",
        "precisions": ["bf16", "nf4"],
        "measure": {name: smoke["measure"][name] for name in ("perplexity", "mmlu")},
        "limits": [{"precision": "nf4", "metric": "perplexity.ratio", "max": 1.02}],
    }
    speed = {
        "models": smoke["models"],
        "name": "delayed",
        "precisions": ["fp32"],
        "measure": {"throughput": {**smoke["measure"]["throughput"], "batch_sizes": [1]}},
    }
    folder.mkdir(parents=True)
    if model is not None:
        shutil.copytree(model, folder / model.name)
        smoke["models"] = [{"name": model.name, "source": f"./{model.name}"}]
    for name, suite in (("smoke", smoke), ("equal", equal), ("delayed", speed)):
        (folder / f"{name}.yaml").write_text(json.dumps(suite), encoding="utf-8")  # JSON is YAML
    (folder / "pytest.ini").write_text("[pytest]\n", encoding="utf-8")
    who = ("-c", "user.name=calibration", "-c", "user.email=calibration@localhost")
    for command in (("init", "-q"), ("add", "."), (*who, "commit", "-q", "-m", "Suites")):
        subprocess.run(["git", "-C", str(folder), *command], check=True)
    return folder


def _run_suite(repository: Path, name: str, work: Path) -> Run:
    """One pytest process with a cache of its own: nothing of an earlier run is taken again."""
    results = work / "results"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "harness.plugin",
        f"{name}.yaml",
        "--device",
        "cpu",
    ]
    done = subprocess.run(
        [*command, "--device", "cpu", "--results", str(results), "--against", "none", "-q"],
        cwd=repository,
        env={**os.environ, "PRECISION_HARNESS_CACHE": str(work / "cache")},
        capture_output=True,
        text=True,
    )
    paths = list(results.rglob("*-cpu-*.json"))
    if len(paths) != 1:
        raise SystemExit(f"{name} left no run file:\n{done.stdout}{done.stderr}")
    return read_run(paths[0])


def _check_runs(repository: Path, work: Path, count: int, notes: list[str]) -> list[Share]:
    """Every run compared with the first, and with what was blessed from the first three."""
    runs = []
    for number in range(count):
        runs.append(_run_suite(repository, "smoke", work / f"run-{number}"))
        print(f"A/A run {number + 1} of {count}", file=sys.stderr, flush=True)
    blessed = min(_BLESSED, count - 1)
    limits: Found = [[v.verdict for r in run.records for v in r.verdicts] for run in runs]
    name = f"smoke suite, {len(runs[0].records)} records"
    return [
        *_count("compare", name, [_compare(runs[0], run, notes) for run in runs[1:]]),
        *_count("thresholds", name, _judge_later(runs[:blessed], runs[blessed:], notes)),
        *_count("limits", name, limits),
    ]


def _compare(first: Run, later: Run, notes: list[str]) -> list[str]:
    found = compare_runs(first, later)
    failed = [_tell(one) for one in found.compared if one.verdict == "FAIL"]
    others = [str(one) for one in (*found.missing, *found.refused)]
    notes += [f"{later.run.id}, compare: {line}" for line in (*failed, *others)]
    refused = ("REFUSED" for _ in found.refused)
    return [*(o.verdict for o in found.compared), *(m.verdict for m in found.missing), *refused]


def _judge_later(runs: Sequence[Run], later: Sequence[Run], notes: list[str]) -> Found:
    """Runs by thresholds of ``runs``; REFUSED where they cannot be blessed."""
    try:
        result = bless(runs, "cpu", None, "calibration", "2026-01-01")
    except InputError as error:
        notes.append(f"refused to bless: {error}")
        return [["REFUSED"]]
    notes += [f"not blessed: {line}" for line in result.left_out]
    found: Found = []
    for run in later:
        verdicts = [
            v for r in run.records for v in judge_thresholds(result.thresholds, run.environment, r)
        ]
        failed = [v.text for v in verdicts if v.verdict == "FAIL"]
        notes += [f"{run.run.id}, threshold: {text}" for text in failed]
        found.append([v.verdict for v in verdicts])
    return found


def _count(judge: str, name: str, found: Found) -> list[Share]:
    """Values that failed, none of which may; and how many were decided."""
    everything = [verdict for one in found for verdict in one]
    if not everything:
        return []
    n = len(everything)
    wrong = sum(verdict in ("FAIL", "REFUSED") for verdict in everything)
    return [
        Share(judge, name, f"A/A, {len(found)} runs: FAIL", wrong, n, at_most=0.0),
        Share(
            judge, name, f"A/A, {len(found)} runs: undecided", everything.count("INCONCLUSIVE"), n
        ),
    ]


def _check_nf4(repository: Path, work: Path, notes: list[str]) -> Share:
    """A limit as tight as bf16's, on nf4 compared with bf16."""
    run = _run_suite(repository, "equal", work / "equal")
    verdicts = [v for record in run.records for v in record.verdicts]
    notes += [v.text for v in verdicts]
    failed = sum(v.verdict == "FAIL" for v in verdicts)
    what = "nf4 declared as bf16's equal: FAIL"
    return Share("limit max 1.02", "smoke suite, perplexity.ratio", what, failed, 1, at_least=1.0)


def _check_sleep(repository: Path, work: Path, pairs: int, notes: list[str]) -> list[Share]:
    """Pairs of fresh processes as `harness ab` takes them: equal, and B with a sleep per token."""
    equal = _take_pairs(repository, work / "equal-pairs.json", sys.executable, pairs)
    token = median(one.record.values["tpot_s[1]"].value or 0.0 for one in equal)
    slow = make_delayed_python(work / "delayed", _SLEEP * token)
    delayed = _take_pairs(repository, work / "delayed-pairs.json", slow, pairs)
    what = f"sleep of {_SLEEP:.0%} of {token * 1e3:.2g} ms"
    return [
        *_judge_pairs(equal, "A/A", {"at_most": 0.0}, notes),
        *_judge_pairs(delayed, what, {"at_least": 1.0}, notes),
    ]


def _take_pairs(repository: Path, output: Path, python: str, pairs: int) -> list[Sample]:
    """A by this interpreter and B by ``python``, in turn."""
    plan = Plan(
        suite=repository / "delayed.yaml",
        model="tiny-world",
        measurement="throughput",
        device="cpu",
        sides=(Side("A", "fp32", sys.executable), Side("B", "fp32", python)),
        pairs=pairs,
    )
    return run_plan(
        plan, output, lambda one: print(f"pair {one.pair + 1}, {one.side}", file=sys.stderr)
    )


def _judge_pairs(
    samples: Sequence[Sample], what: str, target: dict[str, float], notes: list[str]
) -> list[Share]:
    """By the ratio of pairs, and by `harness compare` as if the sides were two runs."""
    [ratio] = [one for one in compare_sides(samples) if one.value == _DECODE]
    a, b = (
        merge_repeats([one.record for one in samples if one.side == side]) for side in ("A", "B")
    )
    [decode] = [one for one in compare_runs(as_run(a), as_run(b)).compared if one.value == _DECODE]
    interval = f"{ratio.ratio.low:.3f} to {ratio.ratio.high:.3f}"
    notes.append(f"{what}: ab ×{ratio.ratio.value:.3f} ({interval}); compare {_tell(decode)}")
    name = f"fp32, decode, {ratio.pairs} pairs"
    is_worse, failed = int(ratio.better_side == "A"), int(decode.verdict == "FAIL")
    return [
        Share("ab", name, f"{what}: A is better", is_worse, 1, **target),
        Share("compare", name, f"{what}: FAIL", failed, 1, **target),
    ]


def _tell(one: Compared) -> str:
    return f"{one.cell} {one.measurement}.{one.value} ×{one.change:.4g}: {one.verdict} {one.reason}"
