"""What running a suite will take, and its mistakes that loading would find late; loads nothing."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from harness.catalog import load_measurement
from harness.errors import InputError, UnavailableError
from harness.machine.capacity import Sizes
from harness.records.find_runs import list_run_files, name_device
from harness.records.run_file import Run, read_run
from harness.run.executor import explain_refusal
from harness.run.machine import Machine, inspect_machine, probe_hub
from harness.run.plan import ModelPlan, plan_model
from harness.run.process import call_in_worker
from harness.suite.cells import Cell, build_cells
from harness.suite.explain import read_as
from harness.suite.models import MeasurementSpec, ModelSpec, Suite, suite_sha256
from harness.suite.read import show_path
from harness.suite.yaml_file import YamlFile
from harness.verdicts.limits import show_bound
from harness.verdicts.power_warnings import announce_items, announce_processes, count_needed
from harness.worker.ask_ahead import count_items
from harness.worker.messages import Failure


@dataclass(frozen=True)
class PlannedCell:
    """One cell: its sizes, its seconds in an earlier run, and why it will be skipped here."""

    cell: Cell
    sizes: Sizes | None
    seconds: float | None
    skipped: str


@dataclass(frozen=True)
class SuitePlan:
    """``mistakes`` and ``limits`` are sentences with file:line:column.

    ``needs`` are the items that each limit on a drop needs, by its position and metric.
    ``lacking`` is data that cannot be had now, ``downloads`` are bytes by model, None where
    unknown, ``items`` the number by measurement. ``earlier`` says from which run
    the times are, "" where there is none.
    """

    suite: Suite
    machine: Machine
    cells: tuple[PlannedCell, ...]
    downloads: Mapping[str, int | None]
    items: Mapping[str, int]
    mistakes: tuple[str, ...]
    lacking: tuple[str, ...]
    limits: tuple[str, ...]
    needs: Mapping[str, int]
    earlier: str

    @property
    def seconds(self) -> float | None:
        """Of all cells that are not skipped; None where one is unknown."""
        known = [cell.seconds for cell in self.cells if not cell.skipped]
        return None if None in known else sum(s for s in known if s is not None)


@dataclass
class _Mistakes:
    """Collects sentences at places of the suite's file, each once."""

    suite: Suite
    found: dict[tuple[int, int, str], None] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._file = YamlFile(self.suite.path.read_bytes())

    def add(self, place: tuple[str | int, ...], message: str) -> None:
        self.found[(*self._file.place(place, of_key=True), message)] = None

    def list(self) -> tuple[str, ...]:
        shown = show_path(self.suite.path)
        return tuple(f"{shown}:{line}:{column}: {m}" for line, column, m in sorted(self.found))


def plan_suite(suite: Suite, root: Path, results: Path, device: str) -> SuitePlan:
    """Read heads of models and all data; ``results`` holds earlier runs.

    Raises ValueError where ``device`` is not there.
    """
    online = probe_hub([suite])
    machine = inspect_machine(device, root, online)
    mistakes = _Mistakes(suite)
    models = {m.name: _plan(suite, i, m, machine, mistakes) for i, m in enumerate(suite.models)}
    items, lacking = _count_items(suite, online, mistakes)
    _check_contexts(suite, models, mistakes)
    earlier = find_earlier(suite, results, machine)
    times = {} if earlier is None else _sum_seconds(earlier)
    cells = tuple(
        _plan_cell(cell, models[cell.model.name], times, machine) for cell in build_cells(suite)
    )
    return SuitePlan(
        suite,
        machine,
        cells,
        {
            name: plan.head.download_bytes if isinstance(plan, ModelPlan) else None
            for name, plan in models.items()
        },
        items,
        mistakes.list(),
        lacking,
        tuple(_announce(suite, items)),
        dict(_list_needs(suite)),
        "" if earlier is None else _describe_earlier(earlier, suite),
    )


def count_data(name: str, options: Mapping[str, object], online: bool) -> int | None:
    """The items of a task's data with these options; None where it cannot be had now."""
    given = read_as(load_measurement(name).options, options)
    spec = MeasurementSpec(name=name, options=given)
    (found,) = call_in_worker(count_items, (spec,), Path.cwd(), online)
    return None if isinstance(found, Failure) else found


def find_earlier(suite: Suite, results: Path, machine: Machine) -> Run | None:
    """The newest readable run of this suite on such a device."""
    folder = results / suite.name
    for name in list_run_files(str(path) for path in folder.glob("*.json")):
        try:
            run = read_run(Path(name))
        except InputError:
            continue
        if name_device(run) == machine.slug and not run.run.interrupted:
            return run
    return None


