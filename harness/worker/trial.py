"""Try what quantised cells need, on tiny layers; in a worker process.

The host passes this function to that process, so importing this file imports no torch.
"""

from harness.catalog import list_readers
from harness.descriptions import LayerReader


def try_libraries(device: str) -> dict[str, tuple[bool, str]]:
    """By library, whether its tiny layers compute on ``device``, and what it or the error says."""
    return {reader.library: _try(reader, device) for reader in list_readers()}


def _try(reader: LayerReader, device: str) -> tuple[bool, str]:
    try:
        return True, reader.try_out(device)
    except Exception as error:  # whatever a broken library does is what the user must know
        lines = str(error).strip().splitlines() or [""]
        return False, f"{type(error).__name__}: {lines[0]}"
