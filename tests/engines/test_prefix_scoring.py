"""Tokens predicted behind shared prefixes, against each sequence computed alone."""

from __future__ import annotations

import copy
import inspect
import math
import random
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from transformers import (
    AutoModelForCausalLM,
    BartConfig,
    BartForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    MptConfig,
    MptForCausalLM,
)

import harness.builtin
from harness.engines.base import Cost, Target
from harness.engines.shared.batches import BatchSize
from harness.engines.transformers import prefix_scoring
from harness.engines.transformers.prefix_cache import OpenPath, can_share
from harness.engines.transformers.prefix_scoring import predict_tokens
from harness.scoring.multiple_choice import score_questions
from harness.suite.data_source import DataSource
from harness.tasks import mmlu
from tests.support.cells_in_process import SHAPE, load, make_context, write_llama

VOCABULARY = 264


def make_gpt2() -> Any:
    """Absolute positions: a padded row must not reach beyond the last of them."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=40,
        n_embd=32,
        n_layer=2,
        n_head=4,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPT2LMHeadModel(config).eval()


def make_mistral(window: int | None) -> Any:
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=window,
        initializer_range=0.2,
    )
    return MistralForCausalLM(config).eval()


def make_mamba() -> Any:
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4)
    return MambaForCausalLM(config).eval()


def make_gpt_neo() -> Any:
    """Its local attention counts the cache's columns, whatever the positions say."""
    torch.manual_seed(0)
    config = GPTNeoConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        num_layers=2,
        num_heads=4,
        attention_types=[[["global", "local"], 1]],
        window_size=12,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=1,
        eos_token_id=2,
    )
    return GPTNeoForCausalLM(config).eval()


def make_mpt() -> Any:
    """ALiBi: no positions at all, but a bias by the cache's columns."""
    torch.manual_seed(0)
    config = MptConfig(
        vocab_size=VOCABULARY, d_model=32, n_heads=4, n_layers=2, max_seq_len=128,
        initializer_range=0.2,
    )  # fmt: skip
    return MptForCausalLM(config).eval()


