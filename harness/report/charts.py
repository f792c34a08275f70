"""A run's pictures: what a precision costs against what it gains, and what descriptions ask for."""

from collections.abc import Iterator, Sequence

from harness.catalog import load_measurement
from harness.descriptions import Chart, Column
from harness.records.record import Value
from harness.records.run_file import Run
from harness.records.values import base_name, qualifier, qualify
from harness.report.document import Picture
from harness.report.drawing import Line, Point, draw_bars, draw_lines, draw_points
from harness.report.matrix import format_number
from harness.report.weighing import Choice, Weight, find_weights
from harness.verdicts.history import Series

_Z = 1.96  # of a 95 % interval
_BEATEN = " (another is better in one and no worse in the other)"
_Range = tuple[float, float] | None


def draw_trade(choices: Sequence[Choice], gain: Weight, loss: Weight) -> Picture | None:
    """A model's cells by what is lost and what is gained; None for fewer than two with both.

    Grey: another cell is better in one and no worse in the other.
    """
    shown = []
    for number, choice in enumerate(choices, 1):
        x, y = gain.read(choice), loss.read(choice)
        if x is not None and x.value is not None and y is not None and y.value is not None:
            shown.append((number, choice, x, y))
    if len(shown) < 2:
        return None
    beaten = {
        a[1].precision
        for a in shown
        for b in shown
        if _beats((gain, b[2], a[2]), (loss, b[3], a[3]))
    }
    points = [
        Point(
            choice.precision,
            _scale(x, gain.column),
            _scale(y, loss.column),
            _range(x, gain.column),
            _range(y, loss.column),
            number,
            choice.precision in beaten,
            choice.outcome == "broken",
        )
        for number, choice, x, y in shown
    ]
    facts = [
        f"{choice.precision}: {gain.describe(choice)}; {loss.describe(choice)}"
        + (
            " (another is better in one and no worse in the other)"
            if choice.precision in beaten
            else ""
        )
        for _, choice, _, _ in shown
    ]
    title = f"{loss.column.title} ({loss.spec.better} is better)"
    text = f"{loss.column.title} against {gain.column.title}. {'. '.join(facts)}."
    return Picture(draw_points(points, gain.column.title, title), text)


def draw_charts(run: Run, measurement: str, model: str) -> Iterator[Picture]:
    """The pictures that a measurement's description asks for, of one model's cells."""
    for chart in load_measurement(measurement).charts:
        picture = _draw_chart(run, measurement, model, chart)
        if picture is not None:
            yield picture


def draw_series(series: Series) -> Picture:
    """One value over the runs, with the places where its level changed."""
    seen = [(segment, one) for segment in series.segments for one in segment.observations]
    points = [point for segment in series.segments for point in segment.change_points]
    changed = {id(point.observation) for point in points}
    breaks = tuple(i for i, (_, one) in enumerate(seen) if id(one) in changed)
    scale, unit = (1e6, "MB") if series.unit == "bytes" else (1.0, series.unit)
    numbers = tuple(one.value / scale for _, one in seen)
    places = [one.sha[:7] if one.sha else one.utc[:10] for _, one in seen]
    name = f"{series.cell} {series.metric}"
    text = f"{name} over {len(seen)} runs: {', '.join(f'{number:.6g}' for number in numbers)}"
    title = f"{name}, {unit}" if unit else name
    line = Line(name, numbers, breaks=breaks)
    return Picture(draw_lines([line], places, "commit", title, from_zero=False), text)


def draw_trades(run: Run, choices: Sequence[Choice]) -> tuple[list[Picture], list[Picture]]:
    """The pictures of the quality that counts most, and those of the others."""
    gains = [*find_weights(run, "memory")[:1], *find_weights(run, "speed")[:1]]
    losses = find_weights(run, "quality")
    drawn = [[draw_trade(choices, gain, loss) for gain in gains] for loss in losses]
    found = [[picture for picture in row if picture is not None] for row in drawn]
    first, *others = [row for row in found if row] or [[]]
    return first, [picture for row in others for picture in row]


