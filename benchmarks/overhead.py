"""What the harness adds to what it measures, in one command.

    make overhead
    python benchmarks/overhead.py [--device cuda:0] [--parts start records decode memory]

A cell's start beside a fresh interpreter's imports; keeping and showing records beside measuring
them; the decode loop beside the bare forward calls that it makes; readings of memory beside
allocations of known size. Ends with 1 where a target is missed, or noise leaves it undecided.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from pathlib import Path

from cost.cell_start import measure_starts
from cost.decode import measure_decoding
from cost.memory import measure_memory
from cost.records import measure_records
from cost.row import Cost, format_costs
from peer.results import describe_machine, write_results

PARTS = ("start", "records", "decode", "memory")
_BUSY = 0.3  # load average per core, before anything of ours runs


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu", help="cpu, cuda or cuda:N")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rounds", type=int, default=7, help="of starts and of memory readings")
    parser.add_argument("--processes", type=int, default=6, help="of each decoded model")
    parser.add_argument("--decode-rounds", type=int, default=10, help="pairs in each process")
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--no-verdict", action="store_true", help="end with 0 whatever is missed")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    given = parser.parse_args()
    if given.device == "cuda":
        given.device = "cuda:0"
    return given


def measure_part(part: str, given: argparse.Namespace, work: Path) -> list[Cost]:
    if part == "start":
        return measure_starts(given.device, given.rounds)
    if part == "records":
        return measure_records(given.device, 3, work)
    if part == "decode":
        return measure_decoding(
            given.device, given.processes, given.decode_rounds, given.new_tokens
        )
    return measure_memory(given.device, given.rounds)


def main() -> int:
    given = parse_arguments()
    machine = describe_machine(("torch", "transformers", "bitsandbytes"))
    load = os.getloadavg()[0]
    print(f"precision-harness on {given.device}, {machine['cpu']}, {machine['cores']} cores")
    if load > _BUSY * machine["cores"]:
        print(f"warning: load average {load:.2f}: something else runs here, times will be noisy")
    costs: list[Cost] = []
    for part in given.parts:
        print(f"{part} …", flush=True)
        with tempfile.TemporaryDirectory() as work:
            costs += measure_part(part, given, Path(work))
    setting = {name: value for name, value in vars(given).items() if name != "results"}
    result = {
        "setting": {**setting, "load_before": load},
        "machine": machine,
        "costs": [cost.describe() for cost in costs],
    }
    path = given.results / f"overhead-{given.device.partition(':')[0]}.json"
    write_results(path, result)
    print(f"\n{format_costs(costs)}\n\nwritten: {path}")
    missed = [f"{cost.what} ({cost.verdict})" for cost in costs if cost.verdict not in ("", "met")]
    print(f"missed: {'; '.join(missed)}" if missed else "every target met")
    return int(bool(missed) and not given.no_verdict)


if __name__ == "__main__":
    sys.exit(main())
