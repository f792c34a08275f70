"""Keeps private facts out of whatever is written: home folders, tokens, passwords."""

import os
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

_SECRET_NAME = re.compile(r"TOKEN|KEY|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)


def scrub(value: Any) -> Any:
    """A copy of a JSON-able value without home folders, tokens and passwords.

    The user's home becomes ``~``, another's ``/home/~``; keys are scrubbed like values. Idempotent.
    """
    if isinstance(value, str):
        for pattern, replacement in _list_private(os.environ.get("HOME")):
            value = pattern.sub(replacement, value)
        return value
    if isinstance(value, dict):
        return {scrub(key): scrub(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [scrub(entry) for entry in value]
    return value


def is_secret_name(name: str) -> bool:
    """Whether an environment variable of this name may hold a secret."""
    return _SECRET_NAME.search(name) is not None


@lru_cache(maxsize=4)
def _list_private(_home_variable: str | None) -> tuple[tuple[re.Pattern[str], str], ...]:
    """What `scrub` replaces, in order; cached per value of HOME, on which ``Path.home`` depends."""
    try:
        found = Path.home()
    except RuntimeError:  # no HOME, and no such user
        homes = set()
    else:
        homes = {str(found), os.path.realpath(found)} - {"/", "."}
    # Guarded on both sides: home /root is not in /data/root, home /home/al not in /home/alice.
    own = [
        (re.compile(rf"(?<![\w.-]){re.escape(home)}(?![\w.-])"), "~")
        for home in sorted(homes, key=len, reverse=True)
    ]
    return (
        *own,
        (re.compile(r"[/\\]+(?:home|Users)[/\\]+[^/\\\s\"':;,()<>\[\]{}]+"), "/home/~"),
        (re.compile(r"\bhf_[A-Za-z0-9]{16,}"), "hf_***"),
        (re.compile(r"(?i)\bbearer\s+[\w.~+/=-]{8,}"), "Bearer ***"),
        (re.compile(r"://[^/\s@:]*:[^/\s@]+@"), "://***@"),
    )
