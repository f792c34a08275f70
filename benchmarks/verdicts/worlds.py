"""Records made by chance: one commit measured again and again, or worse by a known harm."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.random import Generator
from scipy.special import gammaincinv, ndtr

from harness.catalog import load_measurement
from harness.metrics.divergence_values import summarise
from harness.metrics.text_windows import Window
from harness.records.record import CellFacts, Measured, Record, Value
from harness.records.run_file import SCHEMA, Run, RunFacts
from harness.records.values import make_values, to_value
from harness.statistics.estimates import clustered_mean
from harness.statistics.shares import share_interval

# A later run of the same commit, or of one that is worse by this harm.
Draw = Callable[[float], Record]

Tail = Literal["gamma", "lognormal", "Pareto"]
SPEED = 100.0  # tokens/s
_CHUNK = 128  # tokens of a chunk
_NLL, _KL = 2.0, 0.05  # nats/token, over all chunks
PPL = math.exp(_NLL)
_RIGHT = 0.6  # of all items


@dataclass(frozen=True)
class World:
    """``begin`` gives the first run and what draws later ones; each is a record of one value.

    A harm is a share of a ratio, else in the value's unit; ``scale`` is the value's unit in one
    of harm.
    """

    kind: Literal["quality", "speed", "memory"]
    name: str
    begin: Callable[[Generator], tuple[Record, Draw]]
    scale: float = 1.0


def as_run(*records: Record, number: int = 0, a_night: int = 1) -> Run:
    """A run of these records, of a clean tree; several of one commit have different numbers.

    Each number is a night of its own, or ``a_night`` of them, an hour apart.
    """
    utc = f"2026-01-{number // a_night + 1:02}T{number % a_night:02}:00:00+00:00"
    facts = _RUN.run.model_copy(update={"id": f"{_RUN.run.id}-{number}", "utc": utc})
    return _RUN.model_copy(update={"run": facts, "records": records})


def rename(record: Record, model: str) -> Record:
    """The same measurement of another model."""
    cell = record.cell.model_copy(update={"id": f"{model}[nf4]", "model": model})
    return record.model_copy(update={"cell": cell})


def answer_items(n: int, flip_rate: float, sampled: bool = False) -> World:
    """Questions, of which later runs answer some otherwise: as many for better as for worse.

    The rate is from the first run; two later ones differ nearly twice as often. ``sampled``
    questions are drawn from many, others are 60 % right to the item, so that a harm is exact.
    """

    def begin(rng: Generator) -> tuple[Record, Draw]:
        first = rng.random(n) < _RIGHT if sampled else rng.permutation(n) < round(_RIGHT * n)

        def draw(harm: float) -> Record:
            lost = max(flip_rate + harm, 2 * harm) / 2 / _RIGHT
            won = max(flip_rate - harm, 0.0) / 2 / (1 - _RIGHT)
            flipped = rng.random(n) < np.where(first, lost, won)
            return _record_choices(first ^ flipped)

        return _record_choices(first), draw

    return World("quality", f"accuracy, {n} items, {flip_rate:.1%} flip", begin)


def read_chunks(chunks: int, noise: float, heavy: bool = False, correlation: float = 0.0) -> World:
    """A text whose chunks differ by a fifth, and runs by ``noise`` nats/token in each of them.

    ``correlation`` is that of neighbouring chunks' noise, an autoregression of first order.
    """

    def begin(rng: Generator) -> tuple[Record, Draw]:
        text = rng.normal(0, _NLL / 5, chunks)
        text += _NLL - text.mean()

        def draw(harm: float, known: bool = False) -> Record:
            luck = 0 if known else draw_chain(rng, chunks, correlation, heavy)
            return _record_perplexity((text + noise * luck + math.log1p(harm)) * _CHUNK)

        return draw(0.0, known=True), draw

    tails = ", heavy tails" * heavy + f", correlation {correlation:g}" * bool(correlation)
    return World("quality", f"perplexity, {chunks} chunks, σ {noise:g} nats{tails}", begin, PPL)


def draw_chain(
    rng: Generator, n: int, correlation: float, heavy: bool = False
) -> np.ndarray[Any, Any]:
    """``n`` values of mean 0 and variance 1, each correlated with the next."""
    fresh = rng.standard_t(3, n + 50) / math.sqrt(3) if heavy else rng.normal(0, 1, n + 50)
    chain, last = np.empty(n + 50), 0.0
    for i, new in enumerate(fresh * math.sqrt(1 - correlation**2)):
        chain[i] = last = correlation * last + new
    return chain[50:]


def diverge(
    chunks: int,
    noise: float,
    shape: float = 4.0,
    mean: float = _KL,
    tail: Tail = "gamma",
    correlation: float = 0.0,
) -> World:
    """Divergence of a text's chunks, whose standard deviation is 1/sqrt(shape) of the mean.

    The text is drawn anew for each first run; runs differ by ``noise``. ``correlation`` is that of
    neighbours before a normal chain is given the distribution ``tail``. Pareto's has as many finite
    moments as makes its spread: with shape 4/3, three, and so no skewness.
    """

    def begin(rng: Generator) -> tuple[Record, Draw]:
        text = mean * _spread_out(draw_chain(rng, chunks, correlation), tail, shape)

        def draw(harm: float) -> Record:
            luck = np.exp(rng.normal(0, noise, chunks) - noise**2 / 2) if noise else 1.0
            return _record_divergence(text * luck + harm)

        return draw(0.0), draw

    name = f"divergence {mean:g}, {chunks} chunks, {tail}, spread {1 / math.sqrt(shape):.0%}"
    name += f", correlation {correlation:g}" * bool(correlation)
    return World("quality", name + f", σ {noise:.0%}" * bool(noise), begin)


def _spread_out(normal: np.ndarray[Any, Any], tail: Tail, shape: float) -> np.ndarray[Any, Any]:
    """Values of mean 1 with a longer upper tail, in the order of ``normal``."""
    if tail == "lognormal":
        sigma = math.sqrt(math.log1p(1 / shape))
        return np.exp(sigma * normal - sigma**2 / 2)
    if tail == "gamma":
        return gammaincinv(shape, ndtr(normal)) / shape
    power = 1 + math.sqrt(1 + shape)
    return ndtr(-normal) ** (-1 / power) * (power - 1) / power


def time_processes(value: str, spread: float, first: int, later: int, night: float = 0.0) -> World:
    """Processes whose speeds differ by ``spread``: ``first`` of them in the first run.

    Each run is on a night of its own, and those differ by ``night``.
    """

    def begin(rng: Generator) -> tuple[Record, Draw]:
        def draw(harm: float, processes: int = later) -> Record:
            luck = rng.normal(0, night) + rng.normal(0, spread, processes)
            speeds = SPEED * (1 - harm) * np.exp(luck)
            return _record_speeds(value, speeds.tolist())

        return draw(0.0, first), draw

    processes = f"{first}" if first == later else f"{first} and {later}"
    name = f"{value.partition('_')[0]}, σ {spread:.{int(spread < 0.01)}%}, processes {processes}"
    name += f", nights σ {100 * night:g} %" * bool(night)
    return World("speed", name, begin, SPEED)


def time_rounds(spread: float, processes: int, rounds: int, pooled: bool) -> World:
    """Rounds within a process differ as much as processes do.

    ``pooled`` takes every round for a sample of its own, which is the mistake to be shown.
    """

    def begin(rng: Generator) -> tuple[Record, Draw]:
        def draw(harm: float) -> Record:
            luck = rng.normal(0, spread, (processes, 1)) + rng.normal(
                0, spread, (processes, rounds)
            )
            speeds = SPEED * (1 - harm) * np.exp(luck)
            samples = speeds.ravel() if pooled else np.median(speeds, axis=1)
            return _record_speeds("decode_tokens_per_s[1]", samples.tolist())

        return draw(0.0), draw

    how = "rounds pooled" if pooled else "medians of processes"
    name = f"decode, σ {spread:.0%} between and within, {processes} × {rounds} rounds, {how}"
    return World("speed", name, begin, SPEED)


def take_memory(peak: int, noise: int) -> World:
    """Five peaks; the allocator keeps up to ``noise`` bytes more or less of each."""

    def begin(rng: Generator) -> tuple[Record, Draw]:
        def draw(harm: float) -> Record:
            kept = rng.integers(0, noise, len(_PEAKS), endpoint=True)
            return _record_memory([int(peak * (1 + harm)) + int(more) for more in kept])

        return draw(0.0), draw

    name = f"memory, {peak / 2**20:,.0f} MiB, up to {noise / 2**20:g} MiB kept"
    return World("memory", name, begin, peak)


def _template(measurement: str) -> Record:
    cell = CellFacts(id="m[nf4]", model="m", precision="nf4", device="cpu", source="simulated")
    return Record(cell=cell, measurement=measurement)


_RUN = Run(
    schema=SCHEMA,
    run=RunFacts(
        id="simulated/20260101T000000Z-abcdef1234-cpu",
        utc="2026-01-01T00:00:00+00:00",
        argv=[],
        git_sha="abcdef1234" * 4,
        git_dirty=False,
        device="cpu",
    ),
    environment={},
    suite={"name": "simulated", "sha256": "0" * 64},
    records=(),
)
_TEMPLATES = {
    name: _template(name) for name in ("mmlu", "perplexity", "divergence", "throughput", "memory")
}
_PEAKS = tuple(f"{p}_bytes" for p in ("load_peak", "weights", "prefill_peak", "generate_peak"))


def _record(
    measurement: str,
    numbers: dict[str, Any],
    items: dict[str, Any] | None = None,
    stderr: dict[str, float | None] | None = None,
    n: int | None = None,
) -> Record:
    counts = {} if n is None else dict.fromkeys(numbers, n)
    values = make_values(load_measurement(measurement).values, numbers, stderr, counts)
    return _TEMPLATES[measurement].model_copy(update={"values": values, "items": items or {}})


def _record_choices(right: np.ndarray[Any, Any]) -> Record:
    marks = (right + ord("0")).astype(np.uint8).tobytes().decode()
    share = share_interval(int(right.sum()), len(marks))
    values = {"acc": to_value(load_measurement("mmlu").values["acc"], share)}
    items = {"right": marks, "chosen": marks}
    return _TEMPLATES["mmlu"].model_copy(update={"values": values, "items": items})


def _record_perplexity(chunks: np.ndarray[Any, Any]) -> Record:
    counts = [_CHUNK] * len(chunks)
    nll, spread = clustered_mean(chunks.tolist(), counts)
    ppl = math.exp(nll)
    stderr = {"ppl": None if spread is None else ppl * spread}
    items = {"chunk_nll": chunks.tolist(), "chunk_tokens": counts}
    return _record("perplexity", {"ppl": ppl}, items, stderr, len(chunks))


def _record_divergence(chunks: np.ndarray[Any, Any]) -> Record:
    """By the metric's own summary, of windows with a few tokens each."""
    windows = [Window(5 * i, 5 * i + 5, 4) for i in range(len(chunks))]
    found = np.zeros((3, 4 * len(chunks)))
    found[0] = np.repeat(chunks, 4)
    values, items = summarise(found, windows, 5)
    items["chunk_tokens"] = [4] * len(chunks)
    update = {"values": {"kl_mean": values["kl_mean"]}, "items": items}
    return _TEMPLATES["divergence"].model_copy(update=update)


