"""Three blessed nights of the smoke suite, and later runs judged by them: equal, noisier, slower.

    python benchmarks/verdicts/nights_real.py [--precision nf4] [--before 'nice -n -5']

Every run is a real one, by pytest. They are made on one day: the run files of the first three are
dated a day apart before `harness bless` reads them, which is all that is not real about the nights.
Then, by the thresholds: a run in which nothing changed; one whose weights have noise, as a bad
quantiser leaves it; one that sleeps before every token. A run whose speeds are flagged, because the
machine was busy, is made again. Ends with 1 where another value FAILs than was worsened, or none.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from datetime import datetime, timedelta
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from harness.catalog import load_measurement
from harness.records.record import Record
from harness.records.run_file import Run, read_run
from verdicts.delayed import make_delayed_python
from verdicts.real import make_repository

_NIGHTS = 3
_WORLD = Path(__file__).resolve().parents[2] / "harness/builtin/tiny-world/model"
_NOISE = 0.05  # of the standard deviation of each matrix of weights
_WARMUP_S = 2.0  # a speed that has not settled is flagged
_SLEEP = 0.15  # of the time of the slowest token


class Nights:
    """A repository with the suite and a model of its own; runs of it in ``work``."""

    def __init__(self, work: Path, precisions: list[str], before: list[str], attempts: int) -> None:
        self.work, self.before, self.attempts = work, before, attempts
        self.repository = make_repository(work / "repository", precisions, _WORLD, _WARMUP_S)
        self.model = self.repository / _WORLD.name

    def run(self, name: str, python: str = sys.executable) -> Run:
        """The run, made again while its speeds are flagged; raises SystemExit without one."""
        for attempt in range(self.attempts):
            results = self.work / f"{name}-{attempt}"
            command = [python, "-m", "pytest", "-p", "harness.plugin", "smoke.yaml", "-q"]
            done = subprocess.run(
                [*self.before, *command, "--device", "cpu", "--results", str(results)],
                cwd=self.repository,
                env={**os.environ, "PRECISION_HARNESS_CACHE": str(results / "cache")},
                capture_output=True,
                text=True,
            )
            [path] = list(results.glob("smoke/*.json")) or [None]
            if path is None:
                raise SystemExit(f"{name} left no run file:\n{done.stdout}{done.stderr}")
            run = read_run(path)
            flags = [r.validity.reasons for r in run.records if r.validity.reasons and is_timed(r)]
            print(f"{name}: {'; '.join(flags[0]) if flags else 'quiet'}", file=sys.stderr)
            if not flags:
                break
        return run

    def bless(self) -> str:
        """Dated a day apart; what `harness bless` said."""
        paths = []
        for night in range(_NIGHTS):
            name = f"night-{night + 1}"
            self.run(name)
            path = sorted(self.work.glob(f"{name}-*/smoke/*.json"))[-1]
            data = json.loads(path.read_text(encoding="utf-8"))
            began = datetime.fromisoformat(data["run"]["utc"]) - timedelta(days=_NIGHTS - night)
            data["run"]["utc"] = began.isoformat(timespec="seconds")
            path.write_text(json.dumps(data), encoding="utf-8")
            paths.append(str(path))
        command = [sys.executable, "-m", "harness.cli", "bless", *paths, "--reason", "three nights"]
        done = subprocess.run(command, cwd=self.repository, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(done.stdout + done.stderr)
        return done.stdout


def is_timed(record: Record) -> bool:
    return load_measurement(record.measurement).timed


def add_noise(folder: Path) -> None:
    """Normal noise in every matrix of the model's weights, with a fixed seed."""
    import torch
    from safetensors.torch import load_file, save_file

    torch.manual_seed(0)
    for path in folder.glob("*.safetensors"):
        tensors = load_file(path)
        for name, one in tensors.items():
            if one.ndim > 1:
                noise = torch.randn(one.shape) * one.float().std() * _NOISE
                tensors[name] = (one.float() + noise).to(one.dtype)
        save_file(tensors, path, metadata={"format": "pt"})


def longest_token(run: Run) -> float:
    """Seconds between two tokens, of the slowest cell and batch."""
    values = [(name, v.value) for r in run.records for name, v in r.values.items()]
    return max(value for name, value in values if name.startswith("tpot_s[") and value)


def tell(title: str, run: Run, must_fail: str, may_fail: str = "") -> bool:
    """Print what became of each kind of value; whether all FAIL that must, and none that may not.

    Patterns of metrics; those that neither matches got no worse.
    """
    kinds: dict[str, Counter[str]] = {"worsened": Counter(), "may be worse": Counter()}
    kinds["others"] = Counter()
    print(title)
    for one in (v for r in run.records for v in r.verdicts if v.against == "threshold"):
        is_worse = bool(must_fail and re.match(must_fail, one.metric))
        may_be = bool(may_fail and re.match(may_fail, one.metric))
        kinds["worsened" if is_worse else "may be worse" if may_be else "others"][one.verdict] += 1
        if one.verdict != ("FAIL" if is_worse else "PASS"):
            print(f"    {one.verdict}: {one.text}")
    for kind, outcomes in kinds.items():
        print(f"  {kind}: {', '.join(f'{n} {o}' for o, n in outcomes.items()) or 'none'}")
    worsened = kinds["worsened"]
    all_seen = worsened["FAIL"] == worsened.total() and bool(worsened) is bool(must_fail)
    return all_seen and not kinds["others"]["FAIL"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--precision", action="append", help="only these, next to the reference")
    parser.add_argument("--before", default="", help="a command that each run is started by")
    parser.add_argument("--attempts", type=int, default=3, help="of a run that is flagged")
    parser.add_argument("--work", type=Path, help="where runs are kept; by default nowhere")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="nights-") as temporary:
        work = (given.work or Path(temporary)).resolve()
        nights = Nights(work, given.precision or [], shlex.split(given.before), given.attempts)
        print(nights.bless())
        equal = nights.run("equal")
        good = tell("nothing changed", equal, "")
        python = make_delayed_python(work / "slow", _SLEEP * longest_token(equal))
        slow = nights.run("slow", python)
        good &= tell("a sleep before every token", slow, r"throughput\.decode_")
        add_noise(nights.model)
        noisy = nights.run("noisy")
        good &= tell("noise in the weights", noisy, r"perplexity\.", r"(mmlu|divergence)\.")
    return int(not good)


if __name__ == "__main__":
    sys.exit(main())
