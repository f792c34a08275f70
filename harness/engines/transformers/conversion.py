"""Errors while transformers converts weights, such as a quantiser's, with their own class and text.

transformers (5.0 to 5.23) keeps the text for a report, goes on, and in the end raises a
RuntimeError that names no cause: an out-of-memory is then no longer told from a wrong shape.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from transformers import core_model_loading

_CATCHER = "log_conversion_errors"


@contextlib.contextmanager
def raise_conversion_errors() -> Iterator[list[str]]:
    """Let the first such error end the loading; the list then names the weight it was met at."""
    failed: list[str] = []

    @contextlib.contextmanager
    def let_through(name: str, *_: Any, **__: Any) -> Iterator[None]:
        try:
            yield
        except Exception:
            failed.append(name)
            raise

    before = getattr(core_model_loading, _CATCHER, None)
    if before is None:  # another version's way
        yield failed
        return
    setattr(core_model_loading, _CATCHER, let_through)
    try:
        yield failed
    finally:
        setattr(core_model_loading, _CATCHER, before)
