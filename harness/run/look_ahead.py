"""Read the next cell's files into the system's memory while a GPU measures this one's.

Not while anything is timed: it asks little of the host and its memory, but not nothing, and a GPU
that decodes one token after another waits for the host. Nor on a CPU, for the same reason. Whatever
goes wrong here, the next cell reads its files itself.
"""

import contextlib
import os
import threading
from collections.abc import Callable, Iterable
from itertools import pairwise
from pathlib import Path

from harness.machine.control_groups import read_available_memory
from harness.suite.cells import Cell
from harness.suite.model_sources import list_local_weights

_PIECE = 128 << 10  # Linux cuts longer requests off at a device's read-ahead, 128 KiB by default
_SHARE = 0.5  # of the available memory, of which this cell's own files are a part


class LookAhead:
    """Knows which cell comes after which in ``cells``; starts at most one thread for each."""

    def __init__(self, cells: Iterable[Cell], suite_folder: Path) -> None:
        order = {cell.id: cell for cell in cells}.values()
        self._next = {cell.id: following for cell, following in pairwise(order)}
        self._suite_folder = suite_folder
        self._may_read = threading.Event()

    def start(self, cell: Cell, device: str) -> threading.Thread | None:
        """Read on in the background, once, while ``cell`` measures on ``device``, 'cpu' or 'cuda'.

        Also goes on with what was paused. The thread is only of interest to a test.
        """
        self._may_read.set()
        following = self._next.pop(cell.id, None) if device == "cuda" else None
        if following is None:
            return None
        thread = threading.Thread(target=self._read, args=(following,), daemon=True)
        thread.start()
        return thread

    def pause(self) -> None:
        """Read nothing more until the next start, but for a piece that was asked for already."""
        self._may_read.clear()

    def _read(self, cell: Cell) -> None:
        with contextlib.suppress(Exception):  # the next cell will say what is wrong
            # Linux gives each thread a priority of its own.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)
            paths = list_local_weights(cell.model, self._suite_folder)
            if sum(path.stat().st_size for path in paths) <= _SHARE * read_available_memory():
                for path in paths:
                    read_ahead(path, self._may_read.wait)


def read_ahead(path: Path, wait: Callable[[], object] = lambda: None) -> None:
    """Ask the system to keep the whole file in memory; AttributeError where it cannot be asked.

    ``wait`` is called before each piece of it.
    """
    with path.open("rb") as file:
        for start in range(0, path.stat().st_size, _PIECE):
            wait()
            os.posix_fadvise(file.fileno(), start, _PIECE, os.POSIX_FADV_WILLNEED)
