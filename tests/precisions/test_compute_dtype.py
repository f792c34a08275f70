"""The dtype that quantised cells compute in: by the device, unless the suite says it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from harness.catalog import load_precision
from harness.descriptions import Device
from harness.suite.model_sources import CellJob
from tests.support.cells_in_process import load, write_checkpoint

T4, A100, UNKNOWN = (Device("cuda", board) for board in ((7, 5), (8, 0), None))
QUANTISED = ("int8", "nf4", "fp4")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(
        tmp_path_factory.mktemp("dtype") / "model", dtype=torch.bfloat16, num_hidden_layers=1
    )


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.parametrize(
    ("device", "given", "expected"),
    [
        (Device("cpu"), {}, "float32"),
        (T4, {}, "float16"),
        (Device("cuda", (7, 0)), {}, "float16"),
        (A100, {}, "bfloat16"),
        (Device("cuda", (12, 0)), {}, "bfloat16"),
        (UNKNOWN, {}, "bfloat16"),
        (T4, {"compute_dtype": "bfloat16"}, "bfloat16"),
        (T4, {"compute_dtype": "float32"}, "float32"),
        (A100, {"compute_dtype": "float16"}, "float16"),
    ],
)
def test_the_dtype_follows_the_board(
    precision: str, device: Device, given: dict[str, Any], expected: str
) -> None:
    description = load_precision(precision)
    arguments = description.load_arguments(description.options(**given), device)
    assert arguments["dtype"] == expected
    if precision != "int8":
        config = arguments["quantization_config"]
        assert config.bnb_4bit_compute_dtype == getattr(torch, expected)


@pytest.mark.parametrize("precision", QUANTISED)
def test_a_cell_in_float16_is_as_declared_on_an_old_board_only(
    checkpoint: Path, precision: str
) -> None:
    attested = load(checkpoint, precision, compute_dtype="float16").attested
    description = load_precision(precision)
    assert description.check(attested, description.options(), T4) == []
    assert description.check(attested, description.options(), A100) != []


@pytest.fixture
def as_on_a_t4(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cells are loaded on the CPU, as their precision would have it on that board."""
    monkeypatch.setattr(CellJob, "target", T4)


@pytest.mark.parametrize("precision", QUANTISED)
@pytest.mark.usefixtures("as_on_a_t4")
def test_what_was_chosen_is_attested(checkpoint: Path, precision: str) -> None:
    cell = load(checkpoint, precision)
    assert cell.compute_dtype == "float16"
    assert cell.attested["dtypes"].keys() == {"float16"}
    assert cell.flags == ()


@pytest.mark.parametrize(
    ("precision", "given"),
    [("bf16", {}), *((name, {"compute_dtype": "bfloat16"}) for name in QUANTISED)],
)
@pytest.mark.usefixtures("as_on_a_t4")
def test_bfloat16_is_flagged_on_a_board_without_units_for_it(
    checkpoint: Path, precision: str, given: dict[str, Any]
) -> None:
    cell = load(checkpoint, precision, **given)
    assert cell.compute_dtype == "bfloat16"
    [flag] = cell.flags
    assert flag.startswith("bfloat16 on a GPU without matrix units for it (compute capability 7.5")
    assert "attention" not in flag, "float16 gives no other attention where heads share keys"


def test_bfloat16_is_not_flagged_elsewhere(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert load(checkpoint, "bf16").flags == ()
    monkeypatch.setattr(CellJob, "target", A100)
    assert load(checkpoint, "bf16").flags == ()
