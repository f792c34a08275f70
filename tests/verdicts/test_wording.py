"""wording: numbers that say what they should, in as few digits as will do."""

from __future__ import annotations

import pytest

from harness.verdicts.wording import describe_change, show_estimate, show_numbers


@pytest.mark.parametrize(
    ("numbers", "unit", "shown"),
    [
        ((0.5,), "", ["0.5"]),
        ((0.999982, 0.99991, 1.00005), "", ["0.99998", "0.99991", "1.0001"]),
        ((1.0, 1.0), "", ["1", "1"]),
        ((1_968_510,), "bytes", ["1.97 MB"]),
        ((1_968_510, 1_968_512), "bytes", ["1.96851 MB", "1.968512 MB"]),
        ((2_000_000_000, 512), "bytes", ["2 GB", "5.12e-07 GB"]),
        ((12,), "bytes", ["12 bytes"]),
        ((1_234_567,), "items", ["1,234,567 items"]),
        ((123_456.7,), "tokens/s", ["123,457 tokens/s"]),
        ((41.25, 41.3), "tokens/s", ["41.25 tokens/s", "41.3 tokens/s"]),
        ((0.0, -0.00012), "nats", ["0 nats", "-0.00012 nats"]),
    ],
)
def test_unequal_numbers_look_unequal(
    numbers: tuple[float, ...], unit: str, shown: list[str]
) -> None:
    assert show_numbers(numbers, unit) == shown


@pytest.mark.parametrize(
    ("low", "high", "value"),
    [
        (0.99991, 1.00005, 0.999982),
        (0.1, 0.2, 0.15),
        (-1e-5, 1e-5, 1e-9),
        (1e6, 1e6 + 1, 1e6 + 0.5),
    ],
)
def test_an_interval_contains_its_value_and_is_no_point(
    low: float, high: float, value: float
) -> None:
    for kind in ("interval", "bounds"):
        shown = show_estimate(value, **{kind: (low, high)})  # type: ignore[arg-type]
        number, ends = shown.removesuffix(")").split(f" (95 % {kind} ")
        least, most = map(float, ends.replace(",", "").split(" to "))
        assert least < float(number.replace(",", "")) < most


def test_an_estimate_has_one_interval_and_its_unit_once() -> None:
    shown = show_estimate(41.0, "tokens/s", interval=(40.0, 42.0), bounds=(40.5, 41.5))
    assert shown == "41 tokens/s (95 % interval 40 to 42)"
    assert show_estimate(1_968_510, "bytes", (1_968_510, 1_968_510)) == "1.97 MB"
    assert show_estimate(0.9999999, beside=(1.0,)) == "0.9999999"


def test_a_change_has_both_numbers_and_its_share() -> None:
    assert describe_change("acc", 0.5, 0.48) == "acc was 0.5, is 0.48 (-4.00 %)"
    assert describe_change("flips", 0, 3) == "flips was 0, is 3"


def test_numbers_that_differ_in_their_last_bit_only_are_shown_as_one() -> None:
    assert show_numbers((100.0, 99.99999999999999)) == ["100", "100"]
    assert show_estimate(99.99999999999999, "s", bounds=(95.2326, 104.7674), beside=(100.0,)) == (
        "100 s (95 % bounds 95.23 to 104.8)"
    )
