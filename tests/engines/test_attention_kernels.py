"""Which attention kernel runs is seen in real passes, and cuDNN's is chosen for speeds alone.

The switch is real on a CPU, and so are the kernels that are seen; that torch then chooses cuDNN's
is for `tests/engines/test_cuda.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from harness.engines.base import Target
from harness.engines.shared.attention_kernels import KernelWatch, cudnn_attention
from harness.engines.transformers.kernels import watch_attention
from harness.metrics import memory, throughput
from tests.support.cells_in_process import load, make_context, write_checkpoint

FLASH = "flash_for_cpu"
KINDS = ("prompt", "continued", "step", "packed", "padded", "padded step")
SPEED: dict[str, Any] = {
    **{"prompt_tokens": 8, "new_tokens": 3, "min_rounds": 3, "min_time_s": 0, "warmup_s": 0},
    "roofline": False,
}


@pytest.fixture(autouse=True)
def default_switch() -> Iterator[None]:
    """A switch of the process, which loading a cell leaves off."""
    with cudnn_attention(True):
        yield


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("kernels") / "model")


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_call_s_kernel_is_seen(mode: type[AbstractContextManager[None]]) -> None:
    with mode(), KernelWatch() as watch:
        heads = torch.randn(1, 2, 8, 16)
        plain = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        assert watch.take() == FLASH
        with sdpa_kernel(SDPBackend.MATH):
            slow = torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        assert watch.take() == "math"
        torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        with sdpa_kernel(SDPBackend.MATH):
            torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
        assert watch.take() == f"{FLASH}, math"
        assert watch.take() is None
    assert torch.allclose(plain, slow, atol=1e-5)
    torch.nn.functional.scaled_dot_product_attention(heads, heads, heads)
    assert watch.take() is None, "the watch is over"


def test_a_cell_attests_the_kernel_of_each_kind_of_pass(sound: Path) -> None:
    attested = load(sound).attested
    assert attested["attention_kernels"] == dict.fromkeys(KINDS, FLASH)
    with sdpa_kernel(SDPBackend.MATH):
        attested = load(sound).attested
    assert set(attested["attention_kernels"].values()) == {"math"}


def test_attention_that_is_not_torch_s_has_no_kernel(sound: Path) -> None:
    attested = load(sound, attention="eager").attested
    assert attested["attention_kernels"] == dict.fromkeys(KINDS)


def test_the_attested_kernels_are_those_of_real_texts_and_answers(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in that chooses as CUDA does: a mask rules out the kernel without one."""
    real = torch.nn.functional.scaled_dot_product_attention

    def choose(*args: Any, attn_mask: torch.Tensor | None = None, **given: Any) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION if attn_mask is None else SDPBackend.MATH):
            return real(*args, attn_mask=attn_mask, **given)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", choose)
    cell: Any = load(sound)
    attested = cell.attested["attention_kernels"]
    assert attested == dict.fromkeys(KINDS, "math") | {"prompt": FLASH, "step": FLASH}

    rows, last = torch.randint(3, 200, (2, 12)), torch.arange(11, 12)
    branched = [(5, 6, 7, 8), (5, 6, 9, 9)]
    targets = [Target(0, 3, 7, "a"), Target(1, 3, 8, "b")]
    asks: dict[str, Callable[[], Any]] = {
        "prompt": lambda: cell.score_windows(rows, 4),
        "packed": lambda: cell.score_targets(branched, targets, lambda *_: None, 64, lambda *_: 0),
        "padded": lambda: cell.answer([[5, 6, 7], [5, 6]], 3, ()),
        "prompt ": lambda: list(cell.open_outputs(rows[:1], last).read_logits(rows, last)),
    }
    for kind, ask in asks.items():
        seen: list[str | None] = []
        with KernelWatch() as watch:
            body = cell.model.base_model
            hook = body.register_forward_hook(lambda *_: seen.append(watch.take()))  # noqa: B023
            ask()
            hook.remove()
        assert seen[0] == attested[kind.strip()]
        if kind == "padded":
            assert set(seen[1:]) == {attested["padded step"]}


def test_a_model_that_cannot_make_the_small_passes_is_left_to_its_measurements(sound: Path) -> None:
    model = load(sound).model
    model.forward = lambda **_: None
    assert watch_attention(model)["prompt"] is None  # type: ignore[index]
    model.forward = None
    assert watch_attention(model) is None


def see_switch(cell: Any) -> set[bool]:
    """Whether torch might have chosen cuDNN's attention, over the passes to come."""
    seen: set[bool] = set()
    cell.model.register_forward_pre_hook(
        lambda *_: seen.add(torch.backends.cuda.cudnn_sdp_enabled())
    )
    return seen


def test_texts_and_answers_are_computed_without_cudnn_s_attention(sound: Path) -> None:
    cell = load(sound)
    rows, last = torch.randint(3, 200, (2, 12)), torch.arange(11, 12)
    asks: list[Any] = [
        lambda: cell.score_windows(rows, 4),
        lambda: cell.score_targets(
            [(5, 6, 7), (5, 6, 8)],
            [Target(0, 1, 7, "a"), Target(1, 1, 8, "b")],
            lambda *_: None,
            64,
            lambda *_: None,
        ),
        lambda: list(cell.open_outputs(rows[:1], last).read_logits(rows, last)),
        lambda: cell.answer([[5, 6, 7], [5, 6]], 3, ()),
    ]
    for ask in asks:
        seen = see_switch(cell)
        ask()
        assert seen == {False}


@pytest.mark.parametrize("cudnn", [True, False])
@pytest.mark.parametrize("how", [{}, {"cache": "static"}])
def test_a_speed_is_measured_with_it_unless_the_suite_says_otherwise(
    sound: Path, cudnn: bool, how: dict[str, Any]
) -> None:
    """And says which kernels ran in a pass of its own sizes."""
    cell = load(sound)
    seen = see_switch(cell)
    given = {} if cudnn else {"cudnn_attention": False}
    options = throughput.Options(**SPEED, **how, **given)
    measured = throughput.measure(cell, options, make_context(Path("/")))
    assert seen == {cudnn}
    assert measured.protocol["cudnn_attention"] is cudnn
    assert measured.protocol["attention_kernels"] == {"1": {"prompt": FLASH, "step": FLASH}}
    assert not torch.backends.cuda.cudnn_sdp_enabled(), "off again for what follows"


def test_a_speed_names_the_kernels_of_each_batch_and_none_of_compiled_steps(
    sound: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in that chooses by the batch; decode steps are taken for compiled."""
    real = torch.nn.functional.scaled_dot_product_attention

    def choose(query: torch.Tensor, *args: Any, **given: Any) -> torch.Tensor:
        with sdpa_kernel(SDPBackend.MATH if len(query) == 2 else SDPBackend.FLASH_ATTENTION):
            return real(query, *args, **given)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", choose)
    monkeypatch.setattr("harness.engines.transformers.generation._compile", lambda model: model)
    options = throughput.Options(**SPEED, batch_sizes=(1, 2), also_compiled={})
    measured = throughput.measure(load(sound), options, make_context(Path("/")))
    assert measured.protocol["attention_kernels"] == {
        "1": {"prompt": FLASH, "step": FLASH},
        "2": {"prompt": "math", "step": "math"},
        "1 compiled": {"prompt": FLASH},
        "2 compiled": {"prompt": "math"},
    }


def test_peaks_are_those_of_a_speed(sound: Path) -> None:
    cell = load(sound)
    seen = see_switch(cell)
    memory.measure(cell, memory.Options(prompt_tokens=8, new_tokens=2), make_context(Path("/")))
    assert seen == {True}