def make_bart() -> Any:
    """Ignores the positions it is given and starts its own at 2."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=VOCABULARY, d_model=32, decoder_layers=2, decoder_attention_heads=4,
        decoder_ffn_dim=64, max_position_embeddings=128, init_std=0.2, is_decoder=True,
        is_encoder_decoder=False, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return BartForCausalLM(config).eval()


def make_longrope() -> Any:
    """Other rotation factors as soon as any row of a pass is longer than 30 tokens."""
    torch.manual_seed(0)
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [4.0] * 4,
        "original_max_position_embeddings": 30,
    }
    config = LlamaConfig(
        **{**SHAPE, "hidden_size": 32, "max_position_embeddings": 120},
        rope_parameters=rope,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = write_llama(tmp_path_factory.mktemp("prefix") / "model")
    return AutoModelForCausalLM.from_pretrained(folder).eval()


def make_rows(seed: int = 0, longest: int = 60) -> list[tuple[int, ...]]:
    """Examples shared by all, questions shared by some, endings of many lengths."""
    rng = random.Random(seed)

    def tokens(low: int, high: int) -> tuple[int, ...]:
        return tuple(rng.choices(range(3, VOCABULARY), k=rng.randint(low, high)))

    rows = set()
    for _ in range(2):
        examples = tokens(15, 25)
        for _ in range(6):
            question = examples + tokens(1, 15)
            rows |= {(question + tokens(0, 12))[:longest] for _ in range(4)}
    return sorted(rows, key=lambda row: rng.random())


def make_targets(rows: list[tuple[int, ...]]) -> list[Target]:
    """The last three positions of every row, each wanting a token of its own."""
    return [
        Target(row, position, (7 * row + position) % VOCABULARY, (row, position))
        for row, tokens in enumerate(rows)
        for position in range(max(0, len(tokens) - 3), len(tokens))
    ]


def predict(model: Any, rows: list[tuple[int, ...]], batch_tokens: int) -> tuple[Any, Cost]:
    found: dict[Any, tuple[float, bool]] = {}

    def take(key: Any, nll: float, likeliest: bool) -> None:
        assert key not in found
        found[key] = nll, likeliest

    cost = predict_tokens(model, "cpu", rows, make_targets(rows), take, BatchSize(batch_tokens))
    return found, cost


def predict_alone(model: Any, rows: list[tuple[int, ...]]) -> dict[Any, tuple[float, bool]]:
    found = {}
    for target in make_targets(rows):
        with torch.no_grad():
            logits = model(torch.tensor([rows[target.row]])).logits[0, target.position].double()
        nll = -float(torch.log_softmax(logits, -1)[target.token])
        found[target.key] = nll, int(logits.argmax()) == target.token
    return found


def check_equal(found: Any, expected: Any) -> None:
    assert found.keys() == expected.keys()
    for key, (nll, likeliest) in expected.items():
        assert found[key][0] == pytest.approx(nll, abs=2e-5)
        assert found[key][1] is likeliest


@pytest.mark.parametrize("batch_tokens", [1, 60, 100, 10_000])
def test_a_llama_predicts_as_if_each_row_were_alone(llama: Any, batch_tokens: int) -> None:
    rows = make_rows()
    found, cost = predict(llama, rows, batch_tokens)
    check_equal(found, predict_alone(llama, rows))
    assert cost.tokens_forwarded == cost.tokens_unique < 0.6 * sum(map(len, rows))
    assert cost.tokens_padding == 0
    assert cost.passes == -(-cost.tokens_unique // batch_tokens)
    assert cost.batch_tokens == batch_tokens


@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_a_model_with_absolute_positions_too(batch_tokens: int) -> None:
    model, rows = make_gpt2(), make_rows(1, longest=40)
    assert max(map(len, rows)) == 40 == model.config.n_positions
    found, cost = predict(model, rows, batch_tokens)
    check_equal(found, predict_alone(model, rows))
    assert cost.tokens_forwarded == cost.tokens_unique


@pytest.mark.parametrize(
    ("make", "shares"),
    [
        (lambda: make_mistral(None), True),
        (lambda: make_mistral(16), False),  # what left the window is not in the cache any more
        (make_mamba, False),
    ],
)
def test_a_cache_that_cannot_be_cut_and_copied_is_not(make: Any, shares: bool) -> None:
    model, rows = make(), make_rows(2)[:12]
    assert can_share(model) is shares
    found, cost = predict(model, rows, 10_000 if shares else 1)
    check_equal(found, predict_alone(model, rows))
    assert (cost.tokens_forwarded == sum(map(len, rows))) is not shares


@pytest.mark.parametrize("make", [make_gpt_neo, make_mpt])
@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_a_model_that_counts_the_cache_s_columns_finds_no_padding_in_it(
    make: Any, batch_tokens: int
) -> None:
    model, rows = make(), make_rows(3)
    found, cost = predict(model, rows, batch_tokens)
    check_equal(found, predict_alone(model, rows))
    assert cost.unshared == ""
    assert cost.tokens_forwarded == cost.tokens_unique


def test_a_cache_of_another_build_is_found_out_on_the_way() -> None:
    """BART's decoder keeps a place for what an encoder would give."""
    model, rows = make_bart(), make_rows(3)
    assert can_share(model)
    found, cost = predict(model, rows, 1_000)
    check_equal(found, predict_alone(model, rows))
    assert cost.tokens_forwarded == sum(map(len, rows))
    assert cost.unshared == ""


@pytest.mark.parametrize("batch_tokens", [1, 200, 10_000])
def test_longrope_is_given_rows_of_one_side_of_its_boundary_only(batch_tokens: int) -> None:
    model, rows = make_longrope(), make_rows(4)
    assert min(map(len, rows)) <= 30 < max(map(len, rows))
    found, _ = predict(model, rows, batch_tokens)
    check_equal(found, predict_alone(model, rows))
    assert not can_share(model)


