"""How fast the harness is on a CPU, beside lm-evaluation-harness and beside the bare model.

    make bench-peers [TOKENIZER=folder-or-hub-id] [DATA=folder]
    python benchmarks/peers.py [--data FOLDER] [--rounds 3]

The peer is lm-evaluation-harness's `hf` model: the same 18 M-parameter Llama in float32, the same
items, the same threads, and batches as large: it takes ``--batch-size`` rows, we take as many
tokens as that many of the longest row have. Every number comes from a fresh process with empty
caches; the two sides take turns (A B, B A, …) and a ratio is of one pair. Three processes make a
pair: lm-eval's `simple_evaluate`, our `pytest suite.yaml` (the whole process and its peak memory:
pytest, the fork server and the cell together) and our engine alone (scoring, and memory above the
loaded model).

The floor is what the bare model takes for the distinct tokens (`peer/bare.py`), in turn with ours
in one process. Ends with 1 where a target is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from collection import CELLS, measure_collection
from cost.cell_start import IMPORTS, measure_ready
from cost.row import Cost, format_costs
from peer import items
from peer.checkpoint import SHAPE, write_llama
from peer.processes import Ran, run
from peer.results import describe_machine, write_results
from peer.table import Agreement, Ratio, format_agreements, format_ratios

# Not high_school_geography, on which the speed was first tuned.
SUBJECTS = (
    "abstract_algebra",
    "anatomy",
    "college_computer_science",
    "econometrics",
    "global_facts",
    "human_aging",
    "marketing",
    "philosophy",
    "us_foreign_policy",
    "world_religions",
)
READY_S, COLLECTION_S = 0.1, 0.5
ALONE = ("start", "ready", "collection")
TASKS = ("mmlu", "perplexity", "hellaswag", "divergence", *ALONE)


@dataclass(frozen=True)
class Task:
    """A measurement of ours, lm-eval's task beside it (``numbers`` are given by both), and targets.

    ``scoring``, ``process``, ``peak`` and ``above_model``: lm-eval over ours, at least. ``floor``:
    ours over the floor, at most.
    """

    name: str
    title: str
    options: dict[str, Any]
    floor: float
    numbers: dict[str, str] = field(default_factory=dict)
    subjects: tuple[str, ...] = ()
    shots: int = 0
    scoring: float | None = None
    process: float | None = None
    peak: float | None = None
    above_model: float | None = None


@dataclass
class Samples:
    """What each round's three processes of a task gave."""

    theirs: list[tuple[Ran, dict[str, Any]]] = field(default_factory=list)
    pytest: list[tuple[Ran, dict[str, float]]] = field(default_factory=list)
    engine: list[tuple[Ran, dict[str, Any]]] = field(default_factory=list)


def make_tasks(work: Path, given: argparse.Namespace) -> list[Task]:
    """Write the items and say how each side measures them."""
    model, size = work / "model", given.batch_size
    for subject in given.subjects:
        items.write_mmlu(work, given.data, subject, given.limit)
    swag = items.write_hellaswag(work / "hellaswag.jsonl", given.data, given.hellaswag_items)
    text = items.write_text(work, given.data, given.text_bytes)
    longest = longest_rows(model, work, given.subjects)
    context = SHAPE["max_position_embeddings"]
    questions = sum(len(_read(work / f"mmlu_{s}_test.jsonl")) for s in given.subjects)
    text_title = f"WikiText-2, {text.stat().st_size:,} bytes, context {context}"
    return [
        Task(
            "mmlu",
            f"MMLU, {len(given.subjects)} subjects, 5-shot, {questions:,} questions",
            {
                "data": str(work / "mmlu"),
                "shots": 5,
                "subjects": given.subjects,
                "batch_tokens": size * longest["mmlu"],
            },
            1.3,
            {"acc": "acc"},
            tuple(given.subjects),
            5,
            scoring=20,
            process=5,
            peak=4,
        ),
        Task(
            "perplexity",
            text_title,
            {"text": str(text), "protocol": "lm-eval", "context": context, "batch_size": size},
            1.1,
            items.PERPLEXITIES,
            scoring=1,
            peak=4,
            above_model=2,
        ),
        Task(
            "hellaswag",
            f"HellaSwag, 0-shot, {given.hellaswag_items} items",
            {"data": str(swag), "batch_tokens": size * longest["hellaswag"]},
            1.3,
            {"acc": "acc", "acc_norm": "acc_norm"},
            scoring=2,
            peak=4,
        ),
        Task(
            "divergence",
            f"int8 from fp32, {text_title}",
            {"text": str(text), "protocol": "disjoint", "context": context},
            1.3,
        ),
    ]


