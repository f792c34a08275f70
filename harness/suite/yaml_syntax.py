"""Composing YAML text into nodes, and what is wrong with text that is no YAML."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import yaml
from yaml.nodes import Node

MAX_DEPTH = 60


class Problem(NamedTuple):
    """One mistake and its position, from 1; sorts by position."""

    line: int
    column: int
    message: str


class TooLargeError(yaml.MarkedYAMLError):
    """YAML that is valid, but too deep or too large to read."""


class Loader(yaml.SafeLoader):
    """The safe loader, with dates as text and a limit on nesting."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML declares it
        first: [pair for pair in pairs if not pair[0].endswith((":timestamp", ":value"))]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    depth = 0

    def compose_node(self, parent: Node | None, index: Any) -> Node | None:
        if self.depth >= MAX_DEPTH:
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise TooLargeError(problem=f"nested more than {MAX_DEPTH} deep", problem_mark=mark)
        self.depth += 1
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


# YAML 1.2 reads 1e-3 as a number; PyYAML follows 1.1 and wants 1.0e-3.
Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def describe_syntax_error(error: yaml.MarkedYAMLError, text: str) -> Problem:
    """PyYAML's error in plain words, with the remedy for the common ones."""
    mark = error.problem_mark or error.context_mark
    assert mark is not None, "the scanner, the parser and the composer mark their errors"
    if isinstance(error, TooLargeError):
        return Problem(mark.line + 1, mark.column + 1, str(error.problem))
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    indent = line[: len(line) - len(line.lstrip())]
    found = line[mark.column : mark.column + 1]
    if "\t" in indent or found == "\t":
        column = indent.index("\t") if "\t" in indent else mark.column
        return Problem(
            mark.line + 1, column + 1, "a tab: YAML forbids tabs for indentation; use spaces"
        )
    what = error.problem or "cannot be read"
    if "but found another document" in what:
        return Problem(mark.line + 1, 1, "a second document starts here; a suite is one document")
    message = f"not valid YAML: {what}"
    start = error.context_mark
    if error.context and start is not None and start.line != mark.line:
        message += f" ({error.context}, started at {start.line + 1}:{start.column + 1})"
    elif error.context:
        message += f" ({error.context})"
    if found and found in "[]{}:*&%@`!|>":
        message += f"; text that contains {found!r} goes in quotes"
    return Problem(mark.line + 1, mark.column + 1, message)


def end_of(text: str) -> tuple[int, int]:
    """The line and column, from 1, behind a text."""
    lines = text.split("\n")
    return len(lines), len(lines[-1]) + 1
