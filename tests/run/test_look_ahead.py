"""look_ahead: the next cell's files are read while a GPU measures, and nothing ever fails by it."""

from __future__ import annotations

import ctypes
import mmap
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from harness.catalog import load_measurement, load_precision
from harness.machine.environment import DeviceFacts
from harness.run import executor, look_ahead
from harness.run.executor import LocalExecutor
from harness.run.look_ahead import LookAhead, read_ahead
from harness.run.machine import Machine
from harness.suite.cells import Cell
from harness.suite.model_sources import CellJob
from harness.suite.models import Architecture, MeasurementSpec, ModelSpec, PrecisionSpec
from harness.worker.messages import Failure
from tests.support.cells_in_process import write_llama

GPU = DeviceFacts("cuda:0", "Tesla T4", 15 << 30, {"capability": "7.5"})
CPU = DeviceFacts("cpu", None, 15 << 30)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ahead")
    write_llama(folder / "a", num_hidden_layers=1)
    write_llama(folder / "b", num_hidden_layers=1)
    return folder


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were asked for, which are then read ahead really."""
    found: list[Path] = []

    def note(path: Path, wait: Any) -> None:
        found.append(path)
        read_ahead(path, wait)

    monkeypatch.setattr(look_ahead, "read_ahead", note)
    return found


def make_cell(model: str, precision: str = "fp32", source: Any = None) -> Cell:
    options = load_precision(precision).options()
    spec = PrecisionSpec(name=precision, use=precision, options=options)
    made = {"weights": "random"} if isinstance(source, Architecture) else {}
    return Cell(ModelSpec(name=model, source=source or f"./{model}", **made), spec, ())


def look(cells: Iterable[Cell], folder: Path, device: str = "cuda") -> None:
    """As if the first of them were measured."""
    cells = list(cells)
    thread = LookAhead(cells, folder).start(cells[0], device)
    if thread is not None:
        thread.join()


def test_the_files_of_the_next_cell_are_read(folder: Path, asked: list[Path]) -> None:
    look([make_cell("a"), make_cell("a"), make_cell("b")], folder)
    assert asked == [folder / "b" / "model.safetensors"]


def test_they_are_read_once(folder: Path, asked: list[Path]) -> None:
    first, second = make_cell("a"), make_cell("b")
    ahead = LookAhead([first, second], folder)
    thread = ahead.start(first, "cuda")
    assert thread is not None
    thread.join()
    assert ahead.start(first, "cuda") is None
    assert ahead.start(second, "cuda") is None  # the last one
    assert len(asked) == 1


def test_nothing_is_read_while_a_cpu_measures(folder: Path, asked: list[Path]) -> None:
    assert LookAhead([make_cell("a"), make_cell("b")], folder).start(make_cell("a"), "cpu") is None
    assert asked == []


def test_nothing_is_read_where_it_would_fill_the_memory(
    folder: Path, asked: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    size = (folder / "b" / "model.safetensors").stat().st_size
    for available, expected in ((2 * size - 1, 0), (2 * size, 1)):
        monkeypatch.setattr(look_ahead, "read_available_memory", lambda: available)  # noqa: B023
        look([make_cell("a"), make_cell("b")], folder)
        assert len(asked) == expected


@pytest.mark.parametrize(
    "source", ["./missing", "nobody/has-this", Architecture(architecture="llama")]
)
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_model_that_is_not_here_is_no_error(folder: Path, asked: list[Path], source: Any) -> None:
    look([make_cell("a"), make_cell("b", source=source)], folder)
    assert asked == []


@pytest.mark.parametrize("error", [OSError("no such call"), AttributeError("posix_fadvise")])
@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_system_that_cannot_read_ahead_is_no_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*given: Any) -> None:
        raise error

    monkeypatch.setattr(os, "posix_fadvise", fail)
    look([make_cell("a"), make_cell("b")], folder)


def test_the_harness_itself_keeps_its_priority(folder: Path, asked: list[Path]) -> None:
    before = os.getpriority(os.PRIO_PROCESS, 0)
    look([make_cell("a"), make_cell("b")], folder)
    assert len(asked) == 1
    assert os.getpriority(os.PRIO_PROCESS, 0) == before


def count_resident(path: Path) -> float:
    """The share of a file's pages that the system holds in memory."""
    size = path.stat().st_size
    with path.open("r+b") as file, mmap.mmap(file.fileno(), size) as mapped:
        pages = (ctypes.c_ubyte * -(-size // mmap.PAGESIZE))()
        start = ctypes.c_char.from_buffer(mapped)
        address = ctypes.c_void_p(ctypes.addressof(start))
        failed = ctypes.CDLL(None).mincore(address, ctypes.c_size_t(size), pages)
        del start
    if failed:
        pytest.skip("this system does not say which pages it holds")
    return sum(page & 1 for page in pages) / len(pages)


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system has no posix_fadvise")
def test_the_system_holds_the_whole_file_afterwards(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(os.urandom(8 << 20))
    with path.open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    if count_resident(path) > 0.5:
        pytest.skip("this file system does not let go of a file")
    read_ahead(path)
    wait_for(lambda: count_resident(path) == 1)  # it reads in the background
    assert count_resident(path) == 1


def wait_for(condition: Callable[[], bool]) -> None:
    """Until it holds; a minute at most, after which the test's own assertion fails."""
    end = time.monotonic() + 60
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


class LoadsAndFails:
    """A cell's process that loads and then has no number, on a GPU that is not there."""

    jobs: list[CellJob] = []  # noqa: RUF012 - emptied by a test that reads it
    pid, alive, loaded, measured, partial = 1, True, None, 0, None

    def __init__(self, job: CellJob, timeout_s: float | None) -> None:
        self.jobs.append(job)

    def load(self, on_progress: Any) -> None:
        """Nothing to do."""

    def measure(self, request: Any, on_progress: Any) -> Failure:
        return Failure("failed", "no GPU")

    def close(self) -> None:
        """Nothing to do."""


@pytest.mark.parametrize(("device", "expected"), [(GPU, 1), (CPU, 0)])
def test_the_executor_looks_ahead_on_a_gpu_and_tells_a_cell_its_capability(
    folder: Path,
    asked: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    device: DeviceFacts,
    expected: int,
) -> None:
    LoadsAndFails.jobs = []
    monkeypatch.setattr(executor, "CellProcess", LoadsAndFails)
    cells = [make_cell("a"), make_cell("b")]
    machine = Machine(device, {}, online=False)
    runs = LocalExecutor(folder, machine, lambda *_: None, cells=cells)
    footprint = MeasurementSpec(name="footprint", options=load_measurement("footprint").options())
    record = runs.measure(cells[0], footprint)
    assert record.validity.reasons == ("no GPU",)
    wait_for(lambda: len(asked) >= expected)
    assert len(asked) == expected
    [job] = LoadsAndFails.jobs
    assert job.target.lacks_bfloat16 is (device is GPU)


def test_a_pause_holds_in_the_middle_of_a_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cells = [make_cell("a"), make_cell("b")]
    ahead = LookAhead(cells, folder)
    pieces: list[int] = []

    def read_then_pause(file: int, start: int, *_: int) -> None:
        pieces.append(start)
        if len(pieces) == 2:
            ahead.pause()

    monkeypatch.setattr(os, "posix_fadvise", read_then_pause, raising=False)
    monkeypatch.setattr(look_ahead, "_PIECE", 4096)
    thread = ahead.start(cells[0], "cuda")
    assert thread is not None
    wait_for(lambda: len(pieces) == 2)
    thread.join(0.2)  # it would end at once
    assert thread.is_alive()
    assert pieces == [0, 4096]
    assert ahead.start(cells[0], "cuda") is None
    thread.join()
    size = (folder / "b" / "model.safetensors").stat().st_size
    assert pieces == list(range(0, size, 4096))


def test_nothing_is_read_while_anything_is_timed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor while a cell is loaded for that: throughput reports how long it took."""
    done: list[str] = []

    def note(owner: Any, name: str) -> None:
        monkeypatch.setattr(owner, name, lambda *_: done.append(name))

    note(LookAhead, "start")
    note(LookAhead, "pause")
    note(LoadsAndFails, "load")
    monkeypatch.setattr(
        LoadsAndFails, "measure", lambda *_: done.append("measure") or Failure("failed", "no GPU")
    )
    monkeypatch.setattr(executor, "CellProcess", LoadsAndFails)
    cells = [make_cell("a"), make_cell("b")]
    runs = LocalExecutor(folder, Machine(GPU, {}, online=False), lambda *_: None, cells=cells)
    for name in ("footprint", "throughput"):
        runs.measure(cells[0], MeasurementSpec(name=name, options=load_measurement(name).options()))
    assert done == ["load", "start", "measure", "pause", "load", "measure"]
