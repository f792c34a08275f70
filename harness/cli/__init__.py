"""The ``harness`` command: what can be done without pytest.

Exits with 0 where all is well and 4 for wrong input; a command's help lists its other statuses. A
command's file is imported when that command is asked for, so that the others start quickly.
"""

import importlib
from collections.abc import Sequence

import click

from harness import __version__
from harness.errors import InputError, UnavailableError

BAD_INPUT = 4
_NAMED_AS_FILES = (
    *("ab", "bless", "cache", "compare", "completion", "doctor", "export", "flips", "history"),
    *("init", "list", "plan", "recommend", "report", "run"),
)
_COMMANDS = {**{name: name for name in _NAMED_AS_FILES}, "try": "try_model"}


class _Commands(click.Group):
    """The commands by name; each is the ``command`` of the file that `_COMMANDS` names."""

    def list_commands(self, context: click.Context) -> list[str]:
        return [*_COMMANDS]  # `list` is a command here

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"harness.cli.{_COMMANDS[name]}").command
        return command


@click.command(cls=_Commands)
@click.version_option(__version__, prog_name="precision-harness")
def harness() -> None:
    """Measure what each precision of a language model costs and gains.

    Suites are run by pytest: `pytest suites/`, or from any folder `harness run SUITE`.
    """


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    try:
        status = harness.main(arguments, prog_name="harness", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message())
        return 0
    except click.ClickException as error:
        error.show()
        return BAD_INPUT
    except (InputError, UnavailableError) as error:
        click.echo(f"Error: {error}", err=True)
        return BAD_INPUT
    except click.Abort:
        click.echo("Aborted.", err=True)
        return 130
    return status if isinstance(status, int) else 0
