"""Whether the numbers of run files can be true: what no machine can do, and what must be there.

    python benchmarks/plausible.py FOLDER-OR-FILE…

Prints a line per problem and ends with 1 where there is one.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from harness.records.record import Record
from harness.records.run_file import Run, read_run
from harness.records.values import base_name

_SHARES = ("mbu", "prefill_flop_utilisation")
_GPU_FACTS = ("sm_mhz", "memory_mhz", "power_w", "temperature_c")
_UNACCOUNTED = 0.001


def find_problems(run: Run) -> Iterator[str]:
    """One sentence per number that cannot be true or is missing."""
    if run.run.interrupted:
        yield "the run was cut off before its end"
    for record in run.records:
        where = f"{record.cell.id} {record.measurement}"
        for problem in check_record(record):
            yield f"{where}: {problem}"


def check_record(record: Record) -> Iterator[str]:
    """The problems of one record."""
    if not record.usable:
        yield f"{record.validity.status}: {'; '.join(record.validity.reasons)}"
        return
    if not record.cell.attested:
        yield "nothing is attested"
    values = {name: v.value for name, v in record.values.items() if v.value is not None}
    for name, number in values.items():
        # int8 products are faster than those of the peak, which is of floats.
        of_int8 = record.cell.declared["use"] == "int8" and base_name(name) == _SHARES[1]
        if base_name(name) in _SHARES and not 0 < number <= 1 and not of_int8:
            yield f"{name} is {number:.3g}, not a share of what is possible"
    if record.measurement == "footprint":
        yield from check_footprint(values)
    if record.measurement == "memory":
        yield from check_memory(values)
    if record.measurement == "throughput" and record.cell.device != "cpu":
        yield from check_telemetry(record)


def check_telemetry(record: Record) -> Iterator[str]:
    """Each process's GPU was watched."""
    if not record.telemetry:
        yield "no telemetry"
    for process in record.telemetry:
        gpu = process.get("gpu", {})
        missing = [name for name in _GPU_FACTS if not gpu.get(name)]
        if missing:
            yield f"no telemetry of {', '.join(missing)} ({gpu.get('unavailable', 'not sampled')})"


def check_footprint(values: dict[str, int | float]) -> Iterator[str]:
    """Every byte is accounted for."""
    allocated, unaccounted = values.get("allocated_bytes"), values.get("unaccounted_bytes")
    if allocated is None or unaccounted is None:
        yield "what the allocator holds is unavailable"
    elif abs(unaccounted) > _UNACCOUNTED * allocated:
        yield f"{unaccounted} of {allocated} bytes are not accounted for"


def check_memory(values: dict[str, int | float]) -> Iterator[str]:
    """Peaks are there, and no lower than what is held."""
    held = values.get("weights_bytes")
    for name in ("load_peak_bytes", "prefill_peak_bytes", "generate_peak_bytes"):
        peak = values.get(name)
        if held is None or peak is None:
            yield f"{name} or weights_bytes is unavailable"
        elif peak < held:
            yield f"{name} {peak} is below weights_bytes {held}"


def main() -> int:
    paths: list[Path] = []
    for given in map(Path, sys.argv[1:]):
        paths += sorted(given.rglob("*.json")) if given.is_dir() else [given]
    if not paths:
        print("no run file was found")
        return 1
    found = 0
    for path in paths:
        run = read_run(path)
        problems = list(find_problems(run))
        found += len(problems)
        print(f"{path.name}: {len(run.records)} records, {len(problems)} problems")
        for problem in problems:
            print(f"  {problem}")
    return int(found > 0)


if __name__ == "__main__":
    sys.exit(main())
