"""git, asked about a folder."""

import os
import subprocess
from pathlib import Path

from harness.errors import InputError

# Inside a git hook these point at the hook's repository, whatever -C says.
_REDIRECTS = {"GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE"}


def run_git(
    folder: Path, *arguments: str, timeout_s: float | None = None
) -> subprocess.CompletedProcess[bytes]:
    """What git answered, whatever its status.

    Raises `InputError` where git cannot be run, `subprocess.TimeoutExpired` after ``timeout_s``.
    """
    env = {name: value for name, value in os.environ.items() if name not in _REDIRECTS}
    env["GIT_OPTIONAL_LOCKS"] = "0"
    command = ["git", "-C", str(folder), *arguments]
    try:
        return subprocess.run(  # noqa: S603 - arguments of ours
            command, env=env, capture_output=True, check=False, timeout=timeout_s
        )
    except OSError as error:
        raise InputError(f"git cannot be run: {error.strerror}") from None
