"""What would decide an open verdict: a command or a setting, and its time on this machine. Pure."""

import math

from harness.catalog import load_measurement
from harness.descriptions import ValueSpec
from harness.records.record import Record, Value, Verdict
from harness.records.values import find_spec
from harness.verdicts.looks import most_processes

_PAIRS = range(6, 31)  # of `harness ab`; neighbours share the night, so few do


def advise(
    verdict: Verdict, record: Record, reference: str | None, suite: str, again: str = ""
) -> Verdict:
    """An open or suspicious verdict that ends with what would decide it; any other as it is.

    ``reference`` is the precision that paired values compare with, ``suite`` the suite's file,
    ``again`` the command that makes the measurement again, "" where that would not decide it.
    """
    name = verdict.metric.partition(".")[2]
    spec, found = find_spec(record.measurement, name), record.find(name)
    is_open = verdict.verdict == "INCONCLUSIVE" or verdict.suspicious
    if not is_open or spec is None or found is None or found.value is None:
        return verdict
    precision = record.cell.precision
    samples = found.n if found.stderr is not None or spec.sampled != "processes" else 1
    if verdict.suspicious:
        if record.same_night is not None:
            return verdict  # it says what that has shown
        once = record.seconds.get(
            "total", 0.0
        )  # the pairs are measured after it, and its reference
        both = once * (1 if precision == reference or reference is None else 2)
        seconds = both + once / max(1, samples or 1) * 2 * _PAIRS[0]
        advice = f"{again} --confirm ({show_time(seconds)} on this machine)"
    else:
        sides = f"--precision {precision} --python OLD/bin/python --python NEW/bin/python"
        if verdict.against == "limit":
            sides = f"--precision {reference} --precision {precision}" if spec.paired else ""
        advice = _measure_on(verdict, record, spec, found, again)
        advice = advice or say_what_decides(record, spec, samples, verdict.enough, suite, sides)
    end = f" ({verdict.position})." if verdict.position else "."
    to = "decide" if verdict.verdict == "INCONCLUSIVE" else "confirm"
    text = f"{verdict.text.removesuffix(end)}; to {to}: {advice}{end}" if advice else verdict.text
    return verdict.model_copy(update={"text": text})


def _measure_on(verdict: Verdict, record: Record, spec: ValueSpec, found: Value, again: str) -> str:
    """The measurement again with --until-decided, where that would decide a limit; else ""."""
    n, enough = found.n or 0, verdict.enough
    is_open_to_it = spec.sampled == "processes" and verdict.against == "limit"
    is_in_doubt = record.validity.status != "ok" or bool(found.doubt)  # a flag would leave it open
    if (
        not again
        or not is_open_to_it
        or is_in_doubt
        or record.looks
        or not enough
        or enough > most_processes(n)
    ):
        return ""
    seconds = (1 + spec.paired) * enough * record.seconds.get("total", 0.0) / max(1, n)
    took = f" ({show_time(seconds)} on this machine)" if seconds else ""
    return f"{again} --until-decided{took}"


def say_what_decides(
    record: Record,
    spec: ValueSpec,
    samples: int | None,
    enough: int | None,
    suite: str,
    sides: str,
) -> str:
    """The command or setting; "" for a value that is no sample.

    ``samples`` were measured, ``enough`` would do in four of five runs. ``sides`` are the options
    of `harness ab`, "" where it cannot compare what is asked.
    """
    if spec.sampled is None:
        return ""
    name, seconds = record.measurement, record.seconds.get("total", 0.0) / max(1, samples or 1)
    if spec.sampled != "processes":
        took = f", {show_time(seconds * enough)} on this machine" if enough and seconds else ""
        more = f"{enough:,}" if enough else "more"
        if spec.sampled == "chunks":
            return f"a text of {more} chunks for {name} in {suite}{took}"
        limit, n = record.protocol.get("limit"), samples or 0
        made = max([n, *(len(row) for row in record.items.values() if isinstance(row, str | list))])
        if limit is None or made < limit:
            return f"{more} items of {name}, more than its data has{took}"
        # Above it, the limit is that of each part of the task, such as a subject.
        key = f"`limit: {math.ceil(enough * limit / max(n, limit))}`" if enough else "`limit:`"
        return f"{more} items of {name} in {suite} ({key}){took}"
    pairs = min(max(enough or 0, _PAIRS[0]), _PAIRS[-1])
    took = f" ({show_time(2 * pairs * seconds)} on this machine)" if seconds else ""
    if sides:
        chosen = f"--model {record.cell.model} --measure {name} {sides} --pairs {pairs}"
        return f"harness ab {suite} {chosen}{took}"
    repeats = load_measurement(name).options.REPEATS
    return f"`{repeats}: {pairs}` of {name} in {suite}" if repeats else ""


def show_time(seconds: float) -> str:
    """``about 3 min``."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 1.5 * length:
            return f"about {seconds / length:.2g} {unit}"
    return f"about {max(1, round(seconds))} s"
