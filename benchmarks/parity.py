"""Whether our log-likelihoods are lm-evaluation-harness's: option by option, item by item.

    make parity [TOKENIZER=folder-or-hub-id] [DATA=folder] [MODEL=folder]
    python benchmarks/parity.py [--data FOLDER] [--model FOLDER …]

In one process and in float32, on a random Llama with the given tokenizer and on each given model:
MMLU with examples before each question, HellaSwag, questions in ARC's format, and the perplexities
of a text. lm-eval is asked for its softmax in float64: by default it adds up an option's
log-probabilities in float32, which alone moves an ending of 500 nats by 1e-4. It cuts prompts that
are too long where we leave them out and say so: those are counted and not compared. Ends with 1
where something differs.
"""

from __future__ import annotations

import argparse
import io
import logging
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import redirect_stderr
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

from peer import items
from peer.checkpoint import write_llama
from peer.lm_eval_side import evaluate, find_numbers, make_task
from peer.our_side import load_model, measure
from peer.results import describe_machine, write_results
from peer.table import Agreement, align, format_agreements

from harness.engines.base import Engine
from harness.scoring.multiple_choice import TIE_NATS, Scored

LOG_LIKELIHOOD_NATS = 1e-4
PERPLEXITY_RELATIVE = 1e-4
SUBJECTS = ("abstract_algebra", "econometrics", "global_facts", "world_religions")


@dataclass(frozen=True)
class Compared:
    """One task on one model: what was compared, and the worst of it.

    ``prompts``, ``answers`` and ``answers_norm`` count the items where both sides differ; an
    answer counts only where its two best options are no tie.
    """

    what: str
    items: int
    left_out: int
    ties: int
    worst_nats: float
    prompts: int
    answers: int
    answers_norm: int

    @property
    def met(self) -> bool:
        differing = self.prompts + self.answers + self.answers_norm
        return self.items > 0 and not differing and self.worst_nats <= LOG_LIKELIHOOD_NATS


def compare_choices(
    what: str, scored: Sequence[Scored], samples: Sequence[dict[str, Any]]
) -> Compared:
    """Set our outcomes beside lm-eval's samples of the same items, in the same order."""
    assert len(scored) == len(samples), f"{what}: {len(scored)} items of ours, {len(samples)}"
    worst, left_out, ties, prompts, answers, answers_norm = 0.0, 0, 0, 0, 0, 0
    for ours, theirs in zip(scored, samples, strict=True):
        question, found = ours.question, ours.log_likelihoods
        if found is None:
            left_out += 1
            continue
        asked = [
            (question.prompt_of(i), question.delimiter + option)
            for i, option in enumerate(question.options)
        ]
        prompts += asked != [tuple(pair) for pair in _arguments(theirs)]
        expected = [float(answer[0]) for answer in theirs["filtered_resps"]]
        worst = max(worst, *(abs(a - b) for a, b in zip(found, expected, strict=True)))
        ties += ours.tied
        if not ours.tied:
            answers += ours.chosen != _best(expected) or ours.right != bool(theirs["acc"])
        lengths = [max(1, len(option)) for option in question.options]
        if "acc_norm" in theirs and not is_tied(expected, lengths):
            normed = _best([x / n for x, n in zip(expected, lengths)])
            differs = ours.chosen_norm != normed or ours.right_norm != bool(theirs["acc_norm"])
            answers_norm += differs
    scored_items = len(scored) - left_out
    return Compared(what, scored_items, left_out, ties, worst, prompts, answers, answers_norm)


def is_tied(likelihoods: Sequence[float], lengths: Sequence[int]) -> bool:
    """Whether the two best per character are nearer than a tie's nats, shared by the shorter."""
    first, second = sorted((x / n for x, n in zip(likelihoods, lengths)), reverse=True)[:2]
    return first - second < TIE_NATS / min(lengths)


def _arguments(sample: dict[str, Any]) -> list[Sequence[str]]:
    """The prompt and continuation of each option of one of lm-eval's samples."""
    given = sample["arguments"]
    if isinstance(given, dict):  # as lm-eval writes them to files
        given = [tuple(pair.values()) for pair in given.values()]
    return [tuple(pair)[:2] for pair in given]


def _best(numbers: Sequence[float]) -> int:
    return max(range(len(numbers)), key=numbers.__getitem__)


def check_model(
    name: str, folder: Path, work: Path, given: argparse.Namespace
) -> tuple[list[Compared], list[Agreement]]:
    """Every task on one model, loaded once by each side."""
    from lm_eval.models.huggingface import HFLM

    loaded = load_model(folder)
    peer = HFLM(
        pretrained=str(folder),
        dtype="float32",
        softmax_dtype="float64",
        device="cpu",
        batch_size=given.batch_size,
    )
    # A short context leaves no room for five examples.
    shots = 5 if (loaded.max_context or 1024) >= 1024 else 1
    compared = [
        _check_task(
            f"{name}: mmlu {subject}, {shots}-shot",
            (loaded, "mmlu", {"data": str(work / "mmlu"), "subjects": [subject], "shots": shots}),
            (peer, make_task("mmlu", work, subject, shots)),
        )
        for subject in given.subjects
    ]
    for ours, theirs in (("hellaswag", "hellaswag"), ("arc_challenge", "arc")):
        compared.append(
            _check_task(
                f"{name}: {theirs}, 0-shot",
                (loaded, ours, {"data": str(work / f"{theirs}.jsonl")}),
                (peer, make_task(theirs, work)),
            )
        )
    return compared, _check_text(name, loaded, peer, work)


