"""mmlu: multiple-choice questions by subject, in the form MMLU was published in.

Hendrycks et al. 2021, https://arxiv.org/abs/2009.03300.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from harness.errors import InputError
from harness.metrics.multiple_choice import (
    LETTERS,
    Question,
    Scored,
    accuracy_stderr,
    score_questions,
)
from harness.options import Column, DataSource, OptionsBase, ValueSpec
from harness.record import Measured, Record, Validity, Value
from harness.values import make_values, qualify

if TYPE_CHECKING:
    from harness.metrics._forward import MeasureContext
    from harness.models.load import LoadedCell

NEEDS_FRESH_PROCESS = False
REFERENCE_REUSABLE = True


class Options(OptionsBase):
    """``shots`` dev examples precede each question; ``limit`` keeps the first n per subject.

    ``form``: 'letters' shows the options and scores their letters, as published; 'cloze' shows none
    and scores their texts, which small models learn long before letters (Gu et al. 2024, OLMES,
    https://arxiv.org/abs/2406.08446).
    """

    data: DataSource = DataSource(path="cais/mmlu", name="all")
    form: Literal["letters", "cloze"] = "letters"
    shots: int = Field(5, ge=0)
    subjects: tuple[str, ...] | None = Field(None, min_length=1, strict=False)
    limit: int | None = Field(None, ge=1)
    batch_tokens: int = Field(4096, ge=1)


VALUES = {
    "accuracy": ValueSpec("", "higher", "share of items right; [subject]: of one", "subject"),
    "accuracy_macro": ValueSpec("", "higher", "mean of the subjects' accuracies"),
    "items": ValueSpec("items", None, "items scored"),
    "ties": ValueSpec("items", None, "items whose two best options are within 1e-3"),
    "too_long": ValueSpec("items", "lower", "items left out: prompt exceeds the model's context"),
    "accuracy_drop": ValueSpec(
        "", "lower", "reference accuracy - accuracy", paired=True, of="accuracy"
    ),
    "flip_rate": ValueSpec("", "lower", "items right on one side only", paired=True, of="accuracy"),
}
HEADLINE = (
    Column("mmlu", "accuracy", ".3f"),
    Column("drop", "accuracy_drop", "+.3f"),
)


@dataclass(frozen=True)
class Row:
    """One line of a published MMLU file."""

    question: str
    choices: tuple[str, ...]
    answer: int


def measure(loaded: LoadedCell, options: Options, context: MeasureContext) -> Measured:
    """Ask every question after its subject's dev examples; the likeliest letter is the answer."""
    subjects = load_subjects(options, context)
    questions = [
        question
        for subject, (dev, test) in subjects.items()
        for question in build_questions(
            subject, dev, test[: options.limit], options.shots, options.form
        )
    ]
    scored = score_questions(loaded, questions, options.batch_tokens, context)
    answered = [s for s in scored if s.log_likelihoods is not None]
    too_long = len(scored) - len(answered)
    if not answered:
        raise InputError(
            f"every {options.shots}-shot prompt is longer than the {loaded.max_context} tokens "
            f"of {loaded.job.model.name}; use fewer shots"
        )
    reasons = [f"{too_long} prompts exceed the model's context; not scored"] if too_long else []
    return Measured(
        values=summarise(answered, too_long),
        protocol={
            **options.model_dump(exclude={"batch_tokens"}, mode="json"),
            "subjects": list(subjects),
            "items_sha256": hash_questions(questions),
            "tokenizer_sha256": loaded.job.files.tokenizer_sha256,
        },
        items={
            "ids": "subject/row of its test file, in order",
            "subjects": {
                name: min(len(t), options.limit or len(t)) for name, (_, t) in subjects.items()
            },
            "chosen": "".join("-" if s.chosen is None else LETTERS[s.chosen] for s in scored),
            "right": "".join("-" if s.chosen is None else "01"[s.right] for s in scored),
            "tied": "".join("01"[s.tied] for s in scored),
        },
        validity=Validity(status="flagged" if reasons else "ok", reasons=tuple(reasons)),
    )


def compare(candidate: Record, reference: Record) -> dict[str, Value]:
    """Item by item: D = (b - c)/n and f = (b + c)/n, SE(D) = sqrt((f - D**2)/n).

    b counts the items only the reference has right, c those only the candidate has.
    """
    ours, theirs = candidate.items.get("right", ""), reference.items.get("right", "")
    if len(ours) != len(theirs):
        return {}
    pairs = [(a, b) for a, b in zip(ours, theirs, strict=True) if "-" not in (a, b)]
    if not pairs:
        return {}
    n = len(pairs)
    lost, won = pairs.count(("0", "1")), pairs.count(("1", "0"))
    drop, flips = (lost - won) / n, (lost + won) / n
    spread = {"accuracy_drop": ((flips - drop**2) / n) ** 0.5}
    numbers = {"accuracy_drop": drop, "flip_rate": flips}
    return make_values(VALUES, numbers, spread, dict.fromkeys(numbers, n))


def summarise(answered: Sequence[Scored], too_long: int) -> dict[str, Value]:
    """Accuracy over items (micro), over subjects (macro) and per subject."""
    by_subject: dict[str, list[bool]] = {}
    for item in answered:
        by_subject.setdefault(item.question.subject, []).append(item.right)
    groups = {"accuracy": [s.right for s in answered]}
    groups |= {qualify("accuracy", subject): right for subject, right in by_subject.items()}
    numbers: dict[str, int | float | None] = {name: fmean(group) for name, group in groups.items()}
    numbers["accuracy_macro"] = fmean(fmean(right) for right in by_subject.values())
    numbers |= {
        "items": len(answered),
        "ties": sum(s.tied for s in answered),
        "too_long": too_long,
    }
    spread = {name: accuracy_stderr(group) for name, group in groups.items()}
    return make_values(VALUES, numbers, spread, {name: len(g) for name, g in groups.items()})


def build_questions(
    subject: str, dev: Sequence[Row], test: Sequence[Row], shots: int, form: str = "letters"
) -> list[Question]:
    """The published prompt: a heading, ``shots`` answered examples, the question."""
    letters = form == "letters"
    if len(dev) < shots:
        raise InputError(
            f"mmlu: {subject} has {len(dev)} dev examples, {shots} shots were asked for"
        )
    title = subject.replace("_", " ")
    heading = f"The following are multiple choice questions (with answers) about {title}.\n\n"
    examples = "".join(
        f"{_render(row, letters)} {_answers(row, letters)[row.answer]}\n\n" for row in dev[:shots]
    )
    return [
        Question(
            id=f"{subject}/{i}",
            subject=subject,
            prompt=heading + examples + _render(row, letters),
            options=tuple(f" {answer}" for answer in _answers(row, letters)),
            answer=row.answer,
        )
        for i, row in enumerate(test)
    ]


def load_subjects(
    options: Options, context: MeasureContext
) -> dict[str, tuple[list[Row], list[Row]]]:
    """Dev and test rows by subject, in alphabetical order of subjects."""
    kind, place = options.data.locate(context.suite_folder)
    if kind == "hub":
        dev, test = (_load_hub_split(options, context, split) for split in ("dev", "test"))
    else:
        dev, test = (_load_folder_split(Path(place), split) for split in ("dev", "test"))
    wanted = sorted(options.subjects or test)
    for subject in wanted:
        if subject not in test:
            raise InputError(f"mmlu: no subject {subject!r}; there are {', '.join(sorted(test))}")
    return {subject: (dev.get(subject, []), test[subject]) for subject in wanted}


def hash_questions(questions: Sequence[Question]) -> str:
    """One hash of every prompt, option and answer: equal hashes mean the same items."""
    digest = hashlib.sha256()
    for q in questions:
        digest.update(repr((q.id, q.prompt, q.options, q.answer)).encode())
    return digest.hexdigest()


def _answers(row: Row, letters: bool) -> tuple[str, ...]:
    return tuple(LETTERS[: len(row.choices)]) if letters else row.choices


def _render(row: Row, letters: bool) -> str:
    lines = [row.question.strip()]
    if letters:
        lines += [f"{letter}. {text}" for letter, text in zip(LETTERS, row.choices, strict=False)]
    return "\n".join([*lines, "Answer:"])


def _load_folder_split(folder: Path, split: str) -> dict[str, list[Row]]:
    """``<folder>/<split>/<subject>_<split>.csv`` as published: question, A, B, C, D, answer."""
    from harness.tasks._data import load_text_tables

    suffix = f"_{split}.csv"
    files = {path.name.removesuffix(suffix): path for path in (folder / split).glob(f"*{suffix}")}
    if not files:
        raise InputError(f"mmlu: no {split}/<subject>_{split}.csv files in {folder}")
    names = ["question", *LETTERS[:4], "answer"]
    tables = load_text_tables({subject: str(path) for subject, path in files.items()}, names)
    return {
        subject: [
            _make_row(line, [line[c] for c in "ABCD"], f"{files[subject].name}, row {i + 1}")
            for i, line in enumerate(table)
        ]
        for subject, table in tables.items()
    }


def _load_hub_split(options: Options, context: MeasureContext, split: str) -> dict[str, list[Row]]:
    from harness.tasks._data import load_hub

    found: dict[str, list[Row]] = {}
    for i, line in enumerate(load_hub(options.data, context, split)):
        row = _make_row(line, line["choices"], f"{options.data.path} {split}, row {i + 1}")
        found.setdefault(line["subject"], []).append(row)
    return found


def _make_row(line: Mapping[str, Any], choices: Sequence[Any], where: str) -> Row:
    """Check one item; ``where`` names its file and row in the error."""
    answer = line["answer"]
    letters = LETTERS[: len(choices)]
    index = _find_letter(answer, letters) if isinstance(answer, str) else answer
    if not isinstance(index, int) or not 0 <= index < len(choices):
        raise InputError(f"mmlu: {where}: answer {answer!r} is not one of {', '.join(letters)}")
    if any(choice is None or str(choice) == "" for choice in choices):
        raise InputError(f"mmlu: {where}: an option is empty")
    return Row(str(line["question"]), tuple(map(str, choices)), index)


def _find_letter(answer: str, letters: str) -> int:
    """The index of a single letter; -1 for anything else."""
    return letters.find(answer.strip()) if len(answer.strip()) == 1 else -1
