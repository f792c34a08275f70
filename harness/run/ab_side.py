"""One measurement in an interpreter of its own: what `harness ab` runs for either side.

``python -m harness.run.ab_side SUITE MODEL PRECISION MEASUREMENT DEVICE`` prints one line of JSON:
the record, the versions of the libraries, and the harness's own.
"""

import json
import sys
from pathlib import Path
from typing import Any

from harness.errors import InputError
from harness.machine.environment import describe_harness, describe_libraries
from harness.machine.parents import die_with_parent
from harness.machine.privacy import scrub
from harness.records.record import dump_json
from harness.run.executor import LocalExecutor
from harness.run.machine import inspect_machine, probe_hub
from harness.run.varied import with_repeats
from harness.suite.cells import Selection, build_cells
from harness.suite.models import Suite
from harness.suite.read import load_suite


def measure_side(
    suite: Suite, model: str, precision: str, measurement: str, device: str
) -> dict[str, Any]:
    """Measure once, in one fresh process; names must be the suite's.

    Raises ValueError where the device is not there.
    """
    machine = inspect_machine(device, Path.cwd(), probe_hub([suite]))
    selection = Selection((precision,), (model,), (measurement,))
    [cell] = build_cells(suite, selection)
    [spec] = cell.measurements
    # Each process of a side is a sample already.
    spec = spec.model_copy(update={"options": with_repeats(spec.options, 1)})
    executor = LocalExecutor(suite.folder, machine, lambda *_: None)
    try:
        record = executor.measure(cell, spec)
    finally:
        executor.close()
    return {
        "record": scrub(json.loads(dump_json(record))),
        "device": machine.device.gpu_name or machine.environment["cpu"]["name"],
        "libraries": describe_libraries(),
        "harness": describe_harness(),
    }


def main(arguments: list[str]) -> int:
    """Print the line; a mistake of the user's goes to stderr, with status 4."""
    die_with_parent()
    path, model, precision, measurement, device = arguments
    try:
        found = measure_side(load_suite(Path(path)), model, precision, measurement, device)
    except (InputError, ValueError, OSError) as error:
        print(error, file=sys.stderr)  # noqa: T201 - read by the other side
        return 4
    print(json.dumps(found))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
