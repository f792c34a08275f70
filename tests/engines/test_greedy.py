"""Greedy generation: the likeliest tokens in every batch, where answers end, what does not fit."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from harness.engines.base import Answer, Engine
from harness.engines.transformers.greedy import find_eos
from harness.errors import InputError
from harness.scoring.answers import Answers, generate_texts
from tests.support.cells_in_process import (
    SHAPE,
    load,
    make_context,
    write_checkpoint,
    write_tokenizer,
)

PROMPTS = (
    "Once",
    "A dog and a cat went out",
    "x",
    "The year 1999 was 12 months long, they say",
    "x y",
)


def write_gpt2(folder: Path) -> Path:
    """Absolute positions: a row whose padding counted as text would answer otherwise."""
    torch.manual_seed(3)
    config = GPT2Config(
        vocab_size=SHAPE["vocab_size"],
        n_positions=128,
        n_embd=32,
        n_layer=2,
        n_head=2,
        initializer_range=0.4,
        bos_token_id=1,
        eos_token_id=2,
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    return write_tokenizer(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("llama") / "model", seed=5)


@pytest.fixture(scope="module")
def cells(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Engine]:
    gpt2 = write_gpt2(tmp_path_factory.mktemp("gpt2") / "model")
    return {"llama": load(folder), "gpt2": load(gpt2)}


@pytest.fixture
def cell(cells: dict[str, Engine]) -> Engine:
    return cells["llama"]


def generate(
    cell: Engine,
    prompts: Any = PROMPTS,
    new: int = 24,
    stop: Any = (),
    batch_tokens: int = 4096,
    **context: Any,
) -> Answers:
    surroundings = replace(make_context(Path("/")), **context)
    return generate_texts(cell, prompts, new, stop, batch_tokens, surroundings)


def answer_of(cell: Engine, prompt: str, **given: Any) -> Answer:
    [answer] = generate(cell, [prompt], **given).answers
    assert answer is not None
    return answer


def decode_step_by_step(cell: Engine, prompt: str, new: int) -> tuple[int, ...]:
    """The likeliest token again and again, without cache, batch or padding."""
    tokenizer: Any = cell.require_tokenizer()
    ids: list[int] = tokenizer(prompt)["input_ids"]
    start = len(ids)
    with torch.inference_mode():
        while len(ids) < start + new:
            token = int(cell.model(input_ids=torch.tensor([ids])).logits[0, -1].argmax())
            if token == tokenizer.eos_token_id:
                break
            ids.append(token)
    return tuple(ids[start:])


# Batches


@pytest.mark.parametrize("kind", ["llama", "gpt2"])
def test_an_answer_is_the_same_in_every_batch_and_the_one_decoded_step_by_step(
    cells: dict[str, Engine], kind: str
) -> None:
    together = generate(cells[kind])
    alone = generate(cells[kind], batch_tokens=1)
    assert together.answers == alone.answers
    found = [answer.tokens for answer in together.answers if answer]
    assert found == [decode_step_by_step(cells[kind], prompt, 24) for prompt in PROMPTS]
    assert len(set(found)) == len(PROMPTS)


def watch_batches(cell: Engine) -> tuple[list[tuple[int, int]], Any]:
    """The shapes of the prompts' own passes, and what ends the watching."""
    shapes: list[tuple[int, int]] = []

    def see(module: Any, args: Any, kwargs: Any) -> None:
        rows, length = kwargs["input_ids"].shape
        if length > 1:
            shapes.append((rows, length))

    return shapes, cell.model.register_forward_pre_hook(see, with_kwargs=True)


def test_batches_are_bounded_by_the_tokens_of_prompts_and_answers(cell: Engine) -> None:
    prompts = ["a" * n for n in (9, 30, 9, 10, 30, 9)]  # and a beginning-of-text token each
    shapes, hook = watch_batches(cell)
    generation = generate(cell, prompts, new=10, batch_tokens=82)
    assert generation.batch_tokens == 82
    assert shapes == [(2, 31), (3, 11), (1, 10)]
    shapes.clear()
    generate(cell, prompts, new=10, batch_tokens=81)
    hook.remove()
    assert shapes == [(1, 31), (1, 31), (3, 11), (1, 10)]


