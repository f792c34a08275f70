"""The report of one or several runs, for a person who decides: everything on one page.

Made from run files alone. Which values are shown, how and as what pictures, descriptions say.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.catalog import load_measurement
from harness.records.find_runs import Found, name_device
from harness.records.record import Record, Value
from harness.records.run_file import Run
from harness.records.values import base_name, compared_name, is_part, qualifier
from harness.report.changed_answers import make_changed_answers
from harness.report.charts import draw_charts, draw_series, draw_trades, interval_of
from harness.report.document import (
    Cell,
    Document,
    Lines,
    Paragraph,
    Part,
    Section,
    Table,
    TableColumn,
    Texts,
    list_lines,
    make_table,
)
from harness.report.history import show_group
from harness.report.ledger import open_ledger, show_ledger
from harness.report.matrix import VERDICT_STYLES, list_measured, make_details, make_matrix
from harness.report.summary import count_outcomes, describe_run, explain_findings
from harness.report.weighing import Choice, answer, describe_choice, list_choices
from harness.verdicts.flips import list_pairs
from harness.verdicts.history import Series
from harness.verdicts.history_files import Group
from harness.verdicts.wording import show_numbers

_MILD_FIRST = ("PASS", "INCONCLUSIVE", "FAIL")
_FLIPS = 8  # questions shown per task and cell
_SUBJECTS = 6  # that lost most
_SERIES = 12  # drawn over time
_LEGEND = (
    "grey: another is better in one and no worse in the other; ×: breaks a limit; bars: 95 % "
    "intervals"
)


def make_page(runs: Sequence[Found], history: Sequence[Group] = ()) -> Document:
    """A page of the given runs, each of another suite or device; ``history`` has their past."""
    names = list(dict.fromkeys(str(found.run.suite.get("name")) for found in runs))
    title = f"Precision report: {', '.join(names)}"
    if len(runs) == 1:
        return Document(title, tuple(_show_run(runs[0], history)))
    sections = (
        Section(f"{found.run.suite.get('name')} on {name_device(found.run)}", parts)
        for found in runs
        for parts in [tuple(_show_run(found, history))]
    )
    return Document(title, tuple(sections))


def _show_run(found: Found, history: Sequence[Group]) -> Iterator[Part]:
    run = found.run
    yield _show_answer(run)
    described = Lines((count_outcomes(run), *describe_run(run)))
    yield Section("All precisions", (described, make_matrix(run), *explain_findings(run)))
    for model, choices in list_choices(run).items():
        several = f" of {model}" if len(list_choices(run)) > 1 else ""
        entries = (
            Section(describe_choice(run, choice), tuple(_show_cell(found, choice)), entry=True)
            for choice in choices
        )
        yield Section(f"One by one{several}", tuple(entries))
    changed = tuple(make_changed_answers(run))
    if changed:
        yield Section("Changed answers", changed)
    yield from _show_texts(run)
    yield from _show_charts(run)
    suite, device = str(run.suite.get("name")), name_device(run)
    for group in history:
        if (group.suite, group.device) == (suite, device) and group.runs > 1:
            yield _show_history(group)
    yield Section("How it was run", tuple(_show_facts(found)))
    yield Section("What the numbers mean", tuple(_define(run)))


def _show_answer(run: Run) -> Section:
    """The question answered for each model, with the pictures of what is traded for what."""
    answered: list[Section] = []
    for told, choices in zip(answer(run), list_choices(run).values(), strict=True):
        first, others = draw_trades(run, choices)
        below: list[Part] = [*told.parts, *first]
        if first:
            below.append(Lines((_LEGEND,)))
        if others:
            below.append(Section("By the other measures of quality", tuple(others), entry=True))
        answered.append(Section(told.title, tuple(below)))
    return Section("Which precision?", tuple(answered))


def _show_cell(found: Found, choice: Choice) -> Iterator[Part]:
    """One precision in full: values with intervals, what it lost, flags."""
    order = list_measured(found.run)
    records = {name: choice.records[name] for name in order if name in choice.records}
    flags = [
        f"{name} {record.validity.status}: {reason}"
        for name, record in records.items()
        if record.validity.status != "ok"
        for reason in record.validity.reasons
    ]
    references = {
        (record.cell.id, record.measurement): reference
        for reference, record in list_pairs(found.run)
    }
    yield _tabulate_values(records, references)
    verdicts = [verdict.text for record in records.values() for verdict in record.verdicts]
    yield from list_lines("Verdicts", verdicts)
    yield from list_lines("Flags", flags)
    for record in records.values():
        yield from _show_subjects(record)
        reference = references.get((record.cell.id, record.measurement))
        if reference is not None:
            sides = reference.cell.precision, record.cell.precision
            read = found.read_beside
            page = open_ledger(reference, record, read, read, sides)
            ledger = None if page is None else page.ledger
            if page is not None and (ledger is None or ledger.harmful or ledger.tied):
                yield show_ledger(page, _FLIPS)


def _tabulate_values(
    records: Mapping[str, Record], references: Mapping[tuple[str, str], Record]
) -> Table:
    """Every value that the summary has a column for, or a limit judges."""
    rows: list[tuple[Cell, ...]] = []
    for name, record in records.items():
        described = load_measurement(name)
        shown = {base_name(column.value) for column in described.headline}
        mild_first = sorted(record.verdicts, key=lambda one: _MILD_FIRST.index(one.verdict))
        verdicts = {verdict.metric: verdict for verdict in mild_first}  # the worst of a value
        values = {**record.values, **record.paired}
        reference = references.get((record.cell.id, name))
        for value_name, value in values.items():
            verdict = verdicts.get(f"{name}.{value_name}")
            is_shown = base_name(value_name) in shown and not is_part(value_name, values)
            if value.value is None or not (is_shown or verdict):
                continue
            before = reference.values.get(value_name) if reference else None
            ends = interval_of(value)
            rows.append(
                (
                    Cell(f"{name}.{value_name}"),
                    Cell(_show_value(value)),
                    Cell(" to ".join(show_numbers(ends)) if ends else ""),
                    Cell(_show_value(before)),
                    Cell(verdict.verdict, VERDICT_STYLES[verdict.verdict]) if verdict else Cell(""),
                    Cell(verdict.bound if verdict else ""),
                )
            )
    titles = ("value", "measured", "95 % interval", "reference", "verdict", "limit")
    return _make_columns(titles, rows, words=("value", "verdict", "limit"))


def _show_value(value: Value | None) -> str:
    if value is None or value.value is None:
        return ""
    return show_numbers((value.value,), value.unit)[0]


def _show_subjects(record: Record) -> Iterator[Section]:
    """The parts of a task that lost most against the reference, with their intervals."""
    specs = load_measurement(record.measurement).values
    drops = {name: s for name, s in specs.items() if s.per and s.of and specs[s.of].row}
    lost = [
        (drops[base_name(name)], name, value.value, value.interval)
        for name, value in record.paired.items()
        if base_name(name) in drops and qualifier(name) and value.value and value.value > 0
    ]
    if not lost:
        return
    per = str(lost[0][0].per)
    rows = []
    for spec, name, drop, interval in sorted(lost, key=lambda one: -one[2])[:_SUBJECTS]:
        share = record.values.get(compared_name(name, spec))
        ends = " to ".join(f"{100 * end:+.1f}" for end in interval or ())
        right = "" if share is None or share.value is None else f"{100 * share.value:.1f} %"
        rows.append((qualifier(name), right, f"{100 * drop:.1f}", ends))
    titles = (per, "right", "points lost", "95 % interval")
    yield Section(f"{record.measurement}: what lost most", (make_table(titles, rows, (per,)),))


def _show_texts(run: Run) -> Iterator[Section]:
    """Generated texts side by side, the reference's first."""
    for name in list_measured(run):
        keys = load_measurement(name).texts
        if keys is None:
            continue
        for model in list_choices(run):
            own = [
                record
                for record in run.records
                if record.measurement == name and record.cell.model == model and not record.noise
                if record.usable and all(key in record.items for key in keys)
            ]
            own.sort(key=lambda record: record.cell.precision != run.suite.get("reference"))
            parts = tuple(_align_texts(own, *keys))
            if parts:
                note = Lines((f"marked: from the first difference to {own[0].cell.precision} on",))
                yield Section(f"{name} of {model}", (note, *parts))


