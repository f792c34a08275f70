"""footprint: parameters and bytes against hand-computed ones and an independent walk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from harness.engines.transformers.count import count_bytes, read_requested_bytes, sum_storages
from harness.metrics.footprint import Options, compare, measure
from harness.records.record import Validity
from tests.support.cells_in_process import load, make_context, write_llama
from tests.support.records import make_record

VOCABULARY, HIDDEN, INNER, LAYERS = 264, 64, 128, 2
# out x in of the linear layers of one block: q, k, v, o, gate, up, down; 4 heads of 16, 2 for k, v
BLOCK = [(64, 64), (32, 64), (32, 64), (64, 64), (128, 64), (128, 64), (64, 128)]
BODY = LAYERS * sum(out * into for out, into in BLOCK)
NORMS = (2 * LAYERS + 1) * HIDDEN
EMBEDDING = VOCABULARY * HIDDEN
ROTARY_BYTES = 2 * 8 * 4  # inv_freq and its original, fp32, half a head each


@pytest.fixture(scope="module", params=["untied", "tied"])
def checkpoint(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    tied = request.param == "tied"
    return write_llama(
        tmp_path_factory.mktemp("footprint") / request.param, tie_word_embeddings=tied
    )


def footprint(cell: Any) -> dict[str, Any]:
    measured = measure(cell, Options(), make_context(Path("/")))
    return {name: value.value for name, value in measured.values.items()}


def constants_bytes(precision: str, layers: list[tuple[int, int]]) -> int:
    """Scales and code books of bitsandbytes' layers, in blocks of 64 and, nested, of 256 x 64."""
    if precision == "int8":
        return sum(4 * out for out, _ in layers)
    blocks = [-(-out * into // 64) for out, into in layers]
    code = 16 * 4
    if precision != "nf4-dq":
        return sum(4 * b + code for b in blocks)
    return sum(b + 4 * -(-b // 256) + 256 * 4 + 4 + code for b in blocks)


@pytest.mark.parametrize("precision", ["fp32", "bf16", "int8", "nf4", "nf4-dq", "fp4"])
def test_counts_equal_those_by_hand(checkpoint: Path, precision: str) -> None:
    given = {"use": "nf4", "double_quant": True} if precision == "nf4-dq" else {}
    found = footprint(load(checkpoint, precision, **given))
    heads = 0 if checkpoint.name == "tied" else EMBEDDING
    rest = NORMS + EMBEDDING + heads
    element = 2 if precision == "bf16" else 4
    if precision in ("fp32", "bf16"):
        body, constants = element * BODY, 0
        per_weight = 8.0 * element
    else:
        body = BODY if precision == "int8" else BODY // 2
        constants = constants_bytes(precision, BLOCK * LAYERS)
        per_weight = 8 * (body + constants) / BODY
    packed = BODY // 2 if "4" in precision else BODY
    assert found["parameters"] == BODY + rest
    assert found["parameters_naive"] == packed + rest
    quantised = 0 if constants == 0 else body
    assert found["quantised_bytes"] == quantised
    assert found["unquantised_bytes"] == body + element * rest - quantised
    assert found["weights_bytes"] == body + element * rest
    assert found["constants_bytes"] == constants
    assert found["buffers_bytes"] == ROTARY_BYTES
    assert found["total_bytes"] == body + element * rest + constants + ROTARY_BYTES
    assert found["bits_per_weight"] == pytest.approx(per_weight, rel=1e-12)
    assert found["bits_per_parameter"] == 8 * found["total_bytes"] / found["parameters"]
    assert all(isinstance(v, int) for n, v in found.items() if not n.startswith("bits"))


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16", "int8", "nf4", "nf4-dq", "fp4"])
def test_every_byte_that_the_model_holds_is_accounted_for(checkpoint: Path, precision: str) -> None:
    given = {"use": "nf4", "double_quant": True} if precision == "nf4-dq" else {}
    measured = measure(load(checkpoint, precision, **given), Options(), make_context(Path("/")))
    found = {name: value.value for name, value in measured.values.items()}
    parts = ("quantised_bytes", "constants_bytes", "unquantised_bytes", "buffers_bytes")
    assert found["total_bytes"] == sum(found[part] for part in parts)
    assert found["allocated_bytes"] == found["total_bytes"]
    assert found["unaccounted_bytes"] == 0
    assert measured.validity == Validity()
    assert measured.protocol == {"allocated": "reachable storages"}


@pytest.mark.parametrize("where", ["quant_state", "nested state", "module", "list"])
def test_a_tensor_that_is_not_accounted_for_is_noticed(checkpoint: Path, where: str) -> None:
    """As another version of bitsandbytes might keep next to its scales."""
    cell = load(checkpoint, "nf4", double_quant=True)
    layer = cell.model.model.layers[0].mlp.up_proj
    state = layer.weight.quant_state
    if where == "list":
        layer.kept = [{"here": torch.zeros(1000)}]
    else:
        owners = {"quant_state": state, "nested state": state.state2, "module": layer}
        owners[where].extra = torch.zeros(1000)
    held = sum_storages(cell.model)
    cell = replace(cell, counts=replace(cell.counts, allocated_bytes=held))
    measured = measure(cell, Options(), make_context(Path("/")))
    total = measured.values["total_bytes"].value
    assert total is not None
    assert measured.values["unaccounted_bytes"].value == 4000
    assert measured.validity.status == "flagged"
    assert measured.validity.reasons == (
        f"{total:,} bytes are accounted for, but the loaded model holds {total + 4000:,}: "
        f"{4000 / total:.2%} apart",
    )


def test_less_than_a_thousandth_is_no_reason_to_flag(checkpoint: Path) -> None:
    cell = load(checkpoint)
    total = cell.counts.total_bytes
    for allocated, status in ((total + total // 1000, "ok"), (total - total // 900, "flagged")):
        other = replace(cell, counts=replace(cell.counts, allocated_bytes=allocated))
        measured = measure(other, Options(), make_context(Path("/")))
        assert measured.validity.status == status
        assert measured.values["unaccounted_bytes"].value == allocated - total


def test_an_allocator_that_cannot_be_asked_leaves_the_figure_out(checkpoint: Path) -> None:
    cell = load(checkpoint)
    other = replace(cell, counts=replace(cell.counts, allocated_bytes=None))
    measured = measure(other, Options(), make_context(Path("/")))
    assert measured.values["allocated_bytes"].value is None
    assert measured.values["unaccounted_bytes"].value is None
    assert measured.validity.status == "flagged"


def test_only_cuda_has_an_allocator_to_ask() -> None:
    assert read_requested_bytes("cpu") is None


@pytest.mark.parametrize(
    ("backend", "stats", "expected"),
    [
        (
            "native",
            {"requested_bytes.all.current": 1234, "allocated_bytes.all.current": 1536},
            1234,
        ),
        ("cudaMallocAsync", {"requested_bytes.all.current": 0}, None),
        ("native", {}, None),  # without caching nothing is counted
    ],
)
def test_cuda_s_allocator_is_asked_for_what_was_requested(
    monkeypatch: pytest.MonkeyPatch, backend: str, stats: dict[str, int], expected: int | None
) -> None:
    monkeypatch.setattr(torch.cuda, "get_allocator_backend", lambda: backend)
    monkeypatch.setattr(torch.cuda, "memory_stats", lambda device: stats)
    assert read_requested_bytes("cuda:0") == expected


def test_storages_that_are_shared_count_once_and_whole(checkpoint: Path) -> None:
    """A buffer that is a weight; two weights that are halves of one."""
    cell = load(checkpoint)
    before = count_bytes(cell.model)
    cell.model.register_buffer("alias", cell.model.model.norm.weight.data)
    attention = cell.model.model.layers[0].self_attn
    fused = torch.cat([attention.k_proj.weight.data, attention.v_proj.weight.data])
    attention.k_proj.weight.data, attention.v_proj.weight.data = fused.chunk(2)
    after = count_bytes(cell.model)
    for name in ("weights_bytes", "buffers_bytes", "total_bytes", "linear_bytes", "parameters"):
        assert getattr(after, name) == getattr(before, name), name


def test_stored_elements_are_those_of_every_tensor_held(checkpoint: Path) -> None:
    found = footprint(load(checkpoint, "nf4"))
    elements = constants_bytes("nf4", BLOCK * LAYERS) // 4 + ROTARY_BYTES // 4
    assert found["parameters_stored"] == found["parameters_naive"] + elements


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One block of layers large enough that code books weigh nothing."""
    return write_llama(
        tmp_path_factory.mktemp("footprint") / "large",
        hidden_size=1024,
        intermediate_size=2816,
        num_hidden_layers=1,
        dtype=torch.bfloat16,
    )


def test_nf4_has_four_and_a_half_bits_and_double_quantisation_4_13(large: Path) -> None:
    """4 + 32/64, and 4 + 8/64 + 32/(64*256) = 4.127 and its code books."""
    plain = footprint(load(large, "nf4"))["bits_per_weight"]
    double = footprint(load(large, "nf4", double_quant=True))["bits_per_weight"]
    assert plain == pytest.approx(4.5, abs=1e-3)
    assert double == pytest.approx(4.127, abs=1e-2)
    assert double > 4 + 8 / 64 + 32 / (64 * 256)


def test_a_forward_pass_does_not_change_the_count(checkpoint: Path) -> None:
    cell = load(checkpoint, "nf4")
    before = footprint(cell)
    with torch.no_grad():
        cell.model(torch.ones(1, 4, dtype=torch.long))
    assert footprint(cell) == before


def test_the_size_ratio_is_exact() -> None:
    candidate, reference = (
        make_record("footprint", values={"total_bytes": size}) for size in (300, 1200)
    )
    assert compare(candidate, reference)["size_ratio"].value == 0.25
    assert compare(candidate, make_record("footprint"))["size_ratio"].value is None
