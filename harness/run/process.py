"""One cell's process: start it, ask it to load and to measure, survive its death.

Imports no torch: the fork server does, in a process of its own.
"""

import contextlib
import multiprocessing
import os
import signal
import sys
import tempfile
import time
import types
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from multiprocessing import forkserver
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeAlias

from harness.catalog import load_engine
from harness.records.record import Measured
from harness.suite.model_sources import CellJob
from harness.worker.messages import (
    Failure,
    Loaded,
    MeasureRequest,
    Partial,
    Progress,
    explain_mistake,
)

OnProgress: TypeAlias = Callable[[Progress], None]
_GRACE_S = 2.0


class LoadedCell(ABC):
    """A cell that is loaded once and then measured; closed by whoever started it."""

    @property
    def pid(self) -> int | None:
        """The process that measures."""
        return os.getpid()

    @property
    def alive(self) -> bool:
        """Whether it can measure on."""
        return True

    def __init__(self) -> None:
        self.loaded: Loaded | None = None
        self.measured = 0
        self.partial: Partial | None = None

    def load(self, on_progress: OnProgress) -> Failure | None:
        """Load the cell if it is not; why it cannot be, whatever happens to it."""
        if self.loaded is None:
            ready = self._load(on_progress)
            if isinstance(ready, Failure):
                return ready
            self.loaded = ready
        return None

    def measure(self, request: MeasureRequest, on_progress: OnProgress) -> Measured | Failure:
        """Load the cell if it is not, measure, and return the outcome, whatever happens to it.

        ``partial`` is then, and when Ctrl-C ends the waiting, the last thing that was kept.
        """
        self.partial = None
        failure = self.load(on_progress)
        if failure is not None:
            return failure
        self.measured += 1
        answer = self._measure(request, on_progress)
        return answer.after(self.partial) if isinstance(answer, Failure) else answer

    @abstractmethod
    def close(self) -> None:
        """Let go of the model."""

    @abstractmethod
    def _load(self, on_progress: OnProgress) -> Loaded | Failure: ...

    @abstractmethod
    def _measure(self, request: MeasureRequest, on_progress: OnProgress) -> Measured | Failure: ...

    def _receive(self, message: Partial | Progress, on_progress: OnProgress) -> None:
        if isinstance(message, Partial):
            self.partial = message
        else:
            on_progress(message)


class CellProcess(LoadedCell):
    """A cell in a process of its own, which may take ``timeout_s`` in all."""

    def __init__(self, job: CellJob, timeout_s: float | None = None) -> None:
        super().__init__()
        self._timeout_s = timeout_s
        self._deadline = None if timeout_s is None else time.monotonic() + timeout_s
        self._log = tempfile.NamedTemporaryFile(prefix="harness-cell-", suffix=".log")  # noqa: SIM115
        self._connection, theirs = multiprocessing.Pipe()
        self._process = start_process(_serve, (theirs, job, self._log.name))
        theirs.close()

    @property
    def pid(self) -> int | None:
        pid: int | None = self._process.pid
        return pid

    @property
    def alive(self) -> bool:
        return bool(self._process.is_alive())

    def close(self) -> None:
        """End the process: ask, wait two seconds, kill."""
        self._connection.close()
        self._process.join(0 if self.measured == 0 else _GRACE_S)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._log.close()

    def _load(self, on_progress: OnProgress) -> Loaded | Failure:
        ready: Loaded | Failure = self._await(on_progress, "loading the model")
        return ready

    def _measure(self, request: MeasureRequest, on_progress: OnProgress) -> Measured | Failure:
        try:
            self._connection.send(request)
        except OSError:
            return self._explain_death(f"before {request.measurement}")
        try:
            answer: Measured | Failure = self._await(
                on_progress, f"measuring {request.measurement}"
            )
        except KeyboardInterrupt:
            self._take_kept()
            raise
        return answer

    def _take_kept(self) -> None:
        """Read what the worker had kept, and nothing had read yet, when Ctrl-C came."""
        with contextlib.suppress(EOFError, OSError):
            while self._connection.poll():
                message = self._connection.recv()
                if isinstance(message, Partial):
                    self.partial = message

    def _await(self, on_progress: OnProgress, doing: str) -> Any:
        """The worker's next answer that is final; a `Failure` where it died or hung."""
        while True:
            left = None if self._deadline is None else self._deadline - time.monotonic()
            if left is not None and left <= 0:
                self._process.kill()
                self._process.join()
                reason = f"timed out after {self._timeout_s:g} s while {doing} (--cell-timeout)"
                return Failure("failed", reason)
            ready = wait([self._connection, self._process.sentinel], left)
            if self._connection in ready:
                try:
                    answer = self._connection.recv()
                except (EOFError, OSError):
                    return self._explain_death(f"while {doing}")
                if not isinstance(answer, (Partial, Progress)):
                    return answer
                self._receive(answer, on_progress)
            elif ready:
                return self._explain_death(f"while {doing}")

    def _explain_death(self, when: str) -> Failure:
        self._process.join(_GRACE_S)
        code = self._process.exitcode
        how = f"exited with code {code}"
        if code == 255:  # multiprocessing's code for a process whose fork server is gone
            how += ", or ended with the fork server that had started it,"
        if code is not None and code < 0:
            how = f"was killed by {signal.Signals(-code).name}"
            if -code == signal.SIGKILL:
                how += " (by someone, or by the kernel for lack of memory)"
        log = Path(self._log.name).read_text(errors="replace")
        # faulthandler ends with a line of thousands of characters that names every C module.
        lines = [line for line in log.splitlines() if not line.startswith("Extension modules:")]
        return Failure("failed", f"the cell's process {how} {when}", "\n".join(lines)[-4000:])


