"""Hand a record's timings to pytest-benchmark: its table, its storage and its JSON.

The rounds were timed next to the device; pytest-benchmark only replays them on a clock that
advances by the durations measured there, so the pipe between the processes costs nothing.
"""

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

from harness.descriptions import Series


def replay(session: Any, nodeid: str, series: Sequence[Series], warn: Callable[..., Any]) -> None:
    """Add each series to pytest-benchmark's ``session`` (``config._benchmarksession``)."""
    from pytest_benchmark.fixture import BenchmarkFixture
    from pytest_benchmark.utils import NameWrapper

    for one in series:
        now = 0.0
        durations = iter(one.seconds)

        def device_clock() -> float:
            return now  # noqa: B023

        def advance() -> None:
            nonlocal now
            now += next(durations)  # noqa: B023

        name = f"{nodeid}::{one.name.rpartition('::')[2]}"
        fixture = BenchmarkFixture(
            SimpleNamespace(name=one.name, nodeid=name),  # what it asks of a test
            add_stats=session.benchmarks.append,
            logger=session.logger,
            warner=warn,
            disabled=session.disabled,
            group=one.group,
            **{**session.options, "timer": NameWrapper(device_clock), "cprofile": False},
        )
        fixture.extra_info.update(one.extra)
        fixture.pedantic(advance, rounds=len(one.seconds), iterations=1)