def record_night(speeds: np.ndarray[Any, Any], model: str) -> Record:
    """One record of many speeds, (values, processes) in tokens/s, as merged processes leave it."""
    logs = np.log(speeds)
    means, n = np.exp(logs.mean(axis=1)), speeds.shape[1]
    errors = means * logs.std(axis=1, ddof=1) / math.sqrt(n) if n > 1 else [None] * len(means)
    values = {
        f"decode_tokens_per_s[{i}]": Value(
            value=float(mean), unit="tokens/s", better="higher", stderr=error, n=n
        )
        for i, (mean, error) in enumerate(zip(means, errors))
    }
    return rename(_TEMPLATES["throughput"].model_copy(update={"values": values}), model)


def _record_speeds(value: str, samples: Sequence[float]) -> Record:
    throughput = load_measurement("throughput")
    unit = throughput.values[value.partition("[")[0]].unit
    parts = [Measured(values={value: Value(value=s, unit=unit, better="higher")}) for s in samples]
    merge = throughput.merge_repeats
    assert merge is not None
    measured = parts[0] if len(parts) == 1 else merge(parts)
    return _TEMPLATES["throughput"].model_copy(update={"values": measured.values})


def _record_memory(peaks: Sequence[int]) -> Record:
    return _record("memory", dict(zip(_PEAKS, peaks)))
