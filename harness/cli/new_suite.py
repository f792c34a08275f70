"""Write a suite for a model: which precisions, how long the texts, which limits can be decided."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Template

from harness.catalog import check_name, load_precision
from harness.errors import InputError
from harness.machine.capacity import Sizes
from harness.machine.files import write_atomically
from harness.run.machine import Machine, inspect_machine
from harness.run.plan import ModelPlan, ask_hub, list_precisions, plan_model
from harness.statistics.power import smallest_passed
from harness.suite.data_source import BUILTIN, locate_source
from harness.suite.models import ModelSpec, PrecisionSpec
from harness.verdicts.power_warnings import TYPICAL_FLIP_RATE

_HUB_TEXT = "{path: Salesforce/wikitext, name: wikitext-2-raw-v1, split: test}"
_STORED = {"BF16": "bfloat16", "F16": "float16", "F32": "float32", "F64": "float32"}
# A limit on a drop is a multiple of the first; above the second it promises nothing.
_STEP, _LARGEST = 0.005, 0.1


@dataclass(frozen=True)
class Draft:
    """What a suite is written from; ``names`` are its precisions, the reference first."""

    plan: ModelPlan
    machine: Machine
    precisions: tuple[PrecisionSpec, ...]
    left_out: Mapping[str, str]
    text: str

    @property
    def reference(self) -> str:
        """What the others are compared with."""
        return self.precisions[0].name


def draft_suite(model: ModelSpec, text: Path | None, names: Sequence[str], file: Path) -> Draft:
    """Plan ``model`` on this machine, and choose; ``file`` is where the suite will be.

    ``names`` are the precisions that are wanted beside the reference, all smaller ones where there
    are none. Raises `InputError`.
    """
    folder = Path.cwd()
    sources = [model.source, *([] if text else ["Salesforce/wikitext"])]
    machine = inspect_machine("auto", folder, ask_hub(sources, folder))
    every = list_precisions(machine.device.type)
    for name in names:
        check_name("precision", name, [precision.name for precision in every])
    plan = plan_model(model, folder, every, machine.device.type, machine.online)
    left_out = {}
    fitting = {}
    for precision in every:
        sizes, room = plan.cells[precision.name], machine.device.memory_bytes
        if isinstance(sizes, Sizes) and sizes.load_peak <= room:
            fitting[precision.name] = (precision, sizes)
        elif isinstance(sizes, Sizes):
            left_out[precision.name] = (
                f"needs {sizes.load_peak / 1e9:.3g} GB, this machine has {room / 1e9:.3g}"
            )
    if not fitting:
        raise InputError(f"{model.name} does not fit this machine at any precision: {left_out}")
    reference = _choose_reference(plan, fitting)
    largest = fitting[reference][1].total
    chosen = [name for name, (_, sizes) in fitting.items() if sizes.total < largest]
    chosen = [name for name in chosen if not names or name in names]
    lacking = [name for name in names if name not in (*chosen, reference)]
    if lacking:
        why = left_out.get(lacking[0], f"is no smaller than the reference {reference}")
        raise InputError(f"{lacking[0]} {why}")
    precisions = tuple(fitting[name][0] for name in (reference, *chosen))
    return Draft(plan, machine, precisions, left_out, _find_text(model, text, machine, file))


def write_suite(template: str, draft: Draft, file: Path, tasks: str = "", limits: str = "") -> None:
    """Write ``templates/<template>.yaml.in``, filled in; refuses a ``file`` that exists."""
    if file.exists():
        raise InputError(f"{file} exists already: remove it, or name another with --output")
    model, longest = draft.plan.model, next(iter(draft.plan.sizes.values())).max_context or 2048
    prompt = min(512, longest // 2)
    schema = Path(__file__).parents[1] / "suite.schema.json"
    shown_schema = os.path.relpath(schema, file.absolute().parent)
    shipped = Path(__file__).with_name("templates") / f"{template}.yaml.in"
    filled = Template(shipped.read_text(encoding="utf-8")).substitute(
        schema=f"# yaml-language-server: $schema={shown_schema}\n",
        file=file,
        name=model.name,
        source=_show_source(str(model.source), file),
        revision=f", revision: {json.dumps(model.revision)}" if model.revision else "",
        reference=draft.reference,
        precisions=_list_precisions(draft),
        text=draft.text,
        context=min(2048, longest),
        prompt=prompt,
        new=max(2, min(64, longest // 8)),
        tasks=tasks,
        limits=limits,
    )
    write_atomically(file, filled.rstrip() + "\n")


def find_limit(items: int) -> float | None:
    """The smallest round limit on a drop that so many items pass; None for too few of them."""
    passed = smallest_passed(items, TYPICAL_FLIP_RATE)
    return None if passed > _LARGEST else round(_STEP * math.ceil(passed / _STEP), 3)


def _choose_reference(plan: ModelPlan, fitting: Mapping[str, tuple[PrecisionSpec, Sizes]]) -> str:
    """The floats that the files hold, where these fit; else the largest that does."""
    stored = [_STORED.get(dtype, "") for dtype, _ in plan.head.tensors.values()]
    wanted = max(stored, key=stored.count, default="")
    for name, (_, sizes) in fitting.items():
        if not sizes.quantised and sizes.dtype == wanted:
            return name
    return max(fitting, key=lambda name: fitting[name][1].total)


def _find_text(model: ModelSpec, text: Path | None, machine: Machine, file: Path) -> str:
    source = str(model.source)
    if text is not None:
        if not text.is_file():
            raise InputError(f"--text {text}: no such file")
        return json.dumps(os.path.relpath(text.absolute(), file.absolute().parent))
    if source.startswith(BUILTIN):
        return json.dumps(f"{source}/heldout")
    if not machine.online:
        raise InputError(
            "the hub, where the usual text lives, does not answer: give a text of your own with "
            "--text FILE"
        )
    return _HUB_TEXT


def _show_source(source: str, file: Path) -> str:
    """As a suite in the folder of ``file`` must write it."""
    kind, place = locate_source(source, Path.cwd())
    if kind != "local":
        return json.dumps(source)
    relative = os.path.relpath(place, file.absolute().parent)
    return json.dumps(relative if relative.startswith(".") else f"./{relative}")


def _list_precisions(draft: Draft) -> str:
    lines = []
    for each in draft.precisions:
        if each.name == each.use:
            lines.append(f"  - {each.name}")
        else:
            given = load_precision(each.use).variants[each.name]
            options = "".join(f", {name}: {json.dumps(value)}" for name, value in given.items())
            lines.append(f"  - {{name: {each.name}, use: {each.use}{options}}}")
    lines += [f"  # - {name}  # {why}" for name, why in draft.left_out.items()]
    return "\n".join(lines)