def longest_rows(model: Path, work: Path, subjects: Sequence[str]) -> dict[str, int]:
    """Tokens of the longest row of each multiple-choice task, estimated from its texts alone."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)

    def longest(texts: Iterator[str]) -> int:
        return max(len(ids) for ids in tokenizer(list(texts))["input_ids"])

    def ask(row: dict[str, Any]) -> str:
        options = "\n".join(f"{a}. {text}" for a, text in zip("ABCD", row["choices"], strict=True))
        return f"{row['question']}\n{options}\nAnswer: A\n\n"

    def prompts(subject: str) -> Iterator[str]:
        dev, test = (_read(work / f"mmlu_{subject}_{split}.jsonl") for split in ("dev", "test"))
        shots = "".join(map(ask, dev[:5]))
        return (shots + ask(row) for row in test)

    swag = _read(work / "hellaswag.jsonl")
    return {
        "mmlu": longest(prompt for subject in subjects for prompt in prompts(subject)),
        "hellaswag": longest(f"{r['ctx']} {e}" for r in swag for e in r["endings"]),
    }


def measure_round(number: int, task: Task, work: Path, given: argparse.Namespace) -> list[Any]:
    """One pair: theirs, ours through pytest, our engine; the other way round every second time."""
    folder = work / f"{task.name}-{number}"
    shutil.rmtree(folder, ignore_errors=True)  # of an earlier run in a folder that was kept
    sides = [_run_theirs, _run_pytest, _run_engine]
    order = sides if number % 2 == 0 else sides[::-1]
    found = {side: side(task, work, folder / side.__name__.strip("_"), given) for side in order}
    return [found[side] for side in sides]


def _run_theirs(task: Task, work: Path, folder: Path, given: argparse.Namespace) -> Any:
    out = folder / "out.json"
    names = [task.name, str(work / "model"), str(work), str(given.batch_size), str(out)]
    command = [sys.executable, "-m", "peer.lm_eval_side", *names, str(task.shots), *task.subjects]
    return run(command, folder, given.threads), json.loads(out.read_text())


def _run_engine(task: Task, work: Path, folder: Path, given: argparse.Namespace) -> Any:
    out = folder / "out.json"
    names = [task.name, str(work / "model"), json.dumps(task.options), str(out)]
    ran = run([sys.executable, "-m", "peer.our_side", *names], folder, given.threads)
    return ran, json.loads(out.read_text())


def _run_pytest(task: Task, work: Path, folder: Path, given: argparse.Namespace) -> Any:
    """As a user runs it: a project with one suite file of one measurement."""
    folder.mkdir(parents=True)
    (folder / "conftest.py").write_text('pytest_plugins = ["harness.plugin"]\n')
    suite = {
        "name": "peer",
        "models": [{"name": "peer", "source": str(work / "model")}],
        "precisions": ["fp32"],
        "measure": {task.name: task.options},
    }
    (folder / "suite.yaml").write_text(json.dumps(suite))  # JSON is YAML
    options = ["--device", "cpu", "--results", "runs", "-q", "-p", "no:cacheprovider"]
    ran = run([sys.executable, "-m", "pytest", "suite.yaml", *options], folder, given.threads)
    (path,) = (folder / "runs" / "peer").glob("*.json")
    values = json.loads(path.read_text())["records"][0]["values"]
    return ran, {name: value["value"] for name, value in values.items()}


def measure_floor(task: Task, work: Path, given: argparse.Namespace) -> Cost:
    """Ours beside the floor, pair by pair in one process."""
    folder = work / f"{task.name}-floor"
    shutil.rmtree(folder, ignore_errors=True)
    out = folder / "out.json"
    names = [task.name, str(work / "model"), json.dumps(task.options), str(given.rounds), str(out)]
    run([sys.executable, "-m", "peer.floor_side", *names], folder, given.threads)
    found = json.loads(out.read_text())
    seconds = (tuple(found["floor"]), tuple(found["ours"]))
    return Cost(f"{task.name}: scoring", "floor", "s", *seconds, "ratio", task.floor)


def measure_alone(name: str, work: Path, given: argparse.Namespace) -> Cost:
    """What no model is needed for: the start of a run, of a cell, and collecting."""
    if name == "ready":
        return measure_ready(given.rounds, READY_S)
    if name == "collection":
        ours, peer = measure_collection(work, given.rounds)
        what = f"collecting {CELLS:,} cells"
        return Cost(what, "as many plain tests", "s", peer, ours, "seconds", COLLECTION_S)
    base, ours = [], []
    count_bytes = Task("footprint", "", {}, 0)
    for number in range(given.rounds):
        folder = work / f"start-{number}"
        shutil.rmtree(folder, ignore_errors=True)
        base.append(run([sys.executable, "-c", IMPORTS], folder / "imports", given.threads))
        ours.append(_run_pytest(count_bytes, work, folder / "run", given)[0])
    seconds = (tuple(ran.seconds for ran in side) for side in (base, ours))
    return Cost(
        "a run that only counts bytes", "python, torch, transformers", "s", *seconds, "ratio", 1.1
    )


def compare_sides(task: Task, samples: Samples) -> tuple[list[Ratio], list[Agreement]]:
    """The rows of one task: ratios of what it took, and whether both gave the same numbers."""
    theirs, engine = ([found for _, found in side] for side in (samples.theirs, samples.engine))

    def above(found: dict[str, Any]) -> float:
        return float(found["peak_bytes"] - found["loaded_bytes"])

    ratios = [
        Ratio(
            f"{task.name}: scoring",
            "s",
            tuple(found["score_s"] for found in theirs),
            tuple(found["score_s"] for found in engine),
            task.scoring,
        ),
        Ratio(
            f"{task.name}: whole process",
            "s",
            tuple(ran.seconds for ran, _ in samples.theirs),
            tuple(ran.seconds for ran, _ in samples.pytest),
            task.process,
        ),
        Ratio(
            f"{task.name}: peak memory",
            "bytes",
            tuple(ran.peak_bytes for ran, _ in samples.theirs),
            tuple(ran.peak_bytes for ran, _ in samples.pytest),
            task.peak,
        ),
        Ratio(
            f"{task.name}: peak memory above the loaded model",
            "bytes",
            tuple(map(above, theirs)),
            tuple(map(above, engine)),
            task.above_model,
        ),
    ]
    agreements = [
        Agreement(f"{task.name}: {name}", theirs[0]["numbers"][name], numbers[ours], 1e-4)
        for name, ours in task.numbers.items()
        for numbers in [samples.pytest[0][1]]
    ]
    return ratios, agreements


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", default="openai-community/gpt2", help="folder or hub id")
    parser.add_argument("--data", type=Path, help="folder of mmlu/, hellaswag/ and wikitext2/")
    parser.add_argument("--subjects", nargs="+", default=SUBJECTS, help="of MMLU")
    parser.add_argument("--limit", type=int, help="questions of each subject; default all")
    parser.add_argument("--hellaswag-items", type=int, default=150)
    parser.add_argument("--text-bytes", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3, help="pairs of processes")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    parser.add_argument("--work", type=Path, help="keep models, items and outputs here")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def main() -> int:
    given = parse_arguments()
    with tempfile.TemporaryDirectory() as name:
        work = (given.work or Path(name)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        return compare(given, work)


def compare(given: argparse.Namespace, work: Path) -> int:
    parameters = write_llama(work / "model", given.tokenizer)
    tasks = [task for task in make_tasks(work, given) if task.name in given.tasks]
    machine = describe_machine()
    setting = {
        "parameters": parameters,
        "batch_size": given.batch_size,
        "rounds": given.rounds,
        "threads": given.threads,
    }
    print(f"lm-evaluation-harness {machine['libraries']['lm_eval']} beside precision-harness")
    print(f"Llama of {parameters:,} parameters, fp32, {machine['cpu']}, {given.threads} threads")
    print(f"{given.rounds} pairs of processes in turn; batches of {given.batch_size} rows,")
    print("ours of as many tokens as the longest rows have:")
    for task in tasks:
        print(f"  {task.title}: {_describe_batch(task)}")
    ratios: list[Ratio] = []
    agreements: list[Agreement] = []
    costs: list[Cost] = []
    for task in tasks:
        print(f"{task.name}, beside its floor …", flush=True)
        costs.append(measure_floor(task, work, given))
        if not task.numbers:
            continue  # lm-eval has no such measurement
        samples = Samples()
        for number in range(given.rounds):
            print(f"{task.name}, pair {number + 1} of {given.rounds} …", flush=True)
            theirs, ours, engine = measure_round(number, task, work, given)
            samples.theirs.append(theirs)
            samples.pytest.append(ours)
            samples.engine.append(engine)
        found = compare_sides(task, samples)
        ratios += found[0]
        agreements += found[1]
    for name in (name for name in ALONE if name in given.tasks):
        print(f"{name} …", flush=True)
        costs.append(measure_alone(name, work, given))
    print(f"\n{format_costs(costs)}")
    if ratios:
        print(f"\n{format_ratios(ratios)}\n\n{format_agreements(agreements)}")
    result = {
        "setting": {**setting, "tasks": {t.name: t.title for t in tasks}},
        "machine": machine,
        "floors": [cost.describe() for cost in costs],
        "ratios": [ratio.describe() for ratio in ratios],
        "agreements": [agreement.describe() for agreement in agreements],
    }
    print(f"\nwritten: {write_results(given.results / 'peers-cpu.json', result)}")
    missed = [row.what for row in (*ratios, *agreements) if not row.met]
    missed += [f"{cost.what}, {cost.base_is}" for cost in costs if cost.verdict == "NOT MET"]
    print(f"missed: {'; '.join(missed)}" if missed else "every target met")
    return int(bool(missed))


def _describe_batch(task: Task) -> str:
    tokens = task.options.get("batch_tokens")
    return f"{tokens:,} tokens" if tokens else f"{task.options.get('batch_size', 8)} windows"


def _read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


if __name__ == "__main__":
    sys.exit(main())
