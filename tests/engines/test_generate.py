"""The decode loop: the same tokens as transformers' own generation, whatever cache it runs over."""

from __future__ import annotations

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from harness.engines.transformers.engine import TransformersEngine
from harness.engines.transformers.generation import TransformersGenerator
from harness.errors import InputError
from harness.timing.prompts import make_prompt
from harness.worker.serve import guard
from tests.support.cells_in_process import load, write_llama

EOS = 2


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_llama(tmp_path_factory.mktemp("generate") / "model")


@pytest.fixture(scope="module")
def cells(checkpoint: Path) -> dict[str, TransformersEngine]:
    return {name: load(checkpoint, name) for name in ("fp32", "bf16", "int8", "nf4")}


@pytest.fixture(scope="module")
def cell(cells: dict[str, TransformersEngine]) -> TransformersEngine:
    return cells["fp32"]


def transformers_tokens(model: Any, prompt: torch.Tensor, new_tokens: int) -> torch.Tensor:
    """Greedy, without the end-of-text token being suppressed: nothing stops it."""
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=new_tokens,
        eos_token_id=None,
    )
    return out[:, prompt.shape[1] :]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "nf4"])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 20), (3, 7)])
def test_tokens_equal_those_of_transformers(
    cells: dict[str, TransformersEngine], precision: str, batch: int, length: int
) -> None:
    cell = cells[precision]
    prompt = make_prompt(cell, batch, length)
    found = cell.open_generator(None, False).run(prompt, 24)
    assert torch.equal(found.tokens, transformers_tokens(cell.model, prompt, 24))
    assert len(found.ready) == 24
    assert found.ready == sorted(found.ready)
    assert found.ready[0] > 0


def test_forced_length_equals_min_new_tokens_where_no_end_comes(cell: TransformersEngine) -> None:
    prompt = make_prompt(cell, 2, 9)
    tokens = cell.open_generator(None, False).run(prompt, 16).tokens
    assert EOS not in tokens
    expected = cell.model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        min_new_tokens=16,
        max_new_tokens=16,
    )
    assert torch.equal(tokens, expected[:, 9:])


def test_the_end_of_text_token_does_not_stop_it(checkpoint: Path) -> None:
    """A head that always answers EOS."""
    cell = load(checkpoint)
    model, prompt = cell.model, torch.tensor([[5, 6]])
    with torch.no_grad():
        model.lm_head.weight.zero_()
        model.model.norm.weight.zero_()
        tokens = cell.open_generator(None, False).run(prompt, 3).tokens
        assert tokens.tolist() == [[0, 0, 0]]  # all equal: the first
        model.config.eos_token_id = model.generation_config.eos_token_id = 0
        found = cell.open_generator(None, False).run(prompt, 5)
    assert found.tokens.shape == (1, 5)
    assert len(found.ready) == 5


def test_the_prompt_is_the_same_every_time_and_within_the_vocabulary(
    cell: TransformersEngine,
) -> None:
    one, other = (make_prompt(cell, 4, 200) for _ in range(2))
    assert torch.equal(one, other)
    assert one.shape == (4, 200)
    assert 0 <= int(one.min()) < int(one.max()) < 264


@pytest.mark.parametrize("precision", ["fp32", "int8", "nf4"])
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (3, 7)])
def test_a_static_cache_gives_the_same_tokens_round_after_round(
    cells: dict[str, TransformersEngine], precision: str, batch: int, length: int
) -> None:
    cell = cells[precision]
    prompt = make_prompt(cell, batch, length)
    generator = cell.open_generator(length + 12, False)
    expected = transformers_tokens(cell.model, prompt, 12)
    for _ in range(3):  # what a round left in the cache must not reach the next
        assert torch.equal(generator.run(prompt, 12).tokens, expected)


def test_a_static_cache_holds_prompt_and_new_tokens_and_no_more(cell: TransformersEngine) -> None:
    prompt = make_prompt(cell, 2, 5)
    generator = cell.open_generator(5 + 4, False)
    sizes: list[int | None] = []
    generator.run(prompt, 4, sizes.append)
    # layers, keys and values, batch, key-value heads, tokens, head width, bytes
    assert sizes == [2 * 2 * 2 * 2 * 9 * 16 * 4] * 4
    with pytest.raises(Exception, match="out of"):
        generator.run(prompt, 6)


