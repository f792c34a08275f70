"""What tasks share: their options, the hash of their items, their record. No torch and no files."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from harness.descriptions import BatchTokens, OptionsBase
from harness.records.record import Measured, Validity, Value
from harness.suite.data_source import DataSource

if TYPE_CHECKING:
    from harness.engines.base import Engine

# Of a task's protocol and items: files whose content is hashed, the cost, the reader's file.
HOW = frozenset({"data", "examples", "cost", "questions"})
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class ItemOptions(OptionsBase):
    """``limit`` keeps the first n items; ``batch_tokens`` go through the model at once at most.

    Fewer go through where memory runs out, or where that is as fast.
    """

    data: DataSource
    shots: int = Field(0, ge=0)
    limit: int | None = Field(None, ge=1)
    batch_tokens: BatchTokens = "auto"
    BATCH: ClassVar[str | None] = "batch_tokens"


class RowOptions(ItemOptions):
    """``shots`` answered ``examples`` precede each question.

    They are by default those of the hub dataset's train split.
    """

    examples: DataSource | None = None


def hash_items(items: Iterable[tuple[Any, ...]]) -> str:
    """One hash of all that is asked and answered: equal hashes mean the same items."""
    digest = hashlib.sha256()
    for item in items:
        digest.update(repr(item).encode())
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
