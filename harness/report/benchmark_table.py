"""Hand the worker's timings to pytest-benchmark: its table, its storage and its JSON.

The rounds were timed next to the device; pytest-benchmark only replays them on a clock that
advances by the durations measured there, so the pipe between the processes costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records.record import Record
from harness.run.repeats import LEFT_OUT


@dataclass(frozen=True)
class Series:
    """Seconds per round of one thing measured, as one line of the table."""

    name: str
    group: str
    seconds: tuple[float, ...]
    extra: dict[str, float | int]


@dataclass(frozen=True)
class _Node:
    """What pytest-benchmark wants to know of a test."""

    name: str
    nodeid: str


def list_series(record: Record) -> list[Series]:
    """Prefill and decode per batch size; empty for a record without timings.

    Rounds of several processes are one series, as pytest-benchmark knows no processes; those that
    do not count, of an invalid process, are left out.
    """
    series = []
    for shape, samples in record.samples.items():
        if shape == LEFT_OUT:
            continue
        batch, prompt_tokens = samples["batch_size"], samples["prompt_tokens"]
        tokens = {"prefill": prompt_tokens, "decode": record.protocol["new_tokens"] - 1}
        prompt = f", prompt {prompt_tokens}" if "x" in shape else ""
        for kind, key in (("prefill", "ttft_s"), ("decode", "decode_s")):
            speed = record.values[f"{kind}_tokens_per_s[{shape}]"].value
            series.append(
                Series(
                    name=f"{record.cell.id}::{kind}[{shape}]",
                    group=f"{record.cell.model} {kind}, batch {batch}{prompt}",
                    seconds=tuple(samples[key]),
                    extra={
                        "batch_size": batch,
                        "tokens": batch * tokens[kind],
                        "tokens_per_s": speed or 0.0,
                    },
                )
            )
    return series


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

        fixture = BenchmarkFixture(
            _Node(one.name, f"{nodeid}::{one.name.rpartition('::')[2]}"),
            add_stats=session.benchmarks.append,
            logger=session.logger,
            warner=warn,
            disabled=session.disabled,
            group=one.group,
            **{**session.options, "timer": NameWrapper(device_clock), "cprofile": False},
        )
        fixture.extra_info.update(one.extra)
        fixture.pedantic(advance, rounds=len(one.seconds), iterations=1)
