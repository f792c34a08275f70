"""What tasks share: their options, questions with several possible continuations, their record.

No torch and no files. How questions are scored is in `harness.scoring.multiple_choice`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.descriptions import OptionsBase
from harness.records.questions import Item
from harness.records.record import Measured, Validity, Value
from harness.suite.data_source import DataSource

if TYPE_CHECKING:
    from harness.engines.base import Engine

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class ItemOptions(OptionsBase):
    """``limit`` keeps the first n items; ``batch_tokens`` go through the model at once.

    Fewer go through where memory runs out.
    """

    data: DataSource
    shots: int = Field(0, ge=0)
    limit: int | None = Field(None, ge=1)
    batch_tokens: int = Field(4096, ge=1)
    BATCH: ClassVar[str | None] = "batch_tokens"


class RowOptions(ItemOptions):
    """``shots`` answered ``examples`` precede each question.

    They are by default those of the hub dataset's train split.
    """

    examples: DataSource | None = None


@dataclass(frozen=True)
class Question:
    """A prompt, the texts that may follow it after ``delimiter``, and the index of the right one.

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
        """The text that option number ``option`` follows."""
        return self.prompt if self.prompts is None else self.prompts[option]

    def for_reader(self) -> Item:
        """The question as it is stored next to the run file; a single option is its answer."""
        asked = self.prompt if self.asked is None else self.asked
        if len(self.options) == 1:
            return Item(self.id, asked, (), self.options[0].strip())
        return Item(self.id, asked, self.choices or self.options, self.answer)

    def render_answered(self) -> str:
        """The question as an example: with its right answer, and the blank line that ends it."""
        answer = self.options[self.answer]
        return f"{self.prompt_of(self.answer)}{self.delimiter}{answer}\n\n"


def hash_questions(questions: Sequence[Question]) -> str:
    """One hash of every prompt, option and answer: equal hashes mean the same items."""
    digest = hashlib.sha256()
    for q in questions:
        parts = (q.id, q.subject, q.prompts or q.prompt, q.delimiter, q.options, q.answer)
        digest.update(repr(parts).encode())
    return digest.hexdigest()


def make_measured(
    engine: Engine,
    options: ItemOptions,
    values: dict[str, Value],
    items: dict[str, Any],
    protocol: Mapping[str, Any],
    reasons: Sequence[str],
) -> Measured:
    """A task's record; ``protocol`` is what its numbers depend on besides options and tokenizer."""
    from harness.scoring.prompts import prompt_protocol

    return Measured(
        values=values,
        protocol={
            **options.model_dump(exclude={"batch_tokens"}, mode="json"),
            **prompt_protocol(engine),
            "tokenizer_sha256": engine.job.files.tokenizer_sha256,
            **protocol,
        },
        items=items,
        validity=Validity(status="flagged" if reasons else "ok", reasons=tuple(reasons)),
    )