def test_without_cuda_there_are_no_device_times(cell: TransformersEngine) -> None:
    assert cell.open_generator(None, False).run(make_prompt(cell, 1, 3), 2).device_s is None


compiles = pytest.mark.skipif(
    not any(map(shutil.which, ("g++", "clang++"))), reason="no C++ compiler on this machine"
)


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_compiled_decode_gives_the_same_tokens(
    cells: dict[str, TransformersEngine], precision: str
) -> None:
    cell = cells[precision]
    graphs = torch._dynamo.utils.counters["stats"]
    for batch, length in ((1, 6), (2, 4)):  # each shape is compiled anew
        before = graphs["unique_graphs"]
        prompt = make_prompt(cell, batch, length)
        generator = cell.open_generator(length + 10, True)
        assert generator.compile(prompt, 10) > 0
        expected = transformers_tokens(cell.model, prompt, 10)
        for _ in range(2):
            assert torch.equal(generator.run(prompt, 10).tokens, expected)
        assert graphs["unique_graphs"] == before + 1  # the step, whole; none for further rounds


@pytest.mark.slow
def test_a_missing_compiler_is_an_input_error(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    cell = load(checkpoint)
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    prompt = make_prompt(cell, 1, 4)
    # Not by monkeypatch: it would take the setting away from the tests that follow.
    with (
        torch._inductor.config.patch({"cpp.cxx": (str(tmp_path / "no-compiler"),)}),
        pytest.raises(InputError, match=r"torch\.compile failed .*it needs a C\+\+ compiler"),
    ):
        cell.open_generator(8, True).compile(prompt, 4)


def test_a_model_that_cannot_be_compiled_whole_is_refused(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A graph break would leave a model that is compiled in part only."""
    cell = load(checkpoint)
    inner = type(cell.model.model)
    forward = inner.forward

    def breaking(self: Any, *given: Any, **named: Any) -> Any:
        torch._dynamo.graph_break()
        return forward(self, *given, **named)

    monkeypatch.setattr(inner, "forward", breaking)
    prompt = make_prompt(cell, 1, 4)
    with pytest.raises(InputError, match=r"torch\.compile failed"):
        cell.open_generator(8, True).compile(prompt, 4)


@pytest.mark.parametrize("broken", [True, False])
def test_what_breaks_cuda_is_no_input_error(
    cell: TransformersEngine, monkeypatch: pytest.MonkeyPatch, broken: bool
) -> None:
    """A bug's traceback ends the process, which CUDA would not serve again; a refusal keeps it."""

    def fail(*_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(TransformersGenerator, "run", fail)
    monkeypatch.setattr(torch.cuda, "synchronize", fail if broken else lambda device: None)
    prompt: Any = SimpleNamespace(device=torch.device("cuda"))
    answer = guard(lambda: cell.open_generator(8, True).compile(prompt, 4))
    assert "an illegal memory access" in answer.reason
    assert bool(answer.traceback) is broken


def test_importing_torch_s_compiler_is_no_error() -> None:
    """Whatever test imports it first, with every warning an error."""
    spec = importlib.util.find_spec("torch.utils.mkldnn")
    assert spec is not None
    assert spec.loader is not None
    spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_a_model_without_a_static_cache_is_refused(cell: TransformersEngine) -> None:
    class Odd:
        config = None
        forward = cell.model.forward

    odd = replace(cell, model=Odd())  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"no static cache for this model"):
        odd.open_generator(8, False)


def test_the_loop_makes_one_forward_call_per_token(cell: TransformersEngine) -> None:
    lengths: list[int] = []
    handle = cell.model.register_forward_pre_hook(
        lambda _, __, given: lengths.append(given["input_ids"].shape[1]), with_kwargs=True
    )
    try:
        cell.open_generator(None, False).run(make_prompt(cell, 2, 9), 5)
    finally:
        handle.remove()
    assert lengths == [9, 1, 1, 1, 1]
