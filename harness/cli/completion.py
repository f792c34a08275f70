"""`harness completion`: what a shell needs to complete commands and options."""

import click
from click.shell_completion import get_completion_class

_SHELLS = ("bash", "zsh", "fish")


@click.command(name="completion")
@click.argument("shell", type=click.Choice(_SHELLS))
def command(shell: str) -> None:
    """Print what SHELL needs to complete commands and options of `harness`.

    \b
    bash:  eval "$(harness completion bash)"      in ~/.bashrc
    zsh:   eval "$(harness completion zsh)"       in ~/.zshrc
    fish:  harness completion fish | source       in ~/.config/fish/config.fish
    """
    from harness.cli import harness

    found = get_completion_class(shell)
    assert found is not None
    click.echo(found(harness, {}, "harness", "_HARNESS_COMPLETE").source())
