"""How often verdicts are wrong: false alarms and missed harms, in one command.

    python benchmarks/calibration.py [--repeats 1000]
    python benchmarks/calibration.py --real [--runs 20] [--precision nf4]

Simulated runs, each a record as a measurement leaves it, go through the harness's own comparison,
limits and thresholds: A/A runs, runs that are worse by as much as a verdict says it would see,
truths just inside and just beyond limits, machines whose nights differ, drift or have outliers,
texts whose chunks are correlated, and the shipped suites with their own numbers of items.
``--real`` does the same with runs of the smoke suite. Ends with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from peer.results import describe_machine, write_results
from verdicts.share import Share, format_shares
from verdicts.simulated import simulate


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--repeats", type=int, default=1000, help="simulated comparisons of a kind")
    parser.add_argument(
        "--workers", type=int, default=os.cpu_count(), help="processes that simulate"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--real", action="store_true", help="real runs instead of simulated ones")
    parser.add_argument("--runs", type=int, default=20, help="real A/A runs")
    parser.add_argument("--pairs", type=int, default=6, help="real pairs of fresh processes")
    parser.add_argument(
        "--precision", action="append", help="only these of the smoke suite, next to its reference"
    )
    parser.add_argument("--work", type=Path, help="where real runs are kept; by default nowhere")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def keep(path: Path, part: str, found: dict[str, Any]) -> None:
    """Replace one part of the results file; the other stays."""
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_results(path, {**known, part: found})


def main() -> int:
    given = parse_arguments()
    start = time.perf_counter()
    notes: list[str] = []
    shares: list[Share] = []
    if given.real:
        from verdicts.real import measure_real

        part, setting = "real", {"runs": given.runs, "pairs": given.pairs}
        shares = measure_real(given.runs, given.pairs, given.precision, given.work, notes)
    else:
        part, setting = "simulated", {"repeats": given.repeats, "seed": given.seed}
        for found in simulate(given.repeats, given.seed, given.workers):
            shares += found
            print(format_shares(found), file=sys.stderr, flush=True)
    result = {
        "setting": setting,
        "machine": describe_machine(("torch", "transformers", "bitsandbytes", "scipy", "numpy")),
        "shares": [share.describe() for share in shares],
        "notes": notes,
    }
    path = given.results / "calibration.json"
    keep(path, part, result)
    print("\n".join([format_shares(shares), "", *notes]))
    print(f"{time.perf_counter() - start:.0f} s; written: {path}")
    missed = [f"{s.judge}, {s.world}, {s.what}" for s in shares if s.verdict == "NOT MET"]
    print("missed:\n  " + "\n  ".join(missed) if missed else "every target met")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
