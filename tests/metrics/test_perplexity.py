"""perplexity: which tokens are scored, checked against independent computations."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from harness.engines.base import Engine
from harness.errors import InputError
from harness.metrics.perplexity import compare, measure
from harness.metrics.text_windows import WindowOptions
from harness.records.record import Measured
from harness.scoring.data import load_text
from harness.statistics.estimates import clustered_mean
from harness.suite.data_source import DataSource
from tests.support.cells_in_process import (
    load,
    make_context,
    write_checkpoint,
    write_llama,
    write_tokenizer,
)
from tests.support.records import make_record

TEXT = "Once upon a time — there was a naïve 🦙 who counted: one, two, three.\n" * 6


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("perplexity")
    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    write_checkpoint(folder / "model")
    return folder


@pytest.fixture(scope="module")
def cell(folder: Path) -> Engine:
    return load(folder / "model")


def run(cell: Engine, folder: Path, text: str = "text.txt", **options: Any) -> Measured:
    given = WindowOptions(text=DataSource(path=text), **options)
    return measure(cell, given, make_context(folder))


def numbers(measured: Measured) -> dict[str, Any]:
    return {name: value.value for name, value in measured.values.items()}


def options(context: int, stride: int | None = None, protocol: str = "sliding") -> WindowOptions:
    source = DataSource(path="x.txt")
    return WindowOptions(text=source, context=context, stride=stride, protocol=protocol)


# Options


def test_a_stride_that_skips_tokens_is_refused() -> None:
    options(8, 8)
    with pytest.raises(ValidationError, match="stride 9 is larger than context 8"):
        options(8, 9)


@pytest.mark.parametrize("protocol", ["disjoint", "lm-eval", "llamacpp"])
def test_only_sliding_has_a_stride(protocol: str) -> None:
    options(8, None, protocol)
    with pytest.raises(
        ValidationError, match=f"only for protocol 'sliding'; '{protocol}' has none"
    ):
        options(8, 4, protocol)


def test_a_chunk_of_llamacpp_has_a_second_half() -> None:
    options(4, protocol="llamacpp")
    options(2, protocol="lm-eval")
    with pytest.raises(ValidationError, match="context 3 is too short for protocol 'llamacpp'"):
        options(3, protocol="llamacpp")


# Against an independent computation


def nll_of_last(model: Any, ids: list[int], scored: int) -> list[float]:
    """-log p of the last ``scored`` of these tokens, by numpy in float64 from the full logits."""
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0].numpy().astype(np.float64)
    log_z = np.log(np.exp(logits - logits.max(-1, keepdims=True)).sum(-1)) + logits.max(-1)
    return [log_z[i - 1] - logits[i - 1, ids[i]] for i in range(len(ids) - scored, len(ids))]


def test_one_window_equals_an_independent_computation(cell: Engine, folder: Path) -> None:
    (folder / "short.txt").write_text(TEXT[:60], encoding="utf-8")
    found = numbers(run(cell, folder, "short.txt", context=256))
    ids = cell.require_tokenizer()(TEXT[:60])["input_ids"]
    expected = nll_of_last(cell.model, ids, len(ids) - 1)
    assert found["tokens"] == len(expected) == len(ids) - 1
    assert found["nll"] == pytest.approx(np.mean(expected), rel=1e-6)
    assert found["ppl"] == pytest.approx(np.exp(np.mean(expected)), rel=1e-6)
    size = len(TEXT[:60].encode())
    assert found["bits_per_byte"] == pytest.approx(sum(expected) / math.log(2) / size, rel=1e-6)


def test_disjoint_windows_equal_an_independent_computation(cell: Engine, folder: Path) -> None:
    measured = run(cell, folder, protocol="disjoint", context=32)
    ids = cell.require_tokenizer()(TEXT)["input_ids"]
    chunks = [ids[i : i + 32] for i in range(0, len(ids), 32)]
    expected = [sum(nll_of_last(cell.model, c, len(c) - 1)) for c in chunks if len(c) > 1]
    counts = [len(c) - 1 for c in chunks if len(c) > 1]
    assert measured.items["chunk_tokens"] == counts
    assert measured.items["chunk_nll"] == pytest.approx(expected, rel=1e-6)
    assert numbers(measured)["nll"] == pytest.approx(sum(expected) / sum(counts), rel=1e-6)


@pytest.mark.parametrize(("context", "stride"), [(24, 1), (24, 5), (32, 16)])
def test_sliding_equals_a_loop_over_tokens(
    cell: Engine, folder: Path, context: int, stride: int
) -> None:
    """Token t is predicted from all that precedes it in the first window that holds it."""
    ids = cell.require_tokenizer()(TEXT)["input_ids"][:120]
    text = cell.require_tokenizer().decode(ids[1:])
    (folder / "loop.txt").write_text(text, encoding="utf-8")
    ids = cell.require_tokenizer()(text)["input_ids"]
    total = 0.0
    for t in range(1, len(ids)):
        windows_before = max(0, -(-(t + 1 - context) // stride))
        start = windows_before * stride
        total += nll_of_last(cell.model, ids[start : t + 1], 1)[0]
    found = numbers(run(cell, folder, "loop.txt", context=context, stride=stride))
    assert found["tokens"] == len(ids) - 1
    assert found["nll"] == pytest.approx(total / (len(ids) - 1), rel=1e-6)


def test_llamacpp_equals_an_independent_computation(cell: Engine, folder: Path) -> None:
    """As llama.cpp's perplexity.cpp does it, in numpy on the full logits of each chunk."""
    ids = cell.require_tokenizer()(TEXT)["input_ids"]
    n_ctx, nll, count = 32, 0.0, 0
    for i in range(len(ids) // n_ctx):
        chunk = [cell.require_tokenizer().bos_token_id, *ids[i * n_ctx + 1 : (i + 1) * n_ctx]]
        with torch.no_grad():
            logits = cell.model(torch.tensor([chunk])).logits[0].numpy().astype(np.float64)
        for at in range(n_ctx // 2, n_ctx - 1):
            shifted = logits[at] - logits[at].max()
            nll -= shifted[chunk[at + 1]] - np.log(np.exp(shifted).sum())
            count += 1
    found = run(cell, folder, protocol="llamacpp", context=n_ctx, batch_size=3)
    assert numbers(found)["tokens"] == count == 15 * (len(ids) // n_ctx)
    assert numbers(found)["ppl"] == pytest.approx(math.exp(nll / count), rel=1e-6)
    assert found.protocol["start_token"] == 1
    assert "word_perplexity" not in found.values


def test_lm_eval_equals_an_independent_computation(cell: Engine, folder: Path) -> None:
    """Token t of the text, BOS included, from BOS or from what precedes it in its window."""
    ids = cell.require_tokenizer()(TEXT)["input_ids"]
    length, total = 48, sum(nll_of_last(cell.model, [1, *ids[:48]], 48))
    for done in range(length, len(ids), length):
        stop = min(done + length, len(ids))
        total += sum(nll_of_last(cell.model, ids[stop - length - 1 : stop], stop - done))
    measured = run(cell, folder, protocol="lm-eval", context=length)
    found = numbers(measured)
    words, size = 6 * 15 + 1, len(TEXT.encode())  # the last is the nothing behind the last \n
    assert found["tokens"] == len(ids)
    assert found["nll"] == pytest.approx(total / len(ids), rel=1e-6)
    assert found["word_perplexity"] == pytest.approx(math.exp(total / words), rel=1e-5)
    assert found["byte_perplexity"] == pytest.approx(math.exp(total / size), rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(math.log2(found["byte_perplexity"]), rel=1e-9)
    assert measured.protocol["start_token"] == 1
    assert measured.protocol["stride"] == length


def test_lm_eval_starts_with_eos_where_there_is_no_bos(tmp_path: Path) -> None:
    write_llama(tmp_path / "model")
    write_tokenizer(tmp_path / "model", bos=False)
    cell = load(tmp_path / "model")
    (tmp_path / "text.txt").write_text("abcd")
    ids = cell.require_tokenizer()("abcd")["input_ids"]
    cell.require_tokenizer().bos_token = None
    found = run(cell, tmp_path, protocol="lm-eval", context=8)
    assert found.protocol["start_token"] == 2
    expected = sum(nll_of_last(cell.model, [2, *ids], 4))
    assert found.items["chunk_nll"] == pytest.approx([expected], rel=1e-6)


def test_llamacpp_keeps_the_first_token_where_the_tokenizer_adds_no_bos(tmp_path: Path) -> None:
    write_llama(tmp_path / "model")
    write_tokenizer(tmp_path / "model", bos=False)
    cell = load(tmp_path / "model")
    (tmp_path / "text.txt").write_text("abcdefgh")
    ids = cell.require_tokenizer()("abcdefgh")["input_ids"]
    found = run(cell, tmp_path, protocol="llamacpp", context=4)
    assert found.protocol["start_token"] is None
    expected = [nll_of_last(cell.model, chunk, 1)[0] for chunk in (ids[:4], ids[4:])]
    assert found.items["chunk_nll"] == pytest.approx(expected, rel=1e-6)


REAL = os.environ.get("HARNESS_REAL_DATA")


@pytest.mark.skipif(not REAL, reason="HARNESS_REAL_DATA names no folder with models/ and data/")
@pytest.mark.parametrize(
    ("text", "context", "nll", "word", "byte"),
    [
        ("story", 512, 208.38064575, 6.1227149365, 1.4849917178),
        ("story", 128, 215.93418884, 6.5383745749, 1.5064295189),
        ("wiki", 512, 89358.76837, 4819170.34, 19.66077654),
        ("wiki", 256, 88344.18793, 4046632.23, 19.00697950),
    ],
)
def test_lm_eval_gives_what_lm_evaluation_harness_gives(
    tmp_path: Path, text: str, context: int, nll: float, word: float, byte: float
) -> None:
    """loglikelihood_rolling of its 0.4.13 `hf` model, max_length as the context, torch 2.13 CPU."""
    root = Path(REAL or "").resolve()
    if text == "story":
        content = (root / "data" / "story.txt").read_bytes()
    else:
        content = (root / "data" / "wikitext2" / "wiki.test.raw").read_bytes()[:30_000]
    (tmp_path / "text.txt").write_bytes(content)
    cell = load(root / "models" / "stories260K-hf")
    found = numbers(run(cell, tmp_path, protocol="lm-eval", context=context))
    assert found["nll"] * found["tokens"] == pytest.approx(nll, rel=1e-6)
    assert found["word_perplexity"] == pytest.approx(word, rel=1e-5)
    assert found["byte_perplexity"] == pytest.approx(byte, rel=1e-6)
    assert found["bits_per_byte"] == pytest.approx(math.log2(byte), rel=1e-6)


@pytest.mark.parametrize("batch_size", [2, 3, 64])
def test_batching_changes_nothing(cell: Engine, folder: Path, batch_size: int) -> None:
    alone = run(cell, folder, context=32, stride=8, batch_size=1)
    together = run(cell, folder, context=32, stride=8, batch_size=batch_size)
    assert together.items["chunk_nll"] == pytest.approx(alone.items["chunk_nll"], rel=1e-6)
    assert together.items["chunk_tokens"] == alone.items["chunk_tokens"]
    assert together.protocol == alone.protocol


def test_the_protocol_names_everything_the_number_depends_on(cell: Engine, folder: Path) -> None:
    measured = run(cell, folder, context=32, stride=8, batch_size=3)
    assert measured.protocol == {
        "text": {"path": "text.txt", "name": None, "split": None, "column": None, "revision": None},
        "protocol": "sliding",
        "context": 32,
        "stride": 8,
        "text_sha256": load_text(DataSource(path="text.txt"), make_context(folder))[1],
        "text_tokens": len(cell.require_tokenizer()(TEXT)["input_ids"]),
        "tokenizer_sha256": cell.job.files.tokenizer_sha256,
    }


@pytest.mark.parametrize("largest", [1, 2, 5])
def test_batches_shrink_where_memory_runs_out(folder: Path, largest: int) -> None:
    cell = load(folder / "model")
    wanted = run(cell, folder, context=32, stride=8, batch_size=8)

    def refuse(_module: Any, given: tuple[Any, ...], out: Any) -> None:
        if given[0].shape[0] > largest:
            raise torch.OutOfMemoryError("out of memory")

    cell.model.model.layers[1].mlp.register_forward_hook(refuse)
    found = run(cell, folder, context=32, stride=8, batch_size=8)
    assert found.items["batch_size"] == {1: 1, 2: 2, 5: 4}[largest]
    assert wanted.items["batch_size"] == 8
    assert found.items["chunk_nll"] == pytest.approx(wanted.items["chunk_nll"], rel=1e-6)
    assert found.items["chunk_tokens"] == wanted.items["chunk_tokens"]
    assert found.protocol == wanted.protocol


def test_a_single_window_that_does_not_fit_is_an_error(folder: Path) -> None:
    cell = load(folder / "model")

    def refuse(*_: Any) -> None:
        raise torch.OutOfMemoryError("out of memory")

    cell.model.model.layers[1].mlp.register_forward_hook(refuse)
    with pytest.raises(torch.OutOfMemoryError):
        run(cell, folder, context=32)


def test_a_model_that_must_be_scored_slowly_is_flagged(cell: Engine, folder: Path) -> None:
    wanted = run(cell, folder, context=32)
    slow = load(folder / "model")
    slow.model.get_output_embeddings = lambda: None
    found = run(slow, folder, context=32)
    assert (wanted.validity.status, found.validity.status) == ("ok", "flagged")
    assert found.validity.reasons == (
        "the model names no output head: a forward pass per slice of positions, the same numbers "
        "more slowly",
    )
    assert found.items["chunk_nll"] == pytest.approx(wanted.items["chunk_nll"], rel=1e-6)


# Bytes


@pytest.mark.parametrize("bos", [True, False])
def test_scored_bytes_are_those_of_the_scored_tokens(tmp_path: Path, bos: bool) -> None:
    """🦙 is four tokens of one character; its bytes count once, wherever a window ends in it."""
    write_llama(tmp_path / "model")
    write_tokenizer(tmp_path / "model", bos=bos)
    cell = load(tmp_path / "model")
    text = "a🦙é\n"
    (tmp_path / "text.txt").write_text(text, encoding="utf-8")
    for stride in (1, 2, 3):
        found = run(cell, tmp_path, context=4, stride=stride)
        scored = 8 if bos else 7  # without BOS nothing predicts the first byte
        bits = sum(found.items["chunk_nll"]) / math.log(2)
        assert numbers(found)["bits_per_byte"] == pytest.approx(bits / scored, rel=1e-12)


# Spread


def test_values_carry_their_spread_and_the_number_of_chunks(cell: Engine, folder: Path) -> None:
    measured = run(cell, folder, context=32, stride=16)
    sums, counts = measured.items["chunk_nll"], measured.items["chunk_tokens"]
    nll, stderr = clustered_mean(sums, counts)
    assert measured.values["nll"].stderr == stderr
    assert measured.values["ppl"].stderr == pytest.approx(math.exp(nll) * stderr)
    assert measured.values["nll"].n == measured.values["ppl"].n == len(sums)
    assert measured.values["ppl"].better == "lower"


def test_per_byte_and_per_word_values_carry_their_spread(
    cell: Engine, folder: Path, tmp_path: Path
) -> None:
    """In ASCII a token is a byte: nats per byte and per token spread alike."""
    (tmp_path / "text.txt").write_text("abc " * 50 + "abcd")  # 204 bytes, 51 words
    found = run(cell, tmp_path, context=32, stride=32)
    per_token = found.values["nll"].stderr
    assert per_token is not None
    assert found.values["bits_per_byte"].stderr == pytest.approx(per_token / math.log(2))
    measured = run(cell, tmp_path, protocol="lm-eval", context=32)
    rolling, sums, counts = (
        measured.values,
        measured.items["chunk_nll"],
        measured.items["chunk_tokens"],
    )
    _, per_byte = clustered_mean(sums, [counts[0] - 1, *counts[1:]])  # BOS has no bytes
    assert per_byte is not None
    assert rolling["bits_per_byte"].stderr == pytest.approx(per_byte / math.log(2))
    assert rolling["byte_perplexity"].stderr == pytest.approx(
        rolling["byte_perplexity"].value * per_byte
    )
    assert rolling["word_perplexity"].stderr == pytest.approx(
        rolling["word_perplexity"].value * per_byte * 4
    )
    assert rolling["word_perplexity"].n == len(sums)


# Compared with the reference


def test_the_ratio_is_that_of_the_perplexities(folder: Path, cell: Engine) -> None:
    reference = run(cell, folder, context=64)
    candidate = run(load(folder / "model", "nf4"), folder, context=64)
    ratio = compare(
        make_record("perplexity", measured=candidate), make_record("perplexity", measured=reference)
    )["ratio"]
    expected = numbers(candidate)["ppl"] / numbers(reference)["ppl"]
    assert ratio.value == pytest.approx(expected, rel=1e-9)
    assert ratio.value != 1.0


# What cannot be measured


def test_nan_is_counted_and_makes_the_record_invalid(tmp_path: Path, folder: Path) -> None:
    """One token's embedding is NaN, and with it, through attention, the window that holds it."""
    from safetensors.torch import load_file, save_file

    write_checkpoint(tmp_path / "model")
    weights = load_file(tmp_path / "model" / "model.safetensors")
    spoilt = load(tmp_path / "model").require_tokenizer()("X")["input_ids"][-1]
    weights["model.embed_tokens.weight"][spoilt] = math.nan
    save_file(weights, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    (tmp_path / "text.txt").write_text("a b X d e f")  # 12 tokens with BOS
    measured = run(load(tmp_path / "model"), tmp_path, context=8, protocol="disjoint")
    assert measured.validity.status == "invalid"
    assert measured.validity.reasons == ("7 of 10 tokens have a NaN or infinite log-likelihood",)
    found = numbers(measured)
    assert (found["nonfinite_tokens"], found["tokens"]) == (7, 10)
    assert found["ppl"] is found["nll"] is found["bits_per_byte"] is None
    record = make_record("perplexity", measured=measured)
    assert compare(record, record) == {}
    rolling = numbers(run(load(tmp_path / "model"), tmp_path, context=8, protocol="lm-eval"))
    assert rolling["nonfinite_tokens"] == 12  # the second window reaches back to X
    assert rolling["word_perplexity"] is rolling["byte_perplexity"] is None
    healthy = run(load(folder / "model"), tmp_path, context=8, protocol="disjoint")
    assert numbers(healthy)["nonfinite_tokens"] == 0
    assert healthy.validity.status == "ok"


def test_a_context_longer_than_the_model_is_refused(cell: Engine, folder: Path) -> None:
    run(cell, folder, context=256)
    with pytest.raises(InputError, match="context 257 is longer than the 256 tokens that m was"):
        run(cell, folder, context=257)


def test_a_text_of_one_token_has_nothing_to_score(tmp_path: Path) -> None:
    write_llama(tmp_path / "model")
    write_tokenizer(tmp_path / "model", bos=False)
    cell = load(tmp_path / "model")
    (tmp_path / "one.txt").write_text("a")
    (tmp_path / "two.txt").write_text("ab")
    with pytest.raises(InputError, match=r"'one\.txt' has 1 token; nothing can be scored"):
        run(cell, tmp_path, "one.txt", context=8)
    assert numbers(run(cell, tmp_path, "two.txt", context=8))["tokens"] == 1


def test_llamacpp_needs_two_chunks(tmp_path: Path, cell: Engine) -> None:
    (tmp_path / "short.txt").write_text("abcdef")
    (tmp_path / "enough.txt").write_text("abcdefg")
    with pytest.raises(
        InputError, match=r"'short\.txt' has 7 tokens; .* needs two whole chunks, 8"
    ):
        run(cell, tmp_path, "short.txt", protocol="llamacpp", context=4)
    assert numbers(run(cell, tmp_path, "enough.txt", protocol="llamacpp", context=4))["tokens"] == 2