def _plan(
    suite: Suite, number: int, model: ModelSpec, machine: Machine, mistakes: _Mistakes
) -> ModelPlan | str:
    kind = machine.device.type
    try:
        return plan_model(model, suite.folder, suite.precisions, kind, machine.online)
    except UnavailableError as error:
        return str(error)
    except InputError as error:
        mistakes.add(("models", number), str(error))
        return str(error)


def _count_items(
    suite: Suite, online: bool, mistakes: _Mistakes
) -> tuple[dict[str, int], tuple[str, ...]]:
    asked = (suite.measurements, suite.folder, online)
    found: Sequence[int | Failure | None] = call_in_worker(count_items, *asked)
    items, lacking = {}, []
    for measurement, count in zip(suite.measurements, found, strict=True):
        if isinstance(count, Failure):
            sentence = f"{measurement.name}: {count.reason}"
            if count.status == "skipped":
                lacking.append(sentence)
            else:
                mistakes.add(("measure", measurement.name), sentence)
        elif count is not None:
            items[measurement.name] = count
    return items, tuple(lacking)


def _check_contexts(
    suite: Suite, models: Mapping[str, ModelPlan | str], mistakes: _Mistakes
) -> None:
    for measurement in suite.measurements:
        needed = load_measurement(measurement.name).least_context(measurement.options)
        for name, plan in models.items():
            limit = _find_context(plan)
            if limit is not None and needed > limit:
                mistakes.add(
                    ("measure", measurement.name),
                    f"{measurement.name} reads {needed:,} tokens at once, {name} was made for "
                    f"{limit:,} at most",
                )


def _find_context(plan: ModelPlan | str) -> int | None:
    return None if isinstance(plan, str) else next(iter(plan.sizes.values())).max_context


def _plan_cell(
    cell: Cell,
    plan: ModelPlan | str,
    times: Mapping[tuple[str, str], float],
    machine: Machine,
) -> PlannedCell:
    found = plan if isinstance(plan, str) else plan.cells[cell.precision.name]
    refusal = explain_refusal(cell, machine)
    skipped = refusal.reason if refusal else found if isinstance(found, str) else ""
    known = [times.get((cell.id, m.name)) for m in cell.measurements]
    seconds = None if None in known else sum(s for s in known if s is not None)
    sizes = found if isinstance(found, Sizes) else None
    if sizes is not None and not skipped and sizes.total > machine.device.memory_bytes:
        free = machine.device.memory_bytes / 1e9
        skipped = (
            f"its weights are {sizes.total / 1e9:.3g} GB, {machine.device.device} has {free:.3g}"
        )
    return PlannedCell(cell, sizes, seconds, skipped)


def _sum_seconds(run: Run) -> dict[tuple[str, str], float]:
    """By cell and measurement, loading included; a reference taken from the cache is not known."""
    found: dict[tuple[str, str], float] = {}
    for record in run.records:
        if record.usable and record.reused_from is None and "total" in record.seconds:
            key = (record.cell.id, record.measurement)
            found[key] = found.get(key, 0.0) + record.seconds["total"]
    return found


def _describe_earlier(run: Run, suite: Suite) -> str:
    changed = (
        "" if run.suite.get("sha256") == suite_sha256(suite) else "; the suite has changed since"
    )
    return f"the run of {run.run.utc}{changed}"


def _announce(suite: Suite, items: Mapping[str, int]) -> Iterator[str]:
    """Each limit that so many items or processes cannot decide, with how many would."""
    found: Iterable[str] = (
        sentence
        for model in suite.models
        for precision in suite.precisions
        for m in suite.measurements
        for sentence in (
            *announce_processes(suite.limits, model.name, precision.name, m),
            *_announce_items(suite, model.name, precision.name, m, items),
        )
    )
    yield from dict.fromkeys(found)


def _list_needs(suite: Suite) -> Iterator[tuple[str, int]]:
    for limit in suite.limits:
        needed = count_needed(limit, load_measurement(limit.family).values[limit.value])
        if needed is not None:
            yield f"{limit.position}: {limit.metric} {show_bound(limit, 'g')}", needed


def _announce_items(
    suite: Suite, model: str, precision: str, measurement: MeasurementSpec, items: Mapping[str, int]
) -> Iterator[str]:
    count = items.get(measurement.name)
    if count:
        yield from announce_items(suite.limits, model, precision, measurement.name, count)
