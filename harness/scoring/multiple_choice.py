"""multiple_choice: the log-likelihood of each option of a question, and what follows from it.

Used by tasks, which know where items come from and how a prompt reads. Prompts, tokens and
log-likelihoods are those of lm-evaluation-harness; what prompts share is computed once.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.descriptions import MeasureContext, OptionsBase, ValueSpec
from harness.engines.base import Cost, Target, Tokens
from harness.errors import InputError
from harness.metrics.choice_values import summarise_groups
from harness.records.questions import KEY, Item, keep_questions
from harness.records.record import Measured, Validity
from harness.records.values import base_name, make_values
from harness.scoring.prompts import encode_all, prompt_protocol, render_prompt
from harness.suite.data_source import DataSource

if TYPE_CHECKING:
    from harness.engines.base import Engine

TIE_NATS = 1e-3
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_TOKENISED_TOGETHER = 256  # questions


class ChoiceOptions(OptionsBase):
    """``shots`` answered examples precede each question; ``limit`` keeps the first n questions.

    ``batch_tokens`` go through the model at once, fewer where memory runs out.
    """

    data: DataSource
    shots: int = Field(0, ge=0)
    limit: int | None = Field(None, ge=1)
    batch_tokens: int = Field(4096, ge=1)
    BATCH: ClassVar[str | None] = "batch_tokens"


@dataclass(frozen=True)
class Question:
    """A prompt, the texts that may follow it behind ``delimiter``, and the index of the right one.

    ``prompts`` holds one per option where they differ, as in WinoGrande. ``asked`` and ``choices``
    are for a reader: the question without examples, and what is to be chosen from, where these are
    not the prompt and the options.
    """

    id: str
    subject: str
    prompt: str
    options: tuple[str, ...]
    answer: int
    delimiter: str = " "
    prompts: tuple[str, ...] | None = None
    asked: str | None = None
    choices: tuple[str, ...] | None = None

    def prompt_of(self, option: int) -> str:
        """What option number ``option`` follows."""
        return self.prompt if self.prompts is None else self.prompts[option]

    def for_reader(self) -> Item:
        """What is kept of it beside the run file."""
        asked = self.prompt if self.asked is None else self.asked
        return Item(self.id, asked, self.choices or self.options, self.answer)


@dataclass(frozen=True)
class Scored:
    """``log_likelihoods`` per option in nats, None where a prompt was too long to score.

    ``greedy`` tells of each option whether it is what greedy decoding would say.
    """

    question: Question
    log_likelihoods: tuple[float, ...] | None
    greedy: tuple[bool, ...] = ()

    @property
    def chosen(self) -> int | None:
        """The likeliest option, the first of equals; None for an unscored question."""
        return None if self.log_likelihoods is None else _first_best(self.log_likelihoods)

    @property
    def chosen_norm(self) -> int | None:
        """The likeliest per character, which lm-evaluation-harness calls acc_norm."""
        if self.log_likelihoods is None:
            return None
        lengths = [max(1, len(option)) for option in self.question.options]
        return _first_best([x / n for x, n in zip(self.log_likelihoods, lengths, strict=True)])

    @property
    def right(self) -> bool:
        return self.chosen == self.question.answer

    @property
    def right_norm(self) -> bool:
        return self.chosen_norm == self.question.answer

    @property
    def tied(self) -> bool:
        """Two best options closer than `TIE_NATS`: batch shape alone can flip them."""
        if self.log_likelihoods is None or len(self.log_likelihoods) < 2:
            return False
        first, second = sorted(self.log_likelihoods, reverse=True)[:2]
        return first - second < TIE_NATS


def measure_questions(
    engine: Engine,
    questions: Sequence[Question],
    options: ChoiceOptions,
    context: MeasureContext,
    specs: Mapping[str, ValueSpec],
    protocol: Mapping[str, Any] | None = None,
) -> Measured:
    """Score the questions and summarise them by subject, in the values that ``specs`` names.

    Questions of one subject lie together. ``protocol`` says what else the task's numbers depend
    on. Raises `InputError` where no prompt fits into the model's context.
    """
    if not questions:
        raise InputError(f"{options.data.path!r} holds no items")
    scored, cost = score_questions(engine, questions, options.batch_tokens, context)
    answered = [s for s in scored if s.log_likelihoods is not None]
    too_long = len(scored) - len(answered)
    if not answered:
        raise InputError(
            f"every {options.shots}-shot prompt is longer than the {engine.max_context} tokens "
            f"of {engine.job.model.name}; use fewer shots"
        )
    subjects: dict[str, int] = {}
    for question in questions:
        subjects[question.subject] = subjects.get(question.subject, 0) + 1
    outcomes = {"acc": _row(scored, "01", lambda s: s.right)}
    if "acc_norm" in specs:
        outcomes["acc_norm"] = _row(scored, "01", lambda s: s.right_norm)
    counts = {
        "items": len(answered),
        "ties": sum(s.tied for s in answered),
        "too_long": too_long,
        "tokens_forwarded": cost.tokens_forwarded,
        "tokens_unique": cost.tokens_unique,
    }
    values = summarise_groups(specs, outcomes, subjects) | make_values(specs, counts)
    items = {
        "ids": "subject/number in its data, in order",
        KEY: keep_questions(question.for_reader() for question in questions),
        "subjects": subjects,
        "chosen": _row(scored, LETTERS, lambda s: s.chosen or 0),
        "right": outcomes["acc"],
        "tied": "".join("01"[s.tied] for s in scored),
        # For reading; what is chosen was chosen before they were shortened.
        "log_likelihoods": [
            None if s.log_likelihoods is None else [round(x, 5) for x in s.log_likelihoods]
            for s in scored
        ],
        "cost": {
            "tokens_padding": cost.tokens_padding,
            "passes": cost.passes,
            "batch_tokens": cost.batch_tokens,
        },
    }
    if "acc_norm" in specs:
        items["chosen_norm"] = _row(scored, LETTERS, lambda s: s.chosen_norm or 0)
        items["right_norm"] = outcomes["acc_norm"]
    reasons = [f"{too_long} prompts exceed the model's context; not scored"] if too_long else []
    if cost.unshared:
        reasons.append(f"shared prefixes computed anew for each prompt: {cost.unshared}")
    return Measured(
        values={name: value for name, value in values.items() if base_name(name) in specs},
        protocol={
            **options.model_dump(exclude={"batch_tokens"}, mode="json"),
            **(protocol or {}),
            **prompt_protocol(engine),
            "items_sha256": hash_questions(questions),
            "tokenizer_sha256": engine.job.files.tokenizer_sha256,
        },
        items=items,
        validity=Validity(status="flagged" if reasons else "ok", reasons=tuple(reasons)),
    )


def score_questions(
    engine: Engine, questions: Sequence[Question], batch_tokens: int, context: MeasureContext
) -> tuple[list[Scored], Cost]:
    """Score every option of every question, in the questions' order, and tell what it took.

    Raises `InputError` where a log-likelihood is not finite.
    """
    rows: dict[tuple[int, ...], int] = {}
    targets: list[Target] = []
    too_long = set()
    limit = engine.max_context
    for i, found in enumerate(_tokenise(engine, questions)):
        if limit is not None and any(len(row) > limit for row, _ in found):
            too_long.add(i)
            continue
        for option, (row, tokens) in enumerate(found):
            number = rows.setdefault(row, len(rows))
            start = len(row) - len(tokens)
            targets += [
                Target(number, start + at, token, (i, option)) for at, token in enumerate(tokens)
            ]
    context.progress(0, len(questions) - len(too_long), "items")
    sums: dict[Any, float] = {}
    greedy: dict[Any, bool] = {}

    def take(key: Any, nll: float, likeliest: bool) -> None:
        sums[key] = sums.get(key, 0.0) - nll
        greedy[key] = greedy.get(key, True) and likeliest

    cost = engine.score_targets(
        list(rows),
        targets,
        take,
        batch_tokens,
        lambda done, total: context.progress(done, total, "prompts"),
    )
    scored = []
    for i, question in enumerate(questions):
        if i in too_long:
            scored.append(Scored(question, None))
            continue
        keys = [(i, option) for option in range(len(question.options))]
        likelihoods = tuple(sums[key] for key in keys)
        if not all(map(math.isfinite, likelihoods)):
            raise InputError(
                f"{question.id}: the model's log-likelihoods are not finite: {likelihoods}"
            )
        scored.append(Scored(question, likelihoods, tuple(greedy[key] for key in keys)))
    return scored, cost


def hash_questions(questions: Sequence[Question]) -> str:
    """One hash of every prompt, option and answer: equal hashes mean the same items."""
    digest = hashlib.sha256()
    for q in questions:
        parts = (q.id, q.subject, q.prompts or q.prompt, q.delimiter, q.options, q.answer)
        digest.update(repr(parts).encode())
    return digest.hexdigest()


def _tokenise(
    engine: Engine, questions: Sequence[Question]
) -> Iterator[list[tuple[Tokens, Tokens]]]:
    """Per question and option the ids that go through the model, and those it is to predict.

    As lm-evaluation-harness has it: spaces that end the prompt go over to the option, whose tokens
    are those of prompt + option that the prompt alone does not have; with an empty prompt the
    model starts from its beginning-of-text token, or else its end-of-text token.
    """
    for start in range(0, len(questions), _TOKENISED_TOGETHER):
        block = questions[start : start + _TOKENISED_TOGETHER]
        pairs = [_split_prompts(engine, question) for question in block]
        asked = [(prompt, prompt + end) for own in pairs for prompt, end in own if prompt]
        ids = encode_all(engine, chain.from_iterable(asked))
        for question, own in zip(block, pairs, strict=True):
            found = []
            for (prompt, end), text in zip(own, question.options, strict=True):
                context = ids[prompt] if prompt else _start_tokens(engine)
                wanted = ids[prompt + end][len(context) :] if prompt else _encode_end(engine, end)
                if not wanted:
                    raise InputError(f"{question.id}: option {text!r} adds no token to its prompt")
                found.append(((*context, *wanted[:-1]), tuple(wanted)))
            yield found


def _split_prompts(engine: Engine, question: Question) -> list[tuple[str, str]]:
    """Prompt and continuation per option; none of the prompts ends in a space.

    In a chat template nothing stands between the opened turn and the option.
    """
    pairs = []
    for option, text in enumerate(question.options):
        prompt = render_prompt(engine, question.prompt_of(option))
        delimiter = "" if engine.job.model.chat_template else question.delimiter
        kept = prompt.rstrip()
        pairs.append((kept, prompt[len(kept) :] + delimiter + text))
    return pairs


def _encode_end(engine: Engine, text: str) -> list[int]:
    tokenizer: Any = engine.require_tokenizer()
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _start_tokens(engine: Engine) -> list[int]:
    tokenizer: Any = engine.require_tokenizer()
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    if first is None:
        raise InputError(
            f"an empty prompt, and the tokenizer of {engine.job.model.name} has neither a "
            "beginning-of-text nor an end-of-text token to start from"
        )
    return [first]


def _row(scored: Sequence[Scored], letters: str, pick: Any) -> str:
    """One character per item, ``-`` where it was not scored."""
    return "".join("-" if s.log_likelihoods is None else letters[pick(s)] for s in scored)


def _first_best(numbers: Sequence[float]) -> int:
    return max(range(len(numbers)), key=numbers.__getitem__)
