"""The two ways a cell ends without a number and without a bug."""

from __future__ import annotations


class InputError(ValueError):
    """The user's mistake in a model, text or option; the message stands alone, no traceback."""


class UnavailableError(Exception):
    """Something that cannot be had on this machine now; the measurement is skipped."""
