"""Hand a record's timings to pytest-benchmark: its table, its storage and its JSON.

The rounds were timed next to the device; pytest-benchmark only replays them on a clock that
advances by the durations measured there, so the pipe between the processes costs nothing.
"""

from collections.abc import Callable, Collection, Sequence
from types import SimpleNamespace
from typing import Any

from harness.descriptions import Series


def replay(
    session: Any, nodeid: str, series: Sequence[Series], warn: Callable[..., Any]
) -> list[str]:
    """Add each series to pytest-benchmark's ``session`` (``config._benchmarksession``).

    Returns their names, for `leave_out`.
    """
    from pytest_benchmark.fixture import BenchmarkFixture
    from pytest_benchmark.utils import NameWrapper

    names = []
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
        names.append(name)
    return names


def leave_out(session: Any, names: Collection[str]) -> None:
    """Take the series of these names out of the tables; what is stored has them already."""
    groups = [
        (group, [one for one in benchmarks if one["fullname"] not in names])
        for group, benchmarks in session.groups or ()
    ]
    session.groups = [(group, kept) for group, kept in groups if kept]
