"""What is asked before anything is loaded: sizes of models, items of data; in a worker process.

The host passes these functions to that process, so importing this file imports no torch.
"""

from collections.abc import Sequence
from pathlib import Path

from harness.catalog import load_engine_part, load_measurement
from harness.descriptions import MeasureContext
from harness.errors import InputError, UnavailableError
from harness.machine.capacity import Sizes
from harness.suite.model_sources import CellJob
from harness.suite.models import MeasurementSpec
from harness.worker.messages import Failure, explain_mistake


def size_up_cells(jobs: Sequence[CellJob]) -> list[Sizes | str]:
    """The sizes of each cell, or why there are none. Runs in a worker."""
    return [_size_up(job) for job in jobs]


def count_items(
    measurements: Sequence[MeasurementSpec], folder: Path, online: bool
) -> list[int | Failure | None]:
    """The number of items that each measurement's data holds, or what is wrong with the data.

    None where it has none of items. ``folder`` is the suite's. Runs in a worker.
    """
    from harness.worker.serve import go_offline, hide_gpus

    hide_gpus()
    if not online:
        go_offline()
    context = MeasureContext(folder, online, progress=lambda *_: None)
    return [
        explain_mistake(lambda: load_measurement(m.name).count_items(m.options, context))  # noqa: B023
        for m in measurements
    ]


def _size_up(job: CellJob) -> Sizes | str:
    try:
        size_up = load_engine_part(job.precision.engine, "size_up")
        if size_up is None:
            return f"the engine {job.precision.engine} cannot tell before it has loaded a model"
        found: Sizes = size_up(job)
    except (InputError, UnavailableError) as error:
        return str(error)
    return found