def _draw_chart(run: Run, measurement: str, model: str, chart: Chart) -> Picture | None:
    records = [
        record
        for record in run.records
        if record.measurement == measurement and record.cell.model == model and not record.noise
    ]
    cells = {record.cell.precision: record for record in records if record.usable}
    inks = {name: i for i, name in enumerate(_list_precisions(run, model), 1)}
    first = chart.columns[0]
    spec = load_measurement(measurement).values[base_name(first.value)]

    def read(precision: str, name: str) -> Value | None:
        found = cells[precision].find(name)
        return None if found is None or found.value is None else found

    if len(chart.columns) > 1 or spec.per is None:
        bars = {
            column.title: [_maybe(read(name, column.value), column) for name in cells]
            for column in chart.columns
        }
        present = {title: row for title, row in bars.items() if any(x is not None for x in row)}
        if not present:
            return None
        largest = max(x for row in present.values() for x in row if x is not None)
        marks = {name: mark for name, mark in chart.marks.items() if mark <= 1.5 * largest}
        roomy = next((name for name, mark in chart.marks.items() if mark > largest), None)
        title = chart.title + (f"; all of it fits {roomy}" if roomy else "")
        text = f"{title}. {_tell(list(cells), present, first)}"
        return Picture(draw_bars(list(cells), present, title, marks), text)
    places = list(
        dict.fromkeys(
            qualifier(name)
            for record in cells.values()
            for name, value in {**record.values, **record.paired}.items()
            if base_name(name) == first.value and qualifier(name) and value.value is not None
        )
    )
    lines = []
    for name in cells:
        found = [read(name, qualify(first.value, place)) for place in places]
        if not any(found):
            continue
        shares = [read(name, qualify(chart.share, place)) for place in places]
        lines.append(
            Line(
                name,
                tuple(_maybe(one, first) for one in found),
                tuple(None if one is None else _range(one, first) for one in found),
                tuple(_possible(one, share, first) for one, share in zip(found, shares)),
                ink=inks[name],
            )
        )
    if not lines or not places:
        return None
    rows = {place: [line.numbers[i] for line in lines] for i, place in enumerate(places)}
    facts = _tell([line.name for line in lines], rows, first)
    possible = any(x is not None for line in lines for x in line.ceiling)
    text = f"{chart.title}. {facts}"
    if len(places) == 1:
        bars = {places[0]: rows[places[0]]}
        names = [line.name for line in lines]
        return Picture(draw_bars(names, bars, f"{first.title}, {spec.per} {places[0]}", {}), text)
    shown = [place.replace("x", "×") for place in places]
    title = first.title + (" (dashed: what the device can do)" if possible else "")
    return Picture(draw_lines(lines, shown, spec.per, title), text)


def _tell(names: Sequence[str], rows: dict[str, list[float | None]], column: Column) -> str:
    """The numbers of a chart as sentences, a name each."""
    plain = Column("", "", column.format)
    told = []
    for i, name in enumerate(names):
        own = ((row, numbers[i]) for row, numbers in rows.items())
        parts = [f"{row} {format_number(n, plain)}" for row, n in own if n is not None]
        told.append(f"{name}: {', '.join(parts)}.")
    return " ".join(told)


def _list_precisions(run: Run, model: str) -> list[str]:
    return list(dict.fromkeys(r.cell.precision for r in run.records if r.cell.model == model))


def _scale(value: Value, column: Column) -> float:
    assert value.value is not None
    return value.value / column.scale


def _maybe(value: Value | None, column: Column) -> float | None:
    return None if value is None else _scale(value, column)


def interval_of(value: Value) -> tuple[float, float] | None:
    """The 95 % interval, of a normal distribution where only its standard error is known."""
    if value.interval is None and value.stderr and value.value is not None:
        return (value.value - _Z * value.stderr, value.value + _Z * value.stderr)
    return value.interval


def _range(value: Value, column: Column) -> _Range:
    ends = interval_of(value)
    return ends and (ends[0] / column.scale, ends[1] / column.scale)


def _possible(value: Value | None, share: Value | None, column: Column) -> float | None:
    """What could be reached, from what was reached and which share of the possible that is."""
    if value is None or share is None or not share.value:
        return None
    return _scale(value, column) / share.value


def _beats(*sides: tuple[Weight, Value, Value]) -> bool:
    """Whether the first of each pair of values is clearly better in one, clearly worse in none.

    Clearly: the 95 % intervals are apart, or the numbers where there are none.
    """
    better = False
    for weight, a, b in sides:
        assert a.value is not None
        assert b.value is not None
        (low, high), (other_low, other_high) = (
            interval_of(a) or (a.value, a.value),
            interval_of(b) or (b.value, b.value),
        )
        if weight.spec.better == "higher":
            low, high, other_low, other_high = other_low, other_high, low, high
        if low > other_high:
            return False
        better = better or high < other_low
    return better