class CellInThisProcess(LoadedCell):
    """The same without a process, for a debugger: bugs propagate instead of becoming records."""

    def __init__(self, job: CellJob) -> None:
        super().__init__()
        self._job = job
        self._engine: Any = None

    def close(self) -> None:
        """Let go of the model."""
        if self._engine is not None:
            self._engine.close()
        self._engine = None

    def _load(self, on_progress: OnProgress) -> Loaded | Failure:
        from harness.worker.serve import describe_loaded, go_offline

        if not self._job.online:
            go_offline()

        def load() -> Loaded:
            self._engine = load_engine(self._job.precision.engine)(self._job)
            return describe_loaded(self._engine)

        return explain_mistake(load)

    def _measure(self, request: MeasureRequest, on_progress: OnProgress) -> Measured | Failure:
        from harness.worker.serve import measure

        return explain_mistake(
            lambda: measure(self._engine, request, lambda sent: self._receive(sent, on_progress))
        )


def call_in_worker(function: Callable[..., Any], *arguments: Any) -> Any:
    """``function(*arguments)`` in a fresh worker process, which may import torch.

    Raises RuntimeError where the process died without an answer.
    """
    ours, theirs = multiprocessing.Pipe()
    process = start_process(_call, (theirs, function, arguments))
    theirs.close()
    try:
        return ours.recv()
    except EOFError as error:
        process.join(_GRACE_S)
        raise RuntimeError(f"a worker process died with exit code {process.exitcode}") from error
    finally:
        ours.close()
        process.join(_GRACE_S)


def start_process(target: Callable[..., None], arguments: tuple[Any, ...]) -> Any:
    """Start ``target`` from the fork server that has torch and transformers preloaded."""
    start_server()
    context = multiprocessing.get_context("forkserver")
    process = context.Process(target=target, args=arguments, daemon=True)
    with _hidden_main():
        process.start()
    return process


def start_server() -> None:
    """Start the fork server, if it does not run yet; returns while it still imports."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["harness.worker.preload"])
    with _environment(_FORK_SAFE):
        forkserver.ensure_running()


# One BLAS thread and no CUDA initialisation in the fork server: neither survives a fork.
_FORK_SAFE = {"OPENBLAS_NUM_THREADS": "1", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


@contextlib.contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update({name: v for name, v in variables.items() if before[name] is None})
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]


@contextlib.contextmanager
def _hidden_main() -> Iterator[None]:
    """Keep multiprocessing from importing pytest's, or the user's, main script into a worker."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _serve(connection: Any, job: CellJob, log_path: str) -> None:
    from harness.worker.serve import serve

    serve(connection, job, log_path)


def _call(connection: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    connection.send(function(*arguments))
