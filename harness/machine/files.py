"""The cache folder; small files: written so that a reader sees the old or the whole new one."""

import os
import secrets
from pathlib import Path


def cache_folder() -> Path:
    """``$PRECISION_HARNESS_CACHE``, else ``precision-harness`` in the user's cache folder."""
    given = os.environ.get("PRECISION_HARNESS_CACHE")
    if given:
        return Path(given).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "precision-harness"


def read_text(path: Path | str) -> str | None:
    """The text without surrounding space; None where the file cannot be read."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write next to ``path``, flush to the disk, then rename; makes missing folders.

    Raises OSError where that fails, and leaves nothing half-written behind.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with part.open("xb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
