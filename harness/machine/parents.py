"""A process that ends with the one that started it."""

import ctypes
import signal


def die_with_parent() -> None:
    """Have the kernel kill this process as soon as its parent ends. Linux only."""
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:
        prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