def test_a_model_that_does_not_go_on_from_its_cache_is_found_and_computed_whole(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As code of a model's own might: it takes a cache and starts its positions at 0 again."""
    rows, forward = make_rows(), type(llama).forward

    def restart(self: Any, input_ids: Any, past_key_values: Any = None, **given: Any) -> Any:
        positions = torch.arange(input_ids.shape[1])[None]
        return forward(
            self, input_ids, past_key_values=past_key_values, position_ids=positions, **given
        )

    restart.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    monkeypatch.setattr(type(llama), "forward", restart)
    found, cost = predict(llama, rows, 1_000)
    check_equal(found, predict_alone(llama, rows))
    assert "does not go on from its cache" in cost.unshared
    assert cost.tokens_forwarded == sum(map(len, rows))


# Sixteen bits, and products of int8

PRECISIONS = ["bf16", "fp16", "int8", "nf4"]
BUILTIN = Path(harness.builtin.__file__).parent / "tiny-world" / "model"


@pytest.fixture(scope="module")
def trained() -> dict[str, Any]:
    return {precision: load(BUILTIN, precision) for precision in PRECISIONS}


@pytest.fixture(scope="module")
def quiz(trained: dict[str, Any]) -> tuple[list[tuple[int, ...]], list[Target]]:
    """Rows of the embedded quiz behind two examples, and the answers' letters."""
    sent: list[Any] = []
    cell = trained["bf16"]
    options = mmlu.Options(data=DataSource(path=str(BUILTIN.parent / "quiz")), shots=2, limit=4)
    questions = mmlu.load_questions(options, make_context(Path("/")))

    class Caught:
        """The cell, but for its scores: they are not asked for."""

        job, max_context = cell.job, cell.max_context
        require_tokenizer = cell.require_tokenizer

        def score_targets(self, rows: Any, targets: Any, on_token: Any, *_: Any) -> Cost:
            sent[:] = rows, targets
            for target in targets:
                on_token(target.key, 0.0, False)
            return Cost(0, 0, 0, 0, 0)

    score_questions(Caught(), questions, "auto", make_context(Path("/")))  # type: ignore[arg-type]
    rows, targets = sent
    return rows, targets


def check_sharing(cell: Any, quiz: Any, batch_tokens: int) -> Cost:
    rows, targets = quiz
    return predict_tokens(
        cell.model, "cpu", rows, targets, lambda *_: None, BatchSize(batch_tokens)
    )


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("batch_tokens", [100, 512])
def test_rounding_is_no_false_alarm(
    trained: dict[str, Any], quiz: Any, precision: str, batch_tokens: int
) -> None:
    cost = check_sharing(trained[precision], quiz, batch_tokens)
    assert cost.unshared == ""
    assert cost.tokens_forwarded == cost.tokens_unique


@pytest.mark.parametrize("precision", ["fp32", *PRECISIONS])
def test_a_cache_that_is_wrong_is_found_in_every_precision(
    precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its keys are one token late, as off-by-one code would have them."""
    cell, rows = load(write_llama(tmp_path / "model"), precision), make_rows()
    assert predict(cell.model, rows, 100)[1].unshared == ""
    whole = OpenPath.open_cache

    def shifted(self: OpenPath) -> Any:
        layers = [(keys.roll(1, -2), values) for keys, values in self.layers]
        return whole(OpenPath(layers, self.entries, self.ends))

    monkeypatch.setattr(OpenPath, "open_cache", shifted)
    _, cost = predict(cell.model, rows, 100)
    assert "does not go on from its cache" in cost.unshared
    assert cost.tokens_forwarded == sum(map(len, rows))


@pytest.mark.parametrize(("precision", "found"), [("nf4", True), ("int8", False)])
def test_a_tenth_of_a_nat_is_too_much_unless_inputs_are_rounded_to_integers(
    trained: dict[str, Any], quiz: Any, monkeypatch: pytest.MonkeyPatch, precision: str, found: bool
) -> None:
    """nf4 stores weights in 4 bits; its products are float32's, as everything is on a CPU."""
    whole = prefix_scoring.LogitPicker.read

    def read(self: Any, ids: Any, places: Any, keep_cache: Any, *given: Any, **named: Any) -> Any:
        logits, cache = whole(self, ids, places, keep_cache, *given, **named)
        if not named and not keep_cache and not given:  # token 0 takes a tenth of a nat from all
            others = logits[:, 1:].logsumexp(-1)
            logits[:, 0] = others + math.log(math.expm1(0.1))
        return logits, cache

    monkeypatch.setattr(prefix_scoring.LogitPicker, "read", read)
    unshared = check_sharing(trained[precision], quiz, 100).unshared
    assert ("are 0.1 nats from those" in unshared) is found


def test_one_token_far_off_is_no_false_alarm_but_most_of_them_are(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model that computes a prompt whole is wrong by a nat at some of its last positions."""
    rows, whole = make_rows(), prefix_scoring.LogitPicker.read
    wrong: list[int] = []

    def read(self: Any, ids: Any, places: Any, keep_cache: Any, *given: Any, **named: Any) -> Any:
        logits, cache = whole(self, ids, places, keep_cache, *given, **named)
        if not named and not keep_cache and not given:
            logits[: wrong[-1], :50] += 3
        return logits, cache

    monkeypatch.setattr(prefix_scoring.LogitPicker, "read", read)
    for count, says in ((1, ""), (8, "on average of")):
        wrong.append(count)
        unshared = predict(llama, rows, 100)[1].unshared
        assert (says in unshared) if says else unshared == ""


def test_of_equally_likely_tokens_the_first_is_the_greedy_one(llama: Any) -> None:
    """16-bit logits tie often; `generate` takes the first."""
    model = copy.deepcopy(llama)
    row = (5, 6, 7, 8)
    with torch.no_grad():
        best = int(model(torch.tensor([row])).logits[0, -1].argmax())
        other = (best + 1) % VOCABULARY if best + 1 < VOCABULARY else best - 1
        model.lm_head.weight[other] = model.lm_head.weight[best]
    found: dict[Any, bool] = {}
    targets = [Target(0, 3, token, token) for token in (best, other)]
    predict_tokens(
        model,
        "cpu",
        [row],
        targets,
        lambda key, _, likeliest: found.update({key: likeliest}),
        BatchSize(10),
    )
    assert found == {min(best, other): True, max(best, other): False}


def test_what_follows_the_longest_prefix_may_end_before_it(llama: Any) -> None:
    """Rows that begin other rows, and targets inside a shared prefix, wanted by each of them."""
    rows: list[tuple[int, ...]] = [(5, 6, 7, 8, 9), (5, 6, 7), (5, 6, 7, 8, 20, 21), (5,)]
    found, cost = predict(llama, rows, 100)
    check_equal(found, predict_alone(llama, rows))
    assert cost.tokens_unique == 7


def test_progress_ends_with_every_row(llama: Any) -> None:
    rows, seen = make_rows(), []
    predict_tokens(
        llama,
        "cpu",
        rows,
        make_targets(rows),
        lambda *_: None,
        BatchSize(100),
        lambda *step: seen.append(step),
    )
    assert seen[-1] == (len(rows), len(rows))
    assert [done for done, _ in seen] == sorted(done for done, _ in seen)


def test_logits_are_bounded(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, sizes = make_rows(), []
    monkeypatch.setitem(prefix_scoring.LOGIT_BYTES, "cpu", 4 * VOCABULARY * 20)
    hook = llama.lm_head.register_forward_hook(
        lambda module, given, logits: sizes.append(logits[..., 0].numel())
    )
    found, _ = predict(llama, rows, 10_000)
    hook.remove()
    check_equal(found, predict_alone(llama, rows))
    assert max(sizes) <= 20


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_masks_are_bounded_and_of_the_form_that_kernels_take_without_a_copy(
    llama: Any, monkeypatch: pytest.MonkeyPatch, attention: str
) -> None:
    """Of 4 bytes a cell; room for 64 x 64, less behind a past."""
    rows, masks, cells = make_rows(), [], 64 * 64
    monkeypatch.setattr(prefix_scoring, "MASK_BYTES", 4 * cells)
    monkeypatch.setattr(llama.config, "_attn_implementation", attention)
    hook = llama.register_forward_pre_hook(
        lambda module, _, given: masks.append(given.get("attention_mask")), with_kwargs=True
    )
    found, cost = predict(llama, rows, 10_000)
    hook.remove()
    check_equal(found, predict_alone(llama, rows))
    assert cost.tokens_forwarded == cost.tokens_unique
    made = [mask for mask in masks if mask is not None]
    assert 0.8 * cells < max(mask.numel() for mask in made) <= cells
    assert max(mask.shape[3] - mask.shape[2] for mask in made) > 0
    for mask in made:
        assert mask.dtype == torch.float32
        assert mask.stride(2) % 8 == 0
        assert mask.stride(3) == 1


def test_what_is_sent_to_the_device_grows_with_a_slice_not_with_its_mask(llama: Any) -> None:
    sent: list[int] = []

    class Sent(TorchFunctionMode):
        def __torch_function__(
            self, call: Any, types: Any, given: Any = (), named: Any = None
        ) -> Any:
            named = named or {}
            if call is torch.Tensor.to and "cpu" in map(str, (*given[1:], *named.values())):
                sent.append(given[0].numel())
            return call(*given, **named)

    with Sent():
        predict(llama, make_rows(), 100)
    assert max(sent) == 100


def refuse_more_than(model: Any, tokens: int) -> Any:
    """What a card does when a batch does not fit, at the model's own door."""

    def check(module: Any, given: Any, arguments: dict[str, Any]) -> None:
        if arguments["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    return model.register_forward_pre_hook(check, with_kwargs=True)


def test_batches_shrink_when_memory_runs_out_and_report_their_size(
    llama: Any,
) -> None:
    rows = make_rows()
    hook = refuse_more_than(llama, 40)
    try:
        found, cost = predict(llama, rows, 1_000)
    finally:
        hook.remove()
    check_equal(found, predict_alone(llama, rows))
    assert cost.batch_tokens < 1_000
    assert cost.tokens_forwarded == cost.tokens_unique


def test_on_a_device_that_likes_large_batches_they_grow_until_memory_ends(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pass takes a second however large, and 80 tokens fit: 8, 16, 32, 64, then 128 fails."""
    rows, sizes = make_rows(), []
    expected, _ = predict(llama, rows, 10_000)
    clock = SimpleNamespace(now=0.0)

    def tick(module: Any, given: Any, arguments: dict[str, Any]) -> None:
        tokens = arguments["input_ids"].numel()
        if "past_key_values" in arguments or tokens == 8:  # not the check's own
            sizes.append(tokens)
        clock.now += 1
        if tokens > 80:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    monkeypatch.setattr(prefix_scoring.time, "perf_counter", lambda: clock.now)
    hook = llama.register_forward_pre_hook(tick, with_kwargs=True)
    found: dict[Any, tuple[float, bool]] = {}
    batch = BatchSize(8, grows=True)
    try:
        predict_tokens(
            llama,
            "cpu",
            rows,
            make_targets(rows),
            lambda key, *score: found.update({key: score}),
            batch,
        )
    finally:
        hook.remove()
    assert sizes[:10] == [8, 8, 16, 16, 32, 32, 64, 64, 128, 64]
    assert (batch.tokens, batch.grows) == (64, False)
    check_equal(found, expected)


def test_a_check_that_does_not_fit_tells_no_token_twice(llama: Any) -> None:
    """The whole row is longer than what any batch behind the prefix computes."""
    prefix = tuple(range(3, 53))
    rows = [(*prefix, 60 + i, 70 + i) for i in range(3)]

    def refuse(module: Any, given: Any, arguments: dict[str, Any]) -> None:
        if arguments["input_ids"].shape[1] > len(prefix):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    hook = llama.register_forward_pre_hook(refuse, with_kwargs=True)
    scored: list[Any] = []
    try:
        with pytest.raises(torch.OutOfMemoryError):
            predict_tokens(
                llama,
                "cpu",
                rows,
                make_targets(rows),
                lambda key, *_: scored.append(key),
                BatchSize(1_000),
            )
    finally:
        hook.remove()
    assert scored == []


def test_one_row_that_does_not_fit_raises(llama: Any) -> None:
    hook = refuse_more_than(llama, 10)
    try:
        with pytest.raises(torch.OutOfMemoryError):
            predict(llama, make_rows(), 1_000)
    finally:
        hook.remove()


def test_other_errors_are_not_taken_for_a_lack_of_memory(llama: Any) -> None:
    def fail(module: Any, given: Any) -> None:
        raise RuntimeError("CUDA error: device-side assert triggered")

    hook = llama.register_forward_pre_hook(fail)
    try:
        with pytest.raises(RuntimeError, match="device-side assert"):
            predict(llama, make_rows(), 1_000)
    finally:
        hook.remove()
