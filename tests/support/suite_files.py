"""Small suite files for tests, and marks that say where an error is expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from harness.suite.models import Suite
from harness.suite.read import SuiteError, load_suite

HERE = "▼"  # marks the character where an error is expected
PARTS = {
    "name": "name: s",
    "reference": "reference: fp32",
    "models": "models: [{name: m, source: 'builtin:tiny-world'}]",
    "precisions": "precisions: [fp32, nf4]",
    "measure": "measure: {footprint: }",
}
RANDOM = "{name: r, source: {architecture: llama, hidden_size: 8}, weights: random}"
PERPLEXITY = "perplexity: {text: 'builtin:tiny-world/heldout', context: 8}"
THROUGHPUT = "throughput: {batch_sizes: [1, 8]}"


def suite_text(**parts: str | None) -> str:
    """A small valid suite with some of its top-level entries replaced, or left out by None."""
    given = {**PARTS, **parts}
    return "".join(f"{part}\n" for part in given.values() if part is not None)


def write(folder: Path, text: str) -> Path:
    path = folder / "suites" / "x.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def load(folder: Path, text: str) -> Suite:
    return load_suite(write(folder, text), folder)


def load_parts(folder: Path, **parts: str | None) -> Suite:
    return load(folder, suite_text(**parts))


def errors_of(folder: Path, text: str) -> list[str]:
    with pytest.raises(SuiteError) as caught:
        load(folder, text)
    return str(caught.value).splitlines()


def strip_marks(marked: str) -> tuple[str, list[str]]:
    """The text without its marks, and the ``line:column`` of each."""
    positions = []
    lines = marked.split("\n")
    for number, line in enumerate(lines, 1):
        while HERE in line:
            positions.append(f"{number}:{line.index(HERE) + 1}")
            line = line.replace(HERE, "", 1)
        lines[number - 1] = line
    return "\n".join(lines), positions


def check_marked(folder: Path, marked: str, *parts: str) -> None:
    """One error, at the mark, that says ``parts``."""
    text, [position] = strip_marks(marked)
    [message] = errors_of(folder, text)
    assert message.startswith(f"suites/x.yaml:{position}: ")
    for part in parts:
        assert part in message


def shorten(value: object) -> str:
    """A test's id: the first thing that the error says."""
    return str(value[0])[:40] if isinstance(value, list) else "suite"
