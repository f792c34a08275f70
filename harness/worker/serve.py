"""The cell's side: load once, then answer one request after another. Runs in the worker."""

import faulthandler
import os
import signal
import sys
import traceback
from collections.abc import Callable
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from typing import Any

from harness.catalog import load_engine, load_measurement
from harness.descriptions import MeasureContext
from harness.engines.base import Engine
from harness.errors import UnavailableError
from harness.machine.parents import die_with_parent
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


def serve(connection: Connection, job: CellJob, log_path: str) -> None:
    """Send `Loaded` or `Failure`, then answer each `MeasureRequest`; see `measure`.

    Ends when the other side closes the pipe. Output of the libraries goes to ``log_path``.
    """
    _settle_in(log_path)
    if job.device == "cpu":
        hide_gpus()
    if not job.online:
        go_offline()
    engine = guard(lambda: load_engine(job.precision.engine)(job))
    if isinstance(engine, Failure):
        connection.send(engine)
        return
    connection.send(describe_loaded(engine))
    while True:
        try:
            request: MeasureRequest = connection.recv()
        except (EOFError, OSError):
            engine.close()
            return
        connection.send(guard(lambda: measure(engine, request, connection.send)))  # noqa: B023


def describe_loaded(engine: Engine) -> Loaded:
    """The message that a loaded cell sends to the host."""
    return Loaded(engine.attested, engine.seconds, engine.flags)


def measure(engine: Engine, request: MeasureRequest, send: Callable[[Any], None]) -> Measured:
    """Run one measurement on a loaded model; ``send`` takes its `Progress` and `Partial`s."""
    metric = load_measurement(request.measurement)
    lacking = sorted(name for name in metric.needs if not hasattr(engine, name))
    if lacking:
        raise UnavailableError(
            f"{request.measurement} needs {', '.join(lacking)}, which the engine "
            f"{engine.job.precision.engine} does not offer"
        )
    context = MeasureContext(
        suite_folder=engine.job.suite_folder,
        online=engine.job.online,
        progress=lambda done, total, unit: send(Progress(done, total, unit)),
        reference=request.reference,
        is_reference=request.is_reference,
        keep=lambda measured, before: send(Partial(measured, before)),
    )
    return metric.measure(engine, request.options, context)


def guard(work: Callable[[], Any]) -> Any:
    """The result of ``work``, or a `Failure` with the reason: of a bug, with its traceback."""
    try:
        return explain_mistake(work)
    except Exception as error:
        lines = [line for line in str(error).splitlines() if line.strip()]
        reason = f"{type(error).__name__}: {lines[0] if lines else 'no message'}"
        return Failure("failed", reason, traceback.format_exc())


def _settle_in(log_path: str) -> None:
    """Leave Ctrl-C to the parent, die with it, and keep the terminal clean."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    die_with_parent()  # the fork server, which ends with the harness
    _let_fork_server_end()
    log = os.open(log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(log, stream)
    sys.stdout = open(1, "w", buffering=1, closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, closefd=False)  # noqa: SIM115
    faulthandler.enable()


def _let_fork_server_end() -> None:
    """Close this process's copy of the pipe whose last closing ends the fork server.

    multiprocessing gives one to every process so that it may start further ones. A cell that hangs
    would otherwise outlive a harness that was killed, and keep the fork server alive.
    """
    server: Any = forkserver._forkserver
    pipe = getattr(server, "_forkserver_alive_fd", None)
    if pipe is not None:
        os.close(pipe)
        server._forkserver_alive_fd = None


def hide_gpus() -> None:
    """Keep CUDA out of a CPU cell, where libraries would start it on import or first use.

    It would count towards the cell's memory. By the second variable torch does not even ask the
    driver whether there is a GPU.
    """
    os.environ |= {"CUDA_VISIBLE_DEVICES": "", "PYTORCH_NVML_BASED_CUDA_CHECK": "1"}


def go_offline() -> None:
    """Have the hub's clients use their caches at once: the run's one probe got no answer."""
    from huggingface_hub import constants

    os.environ["HF_HUB_OFFLINE"] = "1"  # for datasets, which is not imported yet
    constants.HF_HUB_OFFLINE = True  # the fork server has imported this already
