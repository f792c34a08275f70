"""Rows of a data file or hub dataset, read field by field, and the checks of what they hold.

A row of a local file is the user's own: nothing in it may be empty, no two options the same, no
item twice. Published sets from the hub are scored as they are, oddities included, as other tools
do; only what could not be scored is refused.
"""

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from harness.catalog import describe_unknown
from harness.descriptions import MeasureContext
from harness.errors import InputError
from harness.suite.data_source import DataSource
from harness.tasks.shared import LETTERS, RowOptions


@dataclass(frozen=True)
class Row:
    """The fields of one item; ``where`` names its file and row; ``own``: of a local file.

    Its methods raise `InputError` for a field that is missing, null or not of the wanted kind.
    """

    fields: Mapping[str, Any]
    where: str
    own: bool = True

    def error(self, problem: str) -> InputError:
        """The error that names file and row."""
        return InputError(f"{self.where}: {problem}")

    def value(self, name: str) -> Any:
        """A field as it is."""
        if name not in self.fields:
            raise self.error(describe_unknown("field", name, self.fields))
        if self.fields[name] is None:
            raise self.error(f"field {name!r} is missing")
        return self.fields[name]

    def text(self, name: str) -> str:
        """A field that holds a text, or a whole number, as a text."""
        return self._as_text(self.value(name), f"field {name!r}")

    def filled(self, name: str) -> str:
        """`text` that must not be empty in a local file."""
        text = self.text(name)
        if self.own and not text.strip():
            raise self.error(f"field {name!r} is empty")
        return text

    def texts(self, name: str, count: int | None = None) -> tuple[str, ...]:
        """A field that holds a list of texts, ``count`` of them unless it is None."""
        value = self.value(name)
        if not isinstance(value, (list, tuple)):
            raise self.error(f"field {name!r} holds {value!r}, expected a list")
        if count not in (None, len(value)):
            raise self.error(f"field {name!r} holds {len(value)} options, expected {count}")
        return tuple(self._as_text(x, f"field {name!r}, option {i}") for i, x in enumerate(value))

    def index(self, name: str, known: Sequence[str]) -> int:
        """The index in ``known`` of what a field holds."""
        given = self.value(name)
        if isinstance(given, bool) or str(given).strip() not in tuple(known):
            raise self.error(f"{name} {given!r} is not one of {', '.join(known)}")
        return tuple(known).index(str(given).strip())

    def labelled(self, count: int | None = None) -> tuple[tuple[str, ...], int]:
        """The texts of ``choices {text, label}`` and the index of the one ``answerKey`` names.

        Raises `InputError` also where two labels are the same.
        """
        choices = self.value("choices")
        if not isinstance(choices, Mapping):
            expected = "expected lists 'text' and 'label'"
            raise self.error(f"field 'choices' holds {choices!r}, {expected}")
        inside = Row(choices, f"{self.where}, choices", self.own)
        labels = inside.texts("label", count)
        if len(set(labels)) < len(labels):
            shown = ", ".join(labels)
            raise inside.error(f"field 'label' holds {shown}: two labels are the same")
        return inside.texts("text", len(labels)), self.index("answerKey", labels)

    def check_options(
        self,
        options: Sequence[str],
        field: str,
        prompts: Sequence[str] | None = None,
        distinct: bool = True,
    ) -> None:
        """Raise `InputError` naming ``field`` unless it gives 2 to 26 options.

        In a local file none may be empty and, where ``distinct``, no two the same after the same
        of ``prompts``.
        """
        if not 2 <= len(options) <= len(LETTERS):
            count = len(options)
            raise self.error(f"field {field} gives {count} options, expected 2 to {len(LETTERS)}")
        seen: dict[tuple[str, str], int] = {}
        for i, option in enumerate(options if self.own else (), 1):
            if not option.strip():
                raise self.error(f"field {field}: option {i} is empty")
            first = seen.setdefault((prompts[i - 1] if prompts else "", option), i)
            if distinct and first != i:
                shown = "" if prompts else f": {option!r}"
                raise self.error(f"field {field}: options {first} and {i} are the same{shown}")

    def _as_text(self, value: Any, what: str) -> str:
        if type(value) is int:
            return str(value)
        if not isinstance(value, str):
            raise self.error(f"{what} holds {value!r}, expected a text")
        return value


def load_rows(
    source: DataSource, context: MeasureContext, split: str, limit: int | None = None
) -> list[Row]:
    """The first ``limit`` rows, in their order; raises `InputError` where there are none."""
    from harness.scoring.data import read_rows

    own = source.locate(context.suite_folder)[0] != "hub"
    rows = [Row(*row, own) for row in islice(read_rows(source, context, split), limit)]
    if not rows:
        raise InputError(f"{source.path!r} holds no rows")
    return rows


def load_examples(
    options: RowOptions, context: MeasureContext, limit: int | None = None
) -> list[Row]:
    """The first ``limit`` answered examples; raises `InputError` for fewer than ``shots``."""
    source = options.examples
    if options.shots == 0:
        return []
    if source is None:
        if options.data.locate(context.suite_folder)[0] != "hub":
            raise InputError(
                f"{options.shots} shots were asked for, and {options.data.path!r} is a file of "
                "questions: name the file of the answered ones with `examples:`, or set `shots: 0`"
            )
        source = options.data.model_copy(update={"split": "train"})
    rows = load_rows(source, context, "train", limit)
    if len(rows) < options.shots:
        found = f"{source.path!r} has {len(rows)} examples"
        raise InputError(f"{found}, {options.shots} shots were asked for")
    return rows


def leave_out(row: Row, examples: Sequence[Row], shots: int) -> list[Row]:
    """The examples that are not the question itself; raises `InputError` for too few."""
    others = [example for example in examples if example.fields != row.fields]
    if len(others) < shots:
        found = f"there are {len(others)} examples besides this question"
        raise row.error(f"{found}, {shots} shots were asked for")
    return others


def refuse_duplicates(rows: Sequence[Row], keys: Sequence[Hashable], what: str) -> None:
    """Raise `InputError` where two rows of a local file have the same key, called ``what``."""
    seen: dict[Hashable, str] = {}
    for row, key in zip(rows, keys, strict=True):
        if row.own and key in seen:
            found = f"the same {what} as in {seen[key]}"
            raise row.error(f"{found}; each item counts once, remove one")
        seen[key] = row.where
