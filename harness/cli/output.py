"""How a command's result is printed: for a person, for a pull request, or for a program."""

import json
from collections.abc import Sequence
from typing import Any

import click

from harness.report.document import Document
from harness.report.markdown import write_markdown
from harness.report.terminal import write_terminal

format_option = click.option(
    "--format", "form", default="text", type=click.Choice(["text", "md", "json"])
)


def print_report(shown: Sequence[Document], data: Any, form: str) -> None:
    """The documents below each other, or ``data`` as JSON."""
    if form == "json":
        click.echo(json.dumps(data, indent=1, allow_nan=False))
    else:
        write = write_markdown if form == "md" else write_terminal
        click.echo("\n\n".join(map(write, shown)))