def _align_texts(records: Sequence[Record], prompts: str, texts: str) -> Iterator[Texts]:
    for i, prompt in enumerate(records[0].items[prompts] if records else ()):
        given = (
            (record.cell.precision, record.items[texts][i])
            for record in records
            if record.items[prompts][i : i + 1] == [prompt] and record.items[texts][i] is not None
        )
        yield Texts(prompt, tuple(given))


def _show_charts(run: Run) -> Iterator[Section]:
    """The pictures of each measurement, with its tables of ``-v``."""
    models = list(list_choices(run))
    for name in list_measured(run):
        parts: list[Part] = []
        for model in models:
            pictures = list(draw_charts(run, name, model))
            if pictures and len(models) > 1:
                parts.append(Section(model, tuple(pictures)))
            else:
                parts += pictures
        if parts:
            tables = tuple(make_details(run, (name,)))
            details = Section("Numbers", tables, entry=True)
            yield Section(name, (*parts, *([details] if tables else [])))


def _show_history(group: Group) -> Section:
    notable = [series for series in group.series if series.is_notable]
    weighed = {
        f"{name}.{column.value}"
        for series in group.series
        for name in [series.metric.partition(".")[0]]
        for column in load_measurement(name).weighs.values()
    }
    others = [s for s in group.series if base_name(s.metric) in weighed and s not in notable]
    drawn = [s for s in (*notable, *others) if _moves(s)]
    shown = show_group(group, named=False)
    return Section("Over time", (*map(draw_series, drawn[:_SERIES]), shown))