def _check_task(
    what: str,
    ours: tuple[Engine, str, dict[str, Any]],
    theirs: tuple[Any, dict[str, Any]],
) -> Compared:
    print(f"{what} …", flush=True)
    peer, task = theirs
    results = _ask_peer(peer, task)
    samples = sorted(results["samples"][task["task"]], key=lambda sample: sample["doc_id"])
    return compare_choices(what, measure(*ours).scored, samples)


def _ask_peer(peer: Any, task: dict[str, Any]) -> dict[str, Any]:
    """lm-eval's results of one task, without its progress bars and warnings of cut prompts."""
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with redirect_stderr(io.StringIO()):
        return evaluate(peer, [task], bootstrap_iters=0, task_manager=_task_manager())


@cache
def _task_manager() -> Any:
    """lm-eval's index of tasks, which takes seconds to make."""
    from lm_eval.tasks import TaskManager

    return TaskManager()


def _check_text(name: str, loaded: Engine, peer: Any, work: Path) -> list[Agreement]:
    """lm-eval's three perplexities of one text, and our protocol of that name."""
    print(f"{name}: perplexity …", flush=True)
    context = min(loaded.max_context or 1024, 1024)
    options = {"text": str(work / "wiki.txt"), "protocol": "lm-eval", "context": context}
    measured = measure(loaded, "perplexity", options).measured
    assert measured is not None
    expected = find_numbers(_ask_peer(peer, make_task("perplexity", work)), "perplexity")
    return [
        Agreement(
            f"{name}: {theirs}",
            expected[theirs],
            float(measured.values[ours].value or 0),
            PERPLEXITY_RELATIVE,
        )
        for theirs, ours in items.PERPLEXITIES.items()
    ]


def format_compared(rows: Sequence[Compared]) -> str:
    """One row per task and model."""
    heading = ("", "items", "left out", "ties", "worst nats", "prompts", "answers", "normed", "")
    return align(
        [
            heading,
            *(
                (
                    row.what,
                    str(row.items),
                    str(row.left_out),
                    str(row.ties),
                    f"{row.worst_nats:.1e}",
                    str(row.prompts),
                    str(row.answers),
                    str(row.answers_norm),
                    "met" if row.met else "NOT MET",
                )
                for row in rows
            ),
        ]
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", default="openai-community/gpt2", help="folder or hub id")
    parser.add_argument("--data", type=Path, help="folder of mmlu/, hellaswag/ and wikitext2/")
    parser.add_argument("--model", type=Path, nargs="*", default=[], help="further checkpoints")
    parser.add_argument("--subjects", nargs="+", default=SUBJECTS, help="of MMLU")
    parser.add_argument("--limit", type=int, default=25, help="items per task")
    parser.add_argument("--text-bytes", type=int, default=50_000)
    parser.add_argument("--batch-size", type=int, default=4, help="lm-eval's")
    parser.add_argument("--results", type=Path, default=Path(__file__).parent / "results")
    return parser.parse_args()


def write_items(work: Path, given: argparse.Namespace) -> None:
    for subject in given.subjects:
        items.write_mmlu(work, given.data, subject, given.limit)
    items.write_arc(work / "arc.jsonl", given.data, given.subjects[0], given.limit)
    items.write_hellaswag(work / "hellaswag.jsonl", given.data, given.limit)
    items.write_text(work, given.data, given.text_bytes)


def main() -> int:
    given = parse_arguments()
    compared: list[Compared] = []
    agreements: list[Agreement] = []
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        # Before datasets is imported: what it makes of these files is of no use to anyone.
        os.environ |= {"HF_DATASETS_CACHE": str(work / "datasets"), "TQDM_DISABLE": "1"}
        write_items(work, given)
        write_llama(work / "model", given.tokenizer)
        models = {"random-18m": work / "model", **{path.name: path for path in given.model}}
        for model, folder in models.items():
            found = check_model(model, folder, work, given)
            compared += found[0]
            agreements += found[1]
    print(f"\nworst |log-likelihood difference| must be within {LOG_LIKELIHOOD_NATS:g} nats;")
    print("prompts, answers, normed: items that differ, ties aside")
    print(f"\n{format_compared(compared)}\n\n{format_agreements(agreements)}")
    result = {
        "machine": describe_machine(),
        "within": {"nats": LOG_LIKELIHOOD_NATS, "perplexity": PERPLEXITY_RELATIVE},
        "choices": [{**asdict(row), "met": row.met} for row in compared],
        "perplexities": [row.describe() for row in agreements],
    }
    print(f"\nwritten: {write_results(given.results / 'parity.json', result)}")
    missed = [row.what for row in (*compared, *agreements) if not row.met]
    print(f"differing: {'; '.join(missed)}" if missed else "no differences")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
