"""Values over time: for a person, for a pull request and for a program. Pure."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import pairwise
from statistics import median
from typing import Any

from harness.descriptions import Margin
from harness.records.identity import Difference
from harness.report.document import Document, Lines, Part, Section, list_lines, make_table
from harness.verdicts.history import (
    ACCEPTED,
    FEWEST_OBSERVATIONS,
    ChangePoint,
    Observation,
    Series,
    Tendency,
)
from harness.verdicts.history_files import Group, History
from harness.verdicts.wording import show_numbers

_BARS = "▁▂▃▄▅▆▇█"
_WIDEST = 40
_TITLES = ("cell", "value", "runs", "first → last")


def show_history(history: History, named: bool) -> Document:
    """A row per series whose level changed, a line per change; the quiet series are summed up.

    ``named``: the metrics were asked for by name, so the quiet series are shown as well.
    """
    counts = [f"{what}: {count}" for what, count in sorted(history.left_out.items())]
    counts += [f"JSON files that are no run files: {history.others}"] if history.others else []
    lines = [f"left out: {', '.join(counts)}"] if counts else []
    worse = list_worse(history)
    lines += [f"worse now than before: {', '.join(worse)}"] if worse else []
    groups = (show_group(group, named) for group in history.groups)
    return Document("", (*groups, *([Lines(tuple(lines))] if lines else [])))


def list_worse(history: History) -> list[str]:
    """The values whose newest level is worse than before, by more than their margin."""
    return [
        f"{series.cell} {series.metric}"
        for group in history.groups
        for series in group.series
        if series.got_worse
    ]


def dump_history(history: History) -> dict[str, Any]:
    """Every series as plain data with its observations, those without a change too."""
    groups = [
        {**vars(group), "series": list(map(_to_json, group.series))} for group in history.groups
    ]
    return {"groups": groups, "left_out": dict(history.left_out), "worse": list_worse(history)}


def draw_trend(series: Series) -> str:
    """A bar per run, all on one scale; medians where there are too many."""
    parts = [[one.value for one in segment.observations] for segment in series.segments]
    scale = _WIDEST / max(sum(map(len, parts)), _WIDEST)
    heights = [_find_heights(part, scale) for part in parts]
    low, high = (limit(height for part in heights for height in part) for limit in (min, max))
    steps = (len(_BARS) - 1) / (high - low) if high > low else 0.0
    return "│".join(
        "".join(_BARS[round((height - low) * steps) if steps else 3] for height in part)
        for part in heights
    )


def _find_heights(values: Sequence[float], scale: float) -> list[float]:
    bars = max(1, round(len(values) * scale))
    edges = [i * len(values) // bars for i in range(bars + 1)]
    return [median(values[a:b]) for a, b in pairwise(edges)]


def show_group(group: Group, named: bool) -> Section:
    """One suite on one device; ``named`` shows the quiet series as well."""
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
    values = [
        f"{' '.join(filter(None, (s.cell, s.metric, _unit_of(s))))}: {_list_values(s)}"
        for s in shown
    ]
    changes += [
        f"{series.cell} {series.metric}: {_describe_tendency(series, one)}"
        for series in shown
        for one in series.tendencies
    ]
    notes = (*_count_quiet(quiet), *_list_new_segments(group))
    named_parts = (*list_lines("Each run", values), *list_lines("Changes of level", changes))
    return Section(title, (*parts, *named_parts, *([Lines(notes)] if notes else [])))


def _list_values(series: Series) -> str:
    """Every run's value, oldest first, equal ones counted; with the size of a change that matters.

    That is one of more than the margin.
    """
    margin = series.margin or Margin()
    parts = []
    for segment in series.segments:
        texts: list[tuple[str, int]] = []
        previous: float | None = None
        for value in (one.value for one in segment.observations):
            text = _number(value, series.unit)
            if previous and abs(value - previous) > margin.of(previous):
                text += f" ({_percent(value / previous - 1)})"
            if texts and texts[-1][0].partition(" (")[0] == text:
                texts[-1] = (texts[-1][0], texts[-1][1] + 1)
            else:
                texts.append((text, 1))
            previous = value
        parts.append(", ".join(f"{text} ×{n}" if n > 1 else text for text, n in texts))
    return " │ ".join(parts)


def _describe_ends(series: Series) -> str:
    """The first and last value of the newest segment; earlier ones are not comparable."""
    newest = series.segments[-1].observations
    outliers = sum(len(segment.outliers) for segment in series.segments)
    more = f"({outliers} outlier{'s' if outliers > 1 else ''})" if outliers else ""
    ends = (_number(one.value, series.unit) for one in (newest[0], newest[-1]))
    return " ".join(filter(None, (" → ".join(ends), _unit_of(series), more)))


def _describe_change(series: Series, point: ChangePoint) -> str:
    change = ""
    if point.change is not None:
        change = f"{_percent(point.change)}, "
    moved = abs(point.after - point.before)
    within = series.margin is not None and moved <= series.margin.of(point.before)
    meaning = series.judge(point) + (" within the margin" if within else "")
    levels = " → ".join(_number(level, series.unit) for level in (point.before, point.after))
    text = f"{_where(point.observation)}: {change}{meaning} ({levels})"
    if point.same_commit:
        text += "; the same commit as before"
    elif point.previous.sha is not None:
        text += f"; before it {_commit(point.previous)}"
    news = [Difference(name, *sides).short for name, sides in _list_news(point).items()]
    return text + (f"; new: {', '.join(news)}" if news else "")


def _describe_tendency(series: Series, one: Tendency) -> str:
    change = f"{_percent(one.after / one.before - 1)}, " if one.before else ""
    levels = " → ".join(_number(level, series.unit) for level in (one.before, one.after))
    size = f"{change}{series.judge(one)} ({levels})"
    if not one.more:
        return f"drifting over {one.runs} runs: {size}"
    decide = f"{one.more} more decide{'s' * (one.more == 1)}"
    return f"possible: the newest {one.runs} runs: {size}; {decide}"


def _count_quiet(quiet: Sequence[Series]) -> Iterator[str]:
    """The series that are not shown, in one line."""
    if not quiet:
        return
    small = sum(series.has_change_points for series in quiet)
    short = sum(series.is_short for series in quiet)
    same = len(quiet) - small - short
    counts = [f"{same} without a change"] if same else []
    counts += [f"{small} with changes within their margin"] if small else []
    if counts:
        yield f"{same + small} quiet series: {', '.join(counts)}"
    if short:
        yield f"{short} series with fewer than {FEWEST_OBSERVATIONS} runs: too few to judge"


def _list_new_segments(group: Group) -> Iterator[str]:
    """A line per run from which on series are not comparable with before, and why."""
    fields: dict[tuple[str, str], Counter[str]] = {}  # by time and commit
    for series in group.series:
        for earlier, later in pairwise(series.segments):
            first = later.observations[0]
            before, after = earlier.observations[-1].identity, first.identity
            found = fields.setdefault((first.utc, _where(first)), Counter())
            for name in later.changed:
                sides = f" {_short(before.get(name))} → {_short(after.get(name))}"
                found[name + sides * (name != ACCEPTED)] += 1
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


def _number(value: float, unit: str) -> str:
    """Bytes in a unit of their own; the unit of others is said once."""
    return show_numbers((value,), unit if unit == "bytes" else "")[0]


def _unit_of(series: Series) -> str:
    return "" if series.unit == "bytes" else series.unit


def _percent(change: float) -> str:
    return f"{100 * change:{'+.0f' if abs(change) >= 1 else '+.2g'}} %"


def _short(value: Any) -> str:
    text = "none" if value is None else str(value)
    return text if len(text) <= 24 else f"{text[:12]}…"
