"""A record as the properties of its test case in a JUnit report: values, verdicts, validity."""

from harness.records.record import Record

UNAVAILABLE = "unavailable"
_WORST = ("PASS", "INCONCLUSIVE", "FAIL")


def list_properties(record: Record) -> list[tuple[str, object]]:
    """Names are unique, since a reader of JUnit keeps one of several.

    ``<measurement>.<value>`` is a number or "unavailable", ``verdict.<metric>.<against>`` the worst
    verdict on the metric against limits, thresholds or an earlier run; ``validity`` the status, and
    ``validity.reasons`` why it is not ok.
    """
    listed: dict[str, object] = {
        f"{record.measurement}.{name}": UNAVAILABLE if value.value is None else value.value
        for name, value in {**record.values, **record.paired}.items()
    }
    for verdict in record.verdicts:
        name = f"verdict.{verdict.metric}.{verdict.against}"
        known = listed.get(name, _WORST[0])
        listed[name] = max(str(known), verdict.verdict, key=_WORST.index)
    listed["validity"] = record.validity.status
    if record.validity.reasons:
        listed["validity.reasons"] = "; ".join(record.validity.reasons)
    return list(listed.items())
