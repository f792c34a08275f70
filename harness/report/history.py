"""Histories for a person, for a pull request and for a program. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from statistics import median
from typing import Any

from harness.report.markdown import draw_table, escape
from harness.report.plain import clean
from harness.verdicts.history import FEWEST_OBSERVATIONS, ChangePoint, Observation, Series

_BARS = "▁▂▃▄▅▆▇█"
_WIDEST = 40
_BREAK = "│"


@dataclass(frozen=True)
class Group:
    """The runs of one suite on one device: how many, of when, and the series of their values."""

    suite: str
    device: str
    runs: int
    dirty: int
    first: str
    last: str
    series: tuple[Series, ...]


@dataclass(frozen=True)
class History:
    """What a folder holds; ``left_out`` counts what has no number, ``others`` foreign files.

    ``named`` is True where the metrics were named: then quiet series are shown as well.
    """

    folder: str
    groups: tuple[Group, ...]
    left_out: dict[str, int]
    others: int
    named: bool


def render_text(history: History) -> str:
    """A line per series that shifted, a line per shift beneath it, the quiet ones summed up."""
    blocks = []
    for group in history.groups:
        shown = _pick_shown(group, history.named)
        names = [f"{series.cell}  {series.metric}" for series in shown]
        trends = [draw_trend(series) for series in shown]
        wide, long = (max(map(len, column), default=0) for column in (names, trends))
        lines = []
        for name, trend, series in zip(names, trends, shown):
            lines.append(f"{name:{wide}}  {trend:{long}}  {_describe_ends(series)}")
            lines += [f"  {_describe_change(series, shift)}" for shift in _list_changes(series)]
        parts = (lines, _list_notes(group, shown))
        told = ["\n".join(part) for part in parts if part]
        blocks.append("\n\n".join([_describe_group(group), *told]))
    return clean("\n\n".join([*blocks, *_list_left_out(history)]))


def render_markdown(history: History) -> str:
    """The same for GitHub."""
    blocks = []
    for group in history.groups:
        shown = _pick_shown(group, history.named)
        rows = [
            tuple(
                map(
                    escape,
                    (
                        series.cell,
                        series.metric,
                        draw_trend(series),
                        _describe_ends(series),
                        "; ".join(_describe_change(series, s) for s in _list_changes(series))
                        or "—",
                    ),
                )
            )
            for series in shown
        ]
        titles = ("cell", "value", "runs", "first → last", "shifts")
        notes = "\n".join(f"- {escape(note)}" for note in _list_notes(group, shown))
        table = draw_table(titles, rows, [False] * len(titles)) if rows else ""
        blocks += [escape(_describe_group(group)), *filter(None, (table, notes))]
    return clean("\n\n".join([*blocks, *map(escape, _list_left_out(history))]))


def dump_json(history: History) -> str:
    """Every series with its nights, those without a shift too."""
    groups = [
        {**asdict(group), "series": [_to_json(series) for series in group.series]}
        for group in history.groups
    ]
    data = {"folder": history.folder, "groups": groups, "left_out": history.left_out}
    return json.dumps(data, ensure_ascii=False, indent=1)


def draw_trend(series: Series) -> str:
    """A bar per night, each segment on a scale of its own; medians where there are too many."""
    count = sum(len(segment.observations) for segment in series.segments)
    return _BREAK.join(
        _draw_bars([night.value for night in segment.observations], _WIDEST / max(count, _WIDEST))
        for segment in series.segments
    )


def _draw_bars(values: Sequence[float], scale: float) -> str:
    bars = max(1, round(len(values) * scale))
    edges = [i * len(values) // bars for i in range(bars + 1)]
    heights = [median(values[a:b]) for a, b in pairwise(edges)]
    low, high = min(heights), max(heights)
    if low == high:
        return _BARS[3] * bars
    return "".join(_BARS[round((h - low) / (high - low) * (len(_BARS) - 1))] for h in heights)


def _pick_shown(group: Group, named: bool) -> list[Series]:
    return [series for series in group.series if named or series.is_notable]


def _list_changes(series: Series) -> Iterator[ChangePoint]:
    for segment in series.segments:
        yield from segment.change_points


def _describe_group(group: Group) -> str:
    noun = "run" if group.runs == 1 else "runs"
    dirty = f" ({group.dirty} of a changed work tree, marked +)" if group.dirty else ""
    days = " to ".join(dict.fromkeys((_day(group.first), _day(group.last))))
    return f"{group.suite} on {group.device}: {group.runs} {noun}, {days}{dirty}"


def _describe_ends(series: Series) -> str:
    """The first and last value of the newest segment; earlier ones are not comparable."""
    newest = series.segments[-1].observations
    unit = f" {series.unit}" if series.unit else ""
    outliers = sum(len(segment.outliers) for segment in series.segments)
    noun = "outlier" if outliers == 1 else "outliers"
    more = f" ({outliers} {noun})" if outliers else ""
    return f"{_number(newest[0].value)} → {_number(newest[-1].value)}{unit}{more}"


def _describe_change(series: Series, shift: ChangePoint) -> str:
    change = "" if shift.change is None else f"{_percent(shift.change)}, "
    levels = f"{_number(shift.before)} → {_number(shift.after)}"
    within = series.margin is not None and abs(shift.after - shift.before) <= series.margin.of(
        shift.before
    )
    verdict = series.judge(shift) + (" within the margin" if within else "")
    told = f"{_where(shift.observation)}: {change}{verdict} ({levels})"
    if shift.same_commit:
        told += "; the same commit as before"
    elif shift.previous.sha is not None:
        told += f"; before it {_commit(shift.previous)}"
    before, after = shift.previous.conditions, shift.observation.conditions
    news = [f"{name} {before.get(name)} → {after.get(name)}" for name in shift.changed]
    return told + (f"; new: {', '.join(news)}" if news else "")


def _list_notes(group: Group, shown: Sequence[Series]) -> list[str]:
    """The quiet series in one line, and where series begin anew."""
    quiet = [series for series in group.series if series not in shown]
    lines = []
    if quiet:
        small = sum(series.has_change_points for series in quiet)
        short = sum(series.is_short for series in quiet)
        told = [f"{len(quiet) - small - short} without a shift"]
        told += [f"{small} with shifts within their margin"] if small else []
        if short:
            told.append(f"{short} too short for one (fewer than {FEWEST_OBSERVATIONS} runs)")
        lines.append(f"{len(quiet)} quiet series: {', '.join(told)}")
    return lines + _list_breaks(group)


def _list_breaks(group: Group) -> list[str]:
    """A line per night that series begin anew at, with the fields that differ."""
    fields: dict[tuple[str, str], Counter[str]] = {}  # by time and place
    for series in group.series:
        for earlier, later in pairwise(series.segments):
            night = later.observations[0]
            before, after = earlier.observations[-1].identity, night.identity
            found = fields.setdefault((night.utc, _where(night)), Counter())
            for name in later.changed:
                found[f"{name} {_short(before.get(name))} → {_short(after.get(name))}"] += 1
    return [
        f"begun anew at {where}, not comparable with before: "
        + ", ".join(f"{told} ({count} series)" for told, count in found.items())
        for (_, where), found in sorted(fields.items())
    ]


def _list_left_out(history: History) -> list[str]:
    told = [f"{what}: {count}" for what, count in sorted(history.left_out.items())]
    told += [f"JSON files that are no run files: {history.others}"] if history.others else []
    return [f"left out: {', '.join(told)}"] if told else []


def _to_json(series: Series) -> dict[str, Any]:
    return {
        "cell": series.cell,
        "metric": series.metric,
        "unit": series.unit,
        "better": series.better,
        "margin": asdict(series.margin) if series.margin else None,
        "notable": series.is_notable,
        "stretches": [
            {
                "changed": segment.changed,
                "nights": [
                    {
                        "run": night.run,
                        "utc": night.utc,
                        "sha": night.sha,
                        "dirty": night.dirty,
                        "value": night.value,
                        "outlier": night in segment.outliers,
                    }
                    for night in segment.observations
                ],
                "shifts": [_change_to_json(series, shift) for shift in segment.change_points],
            }
            for segment in series.segments
        ],
    }


def _change_to_json(series: Series, shift: ChangePoint) -> dict[str, Any]:
    return {
        "run": shift.observation.run,
        "utc": shift.observation.utc,
        "sha": shift.observation.sha,
        "dirty": shift.observation.dirty,
        "previous_sha": shift.previous.sha,
        "before": shift.before,
        "after": shift.after,
        "change": shift.change,
        "meaning": series.judge(shift),
        "new_conditions": {
            name: [shift.previous.conditions.get(name), shift.observation.conditions.get(name)]
            for name in shift.changed
        },
    }


def _commit(observation: Observation) -> str:
    sha = observation.sha[:10] if observation.sha else "no commit"
    return sha + ("+" if observation.dirty else "")


def _where(observation: Observation) -> str:
    return f"{_commit(observation)} {_day(observation.utc)}"


def _day(utc: str) -> str:
    return utc[:10]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _percent(share: float) -> str:
    return f"{100 * share:+.0f} %" if abs(share) >= 1 else f"{100 * share:+.2g} %"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
