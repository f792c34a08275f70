"""Ask engines what models will take, before anything is loaded; in a process of its own.

The host passes this function to that process, so importing this file imports no torch.
"""

from collections.abc import Sequence

from harness.catalog import load_engine_part
from harness.errors import InputError
from harness.machine.capacity import Sizes
from harness.suite.model_sources import CellJob


def size_up_cells(jobs: Sequence[CellJob]) -> list[Sizes | str]:
    """The sizes of each cell, or why there are none. Runs in a worker."""
    return [_size_up(job) for job in jobs]


def _size_up(job: CellJob) -> Sizes | str:
    try:
        size_up = load_engine_part(job.precision.engine, "size_up")
        if size_up is None:
            return f"the engine {job.precision.engine} cannot tell before it has loaded a model"
        found: Sizes = size_up(job)
    except InputError as error:
        return str(error)
    return found
