"""`harness run`: pytest with the plugin loaded and the working folder as its root."""

import runpy
import sys

import click


@click.command(
    name="run",
    context_settings={"ignore_unknown_options": True, "help_option_names": ["--help"]},
)
@click.argument("arguments", metavar="SUITE… [PYTEST OPTIONS]", nargs=-1, type=click.UNPROCESSED)
def command(arguments: tuple[str, ...]) -> int:
    """Run suites with pytest, from any folder.

    Needs no conftest.py, takes every option of pytest (`harness run -h` lists them) and exits as
    pytest does. Results go to the working folder.
    """
    return run_pytest(arguments)


def run_pytest(arguments: tuple[str, ...]) -> int:
    """Its exit status; ``arguments`` are suites and options."""
    sys.argv = ["pytest", "-p", "harness.plugin", "--rootdir=.", *arguments]
    try:
        runpy.run_module("pytest", run_name="__main__")
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0
