"""Values over time: for a person, for a pull request and for a program. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from statistics import median
from typing import Any

from harness.report.document import Document, Lines, Part, Section, list_lines, make_table
from harness.verdicts.history import FEWEST_OBSERVATIONS, ChangePoint, Observation, Series
from harness.verdicts.history_files import Group, History

_BARS = "▁▂▃▄▅▆▇█"
_WIDEST = 40
_TITLES = ("cell", "value", "runs", "first → last")


def show_history(history: History, named: bool) -> Document:
    """A row per series whose level changed, a line per change; the quiet series are summed up.

    ``named``: the metrics were asked for by name, so the quiet series are shown as well.
    """
    counts = [f"{what}: {count}" for what, count in sorted(history.left_out.items())]
    counts += [f"JSON files that are no run files: {history.others}"] if history.others else []
    left_out = [Lines((f"left out: {', '.join(counts)}",))] if counts else []
    return Document("", (*(_show_group(group, named) for group in history.groups), *left_out))


def dump_history(history: History) -> dict[str, Any]:
    """Every series as plain data with its observations, those without a change too."""
    groups = [
        {**vars(group), "series": list(map(_to_json, group.series))} for group in history.groups
    ]
    return {"groups": groups, "left_out": dict(history.left_out)}


def draw_trend(series: Series) -> str:
    """A bar per run, each segment on a scale of its own; medians where there are too many."""
    count = sum(len(segment.observations) for segment in series.segments)
    return "│".join(
        _draw_bars([one.value for one in segment.observations], _WIDEST / max(count, _WIDEST))
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


def _show_group(group: Group, named: bool) -> Section:
    shown = [series for series in group.series if named or series.is_notable]
    quiet = [series for series in group.series if series not in shown]
    noun = "run" if group.runs == 1 else "runs"
    dirty = f" ({group.dirty} of a changed work tree, marked +)" if group.dirty else ""
    days = " to ".join(dict.fromkeys((group.first[:10], group.last[:10])))
    title = f"{group.suite} on {group.device}: {group.runs} {noun}, {days}{dirty}"
    rows = [(s.cell, s.metric, draw_trend(s), _describe_ends(s)) for s in shown]
    parts: list[Part] = [make_table(_TITLES, rows, words=_TITLES, keys=2)] if rows else []
    changes = [
        f"{series.cell} {series.metric} at {_describe_change(series, point)}"
        for series in shown
        for segment in series.segments
        for point in segment.change_points
    ]
    notes = (*_count_quiet(quiet), *_list_new_segments(group))
    return Section(
        title,
        (*parts, *list_lines("Changes of level", changes), *([Lines(notes)] if notes else [])),
    )


def _describe_ends(series: Series) -> str:
    """The first and last value of the newest segment; earlier ones are not comparable."""
    newest = series.segments[-1].observations
    outliers = sum(len(segment.outliers) for segment in series.segments)
    more = f"({outliers} outlier{'s' if outliers > 1 else ''})" if outliers else ""
    ends = f"{_number(newest[0].value)} → {_number(newest[-1].value)}"
    return " ".join(filter(None, (ends, series.unit, more)))


def _describe_change(series: Series, point: ChangePoint) -> str:
    change = ""
    if point.change is not None:
        percent = 100 * point.change
        change = f"{percent:{'+.0f' if abs(percent) >= 100 else '+.2g'}} %, "
    moved = abs(point.after - point.before)
    within = series.margin is not None and moved <= series.margin.of(point.before)
    meaning = series.judge(point) + (" within the margin" if within else "")
    levels = f"{_number(point.before)} → {_number(point.after)}"
    text = f"{_where(point.observation)}: {change}{meaning} ({levels})"
    if point.same_commit:
        text += "; the same commit as before"
    elif point.previous.sha is not None:
        text += f"; before it {_commit(point.previous)}"
    news = [f"{name} {before} → {after}" for name, (before, after) in _list_news(point).items()]
    return text + (f"; new: {', '.join(news)}" if news else "")


def _count_quiet(quiet: Sequence[Series]) -> Iterator[str]:
    """The series that are not shown, in one line."""
    if not quiet:
        return
    small = sum(series.has_change_points for series in quiet)
    short = sum(series.is_short for series in quiet)
    counts = [f"{len(quiet) - small - short} without a change"]
    counts += [f"{small} with changes within their margin"] if small else []
    counts += [f"{short} with fewer than {FEWEST_OBSERVATIONS} runs, too few"] if short else []
    yield f"{len(quiet)} quiet series: {', '.join(counts)}"


def _list_new_segments(group: Group) -> Iterator[str]:
    """A line per run from which on series are not comparable with before, and why."""
    fields: dict[tuple[str, str], Counter[str]] = {}  # by time and commit
    for series in group.series:
        for earlier, later in pairwise(series.segments):
            first = later.observations[0]
            before, after = earlier.observations[-1].identity, first.identity
            found = fields.setdefault((first.utc, _where(first)), Counter())
            for name in later.changed:
                found[f"{name} {_short(before.get(name))} → {_short(after.get(name))}"] += 1
    for (_, where), counted in sorted(fields.items()):
        differing = ", ".join(f"{text} ({count} series)" for text, count in counted.items())
        yield f"begun anew at {where}, not comparable with before: {differing}"


def _to_json(series: Series) -> dict[str, Any]:
    whole = asdict(series, dict_factory=_leave_out_facts)
    for segment, data in zip(series.segments, whole["segments"], strict=True):
        for point, described in zip(segment.change_points, data["change_points"], strict=True):
            described["change"] = point.change
            described["meaning"] = series.judge(point)
            described["new_conditions"] = _list_news(point)
    return {**whole, "notable": series.is_notable}


def _leave_out_facts(fields: list[tuple[str, Any]]) -> dict[str, Any]:
    """Without what every observation depends on: a segment names what changed of it."""
    return {name: value for name, value in fields if name not in ("identity", "conditions")}


def _list_news(point: ChangePoint) -> dict[str, tuple[Any, Any]]:
    before, after = point.previous.conditions, point.observation.conditions
    return {name: (before.get(name), after.get(name)) for name in point.changed}


def _commit(one: Observation) -> str:
    return (one.sha[:10] if one.sha else "no commit") + ("+" if one.dirty else "")


def _where(one: Observation) -> str:
    return f"{_commit(one)} {one.utc[:10]}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 10_000 else f"{value:.4g}"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
