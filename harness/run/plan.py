"""What a model will take at each precision, before its weights are fetched or read."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.catalog import list_names, load_precision
from harness.errors import InputError
from harness.machine.capacity import Sizes
from harness.run.process import call_in_worker
from harness.suite.data_source import locate_source
from harness.suite.model_files import CONFIG
from harness.suite.model_sources import CellJob, ModelFiles, ModelHead, read_head
from harness.suite.models import ModelSpec, PrecisionSpec
from harness.worker.ask_ahead import size_up_cells


@dataclass(frozen=True)
class ModelPlan:
    """One model: the head of its files, and the sizes by precision, or why there are none."""

    model: ModelSpec
    head: ModelHead
    cells: dict[str, Sizes | str]

    @property
    def sizes(self) -> dict[str, Sizes]:
        """Of the precisions that have any."""
        return {name: found for name, found in self.cells.items() if isinstance(found, Sizes)}


def list_precisions(device: str) -> tuple[PrecisionSpec, ...]:
    """Every precision that ``device`` can have, 'cpu' or 'cuda', with its variants."""
    found = []
    for use in list_names("precisions"):
        precision = load_precision(use)
        if device in precision.devices:
            for name, given in {use: {}, **precision.variants}.items():
                options = precision.options(**given)
                found.append(PrecisionSpec(name=name, use=use, options=options))
    return tuple(found)


def plan_model(
    model: ModelSpec,
    folder: Path,
    precisions: Sequence[PrecisionSpec],
    device: str,
    online: bool,
) -> ModelPlan:
    """Read the head of a model's files, and ask the engines in a worker process.

    ``folder`` is that of relative paths, ``device`` 'cpu' or 'cuda'. Raises `InputError` for a
    config that no precision can use, and what `read_head` raises.
    """
    head = read_head(model, folder, online)
    _check_unquantised(model, head)
    files = ModelFiles(head.folder, None, head.revision, "", None, head.file_bytes or 0)
    jobs = [CellJob(model, each, files, device, folder, online=False) for each in precisions]
    found: list[Sizes | str] = call_in_worker(size_up_cells, jobs)
    if all(isinstance(each, str) for each in found):
        raise InputError(str(found[0]))
    names = [precision.name for precision in precisions]
    return ModelPlan(model, head, dict(zip(names, found, strict=True)))


def ask_hub(sources: Sequence[object], folder: Path) -> bool:
    """Whether the hub answers; asked once, and only where one of the sources lives there."""
    if not any(isinstance(s, str) and locate_source(s, folder)[0] == "hub" for s in sources):
        return False
    from harness.suite.hub import hub_is_reachable  # imports huggingface_hub, which takes a while

    return hub_is_reachable()


def _check_unquantised(model: ModelSpec, head: ModelHead) -> None:
    """As loading will refuse it, but now."""
    if head.folder is None:
        return
    stored = json.loads((Path(head.folder) / CONFIG).read_bytes()).get("quantization_config")
    if stored:
        method = stored.get("quant_method") if isinstance(stored, dict) else stored
        raise InputError(
            f"{model.name} is a checkpoint already quantised ({method}): its weights are of one "
            "precision only; plan and measure the original weights"
        )