def _moves(series: Series) -> bool:
    """Whether there is anything to see over time."""
    return len({one.value for part in series.segments for one in part.observations}) > 1


def _show_facts(found: Found) -> Iterator[Part]:
    """The run and its environment."""
    run = found.run
    facts = {
        "run file": found.name,
        "measured": run.run.utc,
        "command": " ".join(run.run.argv),
        "suite": run.suite.get("file"),
        "judged against": run.run.baseline,
        "commit": run.run.git_sha,
        "duration, s": run.run.duration_s,
    }
    yield _tabulate_facts(facts)
    environment = {
        f"{group} {name}": value
        for group, content in run.environment.items()
        for name, value in (content.items() if isinstance(content, Mapping) else ())
    }
    if environment:
        yield Section("Environment", (_tabulate_facts(environment),), entry=True)


def _define(run: Run) -> Iterator[Section]:
    """Each measurement's values, and the protocol that they were measured by."""
    for name in list_measured(run):
        described = load_measurement(name)
        own = [record for record in run.records if record.measurement == name]
        present = {base_name(n) for r in own for n in (*r.values, *r.paired)}
        rows = [
            (
                value,
                spec.unit or "—",
                {"lower": "lower", "higher": "higher", None: "—"}[spec.better],
                spec.help + (f"; per {spec.per}" if spec.per else ""),
            )
            for value, spec in described.values.items()
            if value in present
        ]
        titles = ("value", "unit", "better", "what it is")
        parts: list[Part] = [Paragraph(_unwrap(described.help.partition(":")[2]))]
        if rows:
            parts.append(make_table(titles, rows, words=titles))
        if own and own[0].protocol:
            parts.append(Section("Protocol", (_tabulate_facts(own[0].protocol),)))
        yield Section(name, tuple(parts), entry=True)


def _unwrap(text: str) -> str:
    """Paragraphs of a docstring, each on a line of its own."""
    return "\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


def _tabulate_facts(facts: Mapping[str, Any]) -> Table:
    rows = [(str(name), text) for name, value in facts.items() if (text := _show_fact(value))]
    return make_table(("fact", "value"), rows, words=("fact", "value"))


def _show_fact(value: Any) -> str:
    """A fact on one line; empty for one that is not known."""
    if isinstance(value, Mapping):
        return "; ".join(f"{k}: {t}" for k, v in value.items() if (t := _show_fact(v)))
    if isinstance(value, list | tuple):
        return ", ".join(map(_show_fact, value))
    return "" if value is None else str(value)


def _make_columns(
    titles: Sequence[str], rows: Sequence[Sequence[Cell]], words: Sequence[str]
) -> Table:
    columns = tuple(
        TableColumn(title, tuple(row[i] for row in rows), numbers=title not in words)
        for i, title in enumerate(titles)
    )
    return Table(columns[:1], (columns[1:],))
