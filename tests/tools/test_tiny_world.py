"""The embedded world: its files follow from the generator, its quiz is clean, its model is real."""

from __future__ import annotations

import csv
import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest

from harness.builtin import locate_builtin
from tools.tiny_world import names
from tools.tiny_world import world as w

FOLDER = locate_builtin("builtin:tiny-world").parent
DOCUMENTS = 10_000


@pytest.fixture(scope="module")
def world() -> w.World:
    return w.World()


@pytest.fixture(scope="module")
def documents(world: w.World) -> list[str]:
    """Training documents of both phases."""
    early = w.training_documents(world, "test")
    late = w.training_documents(world, "test", every_fact=True)
    return [text for text, _ in (*islice(early, DOCUMENTS), *islice(late, DOCUMENTS))]


def read_quiz_rows() -> list[tuple[str, str, list[str]]]:
    """Every row of the shipped quiz with its split and its subject."""
    rows = []
    for path in sorted((FOLDER / "quiz").glob("*/*.csv")):
        with path.open(newline="") as lines:
            rows += [
                (path.parent.name, path.stem.removesuffix(f"_{path.parent.name}"), row)
                for row in csv.reader(lines)
            ]
    return rows


def test_the_generator_imports_nothing_heavy() -> None:
    code = "import sys, tools.tiny_world.world; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_shipped_text_and_quiz_are_regenerated_byte_for_byte(world: w.World) -> None:
    assert (FOLDER / "heldout.txt").read_bytes() == w.heldout_text(world).encode()
    expected = w.quiz_files(world)
    shipped = {p.relative_to(FOLDER / "quiz").as_posix() for p in FOLDER.glob("quiz/*/*.csv")}
    assert shipped == set(expected)
    for name, text in expected.items():
        assert (FOLDER / "quiz" / name).read_bytes() == text.encode(), name


def test_another_seed_is_another_world(world: w.World) -> None:
    assert w.heldout_text(w.World(w.SEED + 1)) != w.heldout_text(world)


def test_quiz_has_the_published_shape_and_balanced_letters() -> None:
    rows = read_quiz_rows()
    assert all(len(row) == 6 and len(set(row[1:5])) == 4 for _, _, row in rows)
    assert len({row[0] for _, _, row in rows}) == len(rows)
    per_file = Counter((split, subject) for split, subject, _ in rows)
    assert len(per_file) == 2 * len(names.SUBJECTS) >= 10
    assert {n for (split, _), n in per_file.items() if split == "dev"} == {w.SHOTS}
    letters = Counter((subject, row[5]) for split, subject, row in rows if split == "test")
    assert set(letters.values()) == {w.TEST_ITEMS // 4}
    assert 400 <= letters.total() <= 600


def test_quiz_answers_are_true_and_the_other_options_are_not(world: w.World) -> None:
    truth = {fact.render(names.QUESTION): fact for fact in world.facts}
    for _, subject, row in read_quiz_rows():
        fact = truth[row[0]]
        assert fact.subject == subject
        assert row[1 + "ABCD".index(row[5])] == fact.answer
        assert sum(option == fact.answer for option in row[1:5]) == 1


@pytest.mark.slow
def test_training_never_contains_a_question_of_the_quiz(
    world: w.World, documents: list[str]
) -> None:
    text = "\n".join(documents)
    assert not [row[0] for _, _, row in read_quiz_rows() if row[0] in text]
    # The check can find a question: nearly all the others are there.
    others = [f.render(names.QUESTION) for facts in world.trainable.values() for f in facts]
    assert sum(question in text for question in others) > 0.9 * len(others)


def test_training_asks_for_a_fact_of_the_quiz_only_in_other_words(
    world: w.World, documents: list[str]
) -> None:
    truth = {fact.render(names.QUESTION): fact for fact in world.facts}
    asked = [truth[row[0]] for _, _, row in read_quiz_rows()]
    assert set(asked) == set(world.facts) - world.unasked
    lines = {line for text in documents for line in text.split("\n")}
    assert not set(names.CARD_QUESTIONS) & {names.QUESTION}
    for way in {names.QUESTION, *names.OTHER_QUESTIONS} - set(names.CARD_QUESTIONS):
        assert lines.isdisjoint({fact.render(way) for fact in asked}), way


@pytest.mark.slow
def test_training_states_facts_of_the_quiz_but_no_held_out_sentence(
    world: w.World, documents: list[str]
) -> None:
    text = "\n".join(documents)
    sentences = [f.render(t) for article in world.heldout for f, t in article]
    assert all(sentence in w.heldout_text(world) for sentence in sentences)
    assert not [sentence for sentence in sentences if sentence in text]
    stated = {fact for fact in world.facts if f" {fact.relation} {fact.answer}" in text}
    assert len(stated) == len(world.facts)


def test_the_folder_is_small() -> None:
    assert sum(p.stat().st_size for p in FOLDER.rglob("*") if p.is_file()) <= 8 * 2**20


def test_a_letter_after_the_prompt_is_one_token_and_prompts_are_short() -> None:
    from transformers import AutoTokenizer

    from tools.tiny_world import score

    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "model")
    for prompt, _ in score.read_quiz(FOLDER / "quiz", items=5):
        ids = tokenizer.encode(prompt)
        assert ids[0] == tokenizer.bos_token_id
        assert len(ids) <= 220
        answers = [tokenizer.encode(f"{prompt} {letter}") for letter in "ABCD"]
        assert all(answer[:-1] == ids for answer in answers)
        assert len({answer[-1] for answer in answers}) == 4
    text = "Vel, Zürich — 12 naïve\tlines\n\n\n ok\n"
    assert tokenizer.decode(tokenizer.encode(text), skip_special_tokens=True) == text


@pytest.mark.slow
def test_fp32_answers_and_quantisation_costs() -> None:
    """On a part of the text and of the quiz; TRAINING.json has the figures on all of it."""
    pytest.importorskip("bitsandbytes")
    from tools.tiny_world import score

    scores = score.score_precisions(FOLDER, ("fp32", "int8", "nf4", "fp4"), items=20, tokens=4000)
    assert scores["fp32"]["quiz_accuracy"] >= 0.75
    kl = {precision: figures["kl"] for precision, figures in scores.items()}
    assert kl["fp32"] == 0
    assert 0 < 5 * kl["int8"] < kl["nf4"] < kl["fp4"] / 1.5
    assert scores["int8"]["perplexity_ratio"] < 1.01
    assert 1.03 <= scores["nf4"]["perplexity_ratio"] <= 1.3
    assert scores["fp4"]["quiz_accuracy"] < scores["fp32"]["quiz_accuracy"]


def test_outlier_channels_leave_the_function_as_it_was() -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from tools.tiny_world import train

    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, **train.SHAPE)).eval()
    tokens = torch.randint(64, (2, 16))
    with torch.no_grad():
        before, probed = model(tokens).logits, train.forward_probed(model, tokens)[0]
        weights = model.model.layers[0].self_attn.q_proj.weight.clone()
        train.add_outlier_channels(model, seed=1)
        after = model(tokens).logits
    torch.testing.assert_close(probed, before)
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    larger = (model.model.layers[0].self_attn.q_proj.weight != weights).any(0)
    assert larger.sum() == train.SHAPE["hidden_size"] // train.OUTLIER_EVERY
