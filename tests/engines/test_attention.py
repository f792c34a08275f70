"""attention: the declared implementation is what runs, or the cell says why not."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from transformers import (
    BloomConfig,
    BloomForCausalLM,
)

from harness.engines.transformers.loading import choose_attention
from harness.errors import InputError, UnavailableError
from tests.support.cells_in_process import load, write_checkpoint


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("attention") / "model")


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("precision", ["fp32", "nf4"])
def test_the_declared_attention_is_used(sound: Path, precision: str, attention: str) -> None:
    cell = load(sound, precision, attention=attention)
    assert cell.attested["attention"] == attention
    assert cell.model.model.layers[0].self_attn.config._attn_implementation == attention


def test_eager_attention_gives_its_matrices_and_sdpa_none(sound: Path) -> None:
    """Which shows that the declared one is what runs."""
    ids = torch.tensor([[5, 6, 7]])
    eager = load(sound, attention="eager").model(ids, output_attentions=True).attentions
    assert eager[0].shape == (1, 4, 3, 3)
    sdpa = load(sound, attention="sdpa").model(ids, output_attentions=True).attentions
    assert not sdpa or sdpa[0] is None


def test_an_attention_that_the_architecture_does_not_have_is_refused(tmp_path: Path) -> None:
    config = BloomConfig(vocab_size=99, hidden_size=64, n_layer=1, n_head=2)
    BloomForCausalLM(config).save_pretrained(tmp_path / "bloom")
    assert load(tmp_path / "bloom", attention="eager").attested["attention"] == "eager"
    with pytest.raises(InputError) as caught:
        load(tmp_path / "bloom", attention="sdpa")
    assert str(caught.value) == (
        "cannot load m: BloomForCausalLM does not support an attention implementation through "
        "torch.nn.functional.scaled_dot_product_attention yet; leave out `attention: sdpa` for "
        "what transformers chooses"
    )


@pytest.mark.parametrize("attention", ["flash_attention_2", "flash_attention_3"])
def test_flash_attention_on_a_cpu_is_unavailable(sound: Path, attention: str) -> None:
    with pytest.raises(UnavailableError) as caught:
        load(sound, attention=attention)
    assert str(caught.value) == f"attention {attention} runs on CUDA only, this cell is on cpu"


@pytest.mark.parametrize(
    ("attention", "package"),
    [("flash_attention_2", "flash-attn"), ("flash_attention_3", "flash-attn-3")],
)
def test_flash_attention_without_its_package_is_unavailable(
    monkeypatch: pytest.MonkeyPatch, attention: str, package: str
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=f"needs the package {package}, which is not inst"):
        choose_attention(attention, "cuda:0")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert choose_attention(attention, "cuda:0") == {"attn_implementation": attention}
