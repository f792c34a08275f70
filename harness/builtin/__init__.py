"""The embedded default: a small model, its tokenizer, its held-out text and its quiz.

``builtin:tiny-world`` is the model, ``builtin:tiny-world/heldout`` the text and
``builtin:tiny-world/quiz`` the quiz. `world` generates the text, `train` makes the model.
"""

from __future__ import annotations

from pathlib import Path

from harness.catalog import check_name

FOLDER = Path(__file__).parent
_PLACES = {
    "builtin:tiny-world": FOLDER / "tiny-world" / "model",
    "builtin:tiny-world/heldout": FOLDER / "tiny-world" / "heldout.txt",
    "builtin:tiny-world/quiz": FOLDER / "tiny-world" / "quiz",
}


def list_models() -> tuple[str, ...]:
    """The embedded names that are models."""
    return tuple(name for name, place in _PLACES.items() if (place / "config.json").is_file())


def locate_builtin(name: str) -> Path:
    """The file or folder of an embedded name; raises `InputError` listing the known ones."""
    return _PLACES[check_name("embedded name", name, _PLACES)]
