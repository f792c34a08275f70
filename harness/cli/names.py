"""Names that a person typed, checked against the known ones."""

from collections.abc import Iterable

from harness.catalog import describe_unknown
from harness.errors import InputError


def check_name(what: str, given: str, known: Iterable[str], where: str = "") -> str:
    """``given``; raises `InputError` with the closest name where it is not one of the known."""
    known = list(known)
    if given not in known:
        raise InputError(f"{describe_unknown(what, given, known)}{where}")
    return given