def test_progress_counts_prompts(cell: Engine) -> None:
    steps: list[tuple[int, int, str]] = []
    generate(cell, new=2, batch_tokens=60, progress=lambda *step: steps.append(step))
    assert steps[-1] == (5, 5, "prompts")
    assert len(steps) > 1
    assert sorted(steps) == steps


def test_where_memory_runs_out_batches_shrink_and_the_answers_stay(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = generate(cell, ["abc", "abd", "xyz", "uvw", "a"], new=4)
    sizes: list[int] = []
    whole = cell.model.generate

    def small_device(*, input_ids: torch.Tensor, **given: Any) -> Any:
        sizes.append(len(input_ids))
        if len(input_ids) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return whole(input_ids=input_ids, **given)

    monkeypatch.setattr(cell.model, "generate", small_device)
    generation = generate(cell, ["abc", "abd", "xyz", "uvw", "a"], new=4, batch_tokens=40)
    assert generation.answers == expected.answers
    assert sizes == [5, 2, 2, 1]
    assert (expected.batch_tokens, generation.batch_tokens) == (4096, 2 * (4 + 4))


def test_one_prompt_that_does_not_fit_into_memory_raises(
    cell: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_device(**_: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(cell.model, "generate", no_device)
    with pytest.raises(torch.OutOfMemoryError):
        generate(cell, new=4)


# Greedy means greedy


def test_the_generation_settings_of_a_checkpoint_change_nothing_and_stay_its_own(
    folder: Path, cell: Engine, tmp_path: Path
) -> None:
    expected = generate(cell).answers
    common = {tokens[0] for answer in expected if answer and (tokens := answer.tokens)}
    settings = {
        "do_sample": True,
        "temperature": 5.0,
        "top_k": 3,
        "repetition_penalty": 9.0,
        "no_repeat_ngram_size": 2,
        "suppress_tokens": sorted(common),
        "min_new_tokens": 3,
        "max_new_tokens": 5,
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    other = tmp_path / "model"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    (other / "generation_config.json").write_text(json.dumps(settings))
    loaded = load(other)
    own = loaded.model.generation_config
    assert own is not None
    assert own.repetition_penalty == 9.0
    assert generate(loaded).answers == expected
    assert loaded.model.generation_config is own


# Where answers end


def test_an_answer_ends_before_any_of_the_end_of_text_tokens(folder: Path, cell: Engine) -> None:
    whole = {prompt: answer_of(cell, prompt).tokens for prompt in PROMPTS}
    ending = load(folder)
    chosen = [whole[PROMPTS[0]][7], whole[PROMPTS[1]][3]]
    ending.model.generation_config.eos_token_id = chosen  # type: ignore[union-attr]
    for prompt, answer in zip(PROMPTS, generate(ending).answers, strict=True):
        assert answer is not None
        ends = [i for i, token in enumerate(whole[prompt]) if token in chosen]
        assert answer.tokens == whole[prompt][: ends[0] if ends else 24]
        assert answer.stopped == ("eos" if ends else "length")
    assert answer_of(ending, PROMPTS[0]).stopped == "eos"


def test_the_end_of_text_tokens_are_the_checkpoints_and_the_tokenizers(folder: Path) -> None:
    loaded = load(folder)
    assert find_eos(loaded.model, loaded.tokenizer) == {2}
    loaded.model.generation_config.eos_token_id = [5, 6]  # type: ignore[union-attr]
    assert find_eos(loaded.model, loaded.tokenizer) == {2, 5, 6}


def test_an_answer_may_be_empty(folder: Path, cell: Engine) -> None:
    loaded = load(folder)
    first = answer_of(cell, "Once").tokens[0]
    loaded.model.generation_config.eos_token_id = first  # type: ignore[union-attr]
    assert answer_of(loaded, "Once") == Answer((), "", "eos")


def test_text_is_cut_at_the_first_stop_string_and_the_other_rows_go_on(
    cell: Engine,
) -> None:
    whole = [answer for answer in generate(cell).answers if answer]
    word = whole[1].text[4:7]
    late = whole[1].text[9:12]
    stopped = generate(cell, stop=[late, word]).answers
    assert stopped == generate(cell, stop=[late, word], batch_tokens=1).answers
    for before, after in zip(whole, stopped, strict=True):
        assert after is not None
        places = [before.text.find(w) for w in (word, late) if w in before.text]
        if places:
            assert (after.text, after.stopped) == (before.text[: min(places)], "stop")
            assert len(after.tokens) < 24
        else:
            assert after == before
        assert after.tokens == before.tokens[: len(after.tokens)]


def test_a_stop_string_at_the_very_end_counts(cell: Engine) -> None:
    """A token per byte: the answer of n tokens ends with what is its last."""
    whole = answer_of(cell, "Once", new=24)
    text = whole.text
    last = next(n for n in range(24, 0, -1) if text[n - 1] not in text[: n - 1])
    assert len(text) == 24
    assert answer_of(cell, "Once", new=last, stop=[text[last - 1]]).stopped == "stop"
    assert answer_of(cell, "Once", new=last - 1, stop=[text[last - 1]]).stopped == "length"


def test_of_two_stop_strings_that_end_together_the_longer_is_cut_off_too(
    cell: Engine,
) -> None:
    text = answer_of(cell, "Once").text
    last = next(n for n in range(24, 1, -1) if text[n - 1] not in text[: n - 1])
    short, long = text[last - 1], text[last - 2 : last]
    assert answer_of(cell, "Once", stop=[short, long]).text == text[: last - 2]


def test_what_ends_every_row_ends_the_batch(cell: Engine) -> None:
    steps = []
    hook = cell.model.register_forward_pre_hook(lambda *_: steps.append(1))
    text = answer_of(cell, "Once").text
    steps.clear()
    answer_of(cell, "Once", stop=[text[2]])
    hook.remove()
    assert len(steps) == text.index(text[2]) + 1


# What is put to the model


def test_a_tokenizer_needs_no_padding_token(folder: Path, cell: Engine) -> None:
    loaded = load(folder)
    tokenizer: Any = loaded.tokenizer
    tokenizer.pad_token = None
    assert tokenizer.pad_token_id is None
    assert generate(loaded).answers == generate(cell).answers


def test_a_prompt_is_put_into_the_chat_template_where_the_suite_asks_for_it(
    folder: Path, cell: Engine
) -> None:
    chat = load(folder, chat_template=True)
    tokenizer: Any = chat.tokenizer
    tokenizer.chat_template = "<s>[{{ messages[0]['content'] }}]"
    assert generate(chat, ["Once"]).answers == generate(cell, ["[Once]"]).answers


def test_a_prompt_that_leaves_no_room_is_left_out_and_counted(cell: Engine) -> None:
    fits, exceeds = "a" * 245, "a" * 246  # 256 with the beginning-of-text token and 10 new ones
    generation = generate(cell, [exceeds, fits, "b"], new=10)
    assert [answer is None for answer in generation.answers] == [True, False, False]
    assert generation.too_long == 1
    assert generation.answers[2] == answer_of(cell, "b", new=10)


def test_where_no_prompt_leaves_room_the_error_says_what_to_do(cell: Engine) -> None:
    with pytest.raises(
        InputError,
        match=r"the shortest prompt has 247 tokens; with 10 new ones that exceeds the 256 of m: "
        r"shorten it, or `max_new_tokens`",
    ):
        generate(cell, ["a" * 246, "a" * 250], new=10)


def test_a_prompt_without_a_token_is_an_error(tmp_path: Path, folder: Path) -> None:
    loaded = load(folder, tokenizer=str(write_tokenizer(tmp_path / "bare", bos=False)))
    with pytest.raises(InputError, match="the prompt '' has no tokens to start from"):
        generate(loaded, ["x", ""])


def test_no_prompts_give_no_answers(cell: Engine) -> None:
    assert generate(cell, []) == Answers((), 4096)
