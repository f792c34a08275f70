"""A stand-in for pynvml, NVIDIA's library, with boards that answer as they are told."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import pynvml
import pytest

Board = dict[str, Any]


class FakeNvml(ModuleType):
    """Boards are dicts: an answer, or a function that gives it, by what follows "nvmlDeviceGet".

    A board refuses what it has no answer for, as a real one does that lacks a sensor or a right.
    """

    NVMLError = pynvml.NVMLError

    def __init__(self, *boards: Board) -> None:
        super().__init__("pynvml")
        self._boards = boards
        self.open_sessions = 0

    def nvmlInit(self) -> None:  # noqa: N802 - NVML's own names
        self.open_sessions += 1

    def nvmlShutdown(self) -> None:  # noqa: N802
        self.open_sessions -= 1

    def nvmlSystemGetDriverVersion(self) -> str:  # noqa: N802
        return "570.1"

    def nvmlSystemGetCudaDriverVersion(self) -> int:  # noqa: N802
        return 12080

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        return len(self._boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Board:  # noqa: N802
        return self._boards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Board:  # noqa: N802
        for board in self._boards:
            if board.get("UUID") == uuid:
                return board
        raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_FOUND)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        fact = name.removeprefix("nvmlDeviceGet")
        if fact == name:
            raise AttributeError(name)

        def ask(board: Board, *arguments: Any) -> Any:
            if fact not in board:
                raise pynvml.NVMLError(pynvml.NVML_ERROR_NOT_SUPPORTED)
            answer = board[fact]
            return answer(*arguments) if callable(answer) else answer

        return ask


def install_nvml(monkeypatch: pytest.MonkeyPatch, *boards: Board) -> FakeNvml:
    """Have every ``import pynvml`` give a `FakeNvml` with these boards."""
    fake = FakeNvml(*boards)
    monkeypatch.setitem(sys.modules, "pynvml", fake)
    return fake
