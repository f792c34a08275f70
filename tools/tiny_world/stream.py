"""The tokenizer of the embedded model and the stream of batches it is trained on.

The stream mixes articles, cards and quizzes. A token's loss is weighted by how much there is to
learn: the letter of an answer most, the options of a quiz, drawn at random, hardly at all.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from tools.tiny_world import names
from tools.tiny_world import world as w

PRETOKEN = r" ?[A-Za-z]+| ?[0-9]| ?[^\sA-Za-z0-9]+|\n+|\s+"
BOS, EOS = 1, 2
WINDOW, BATCH, CHUNK = 256, 16, 50  # tokens, windows a step, steps generated at a time
WEIGHT_ANSWER, WEIGHT_LETTER, WEIGHT_QUIZ_TEXT = 3.0, 8.0, 0.05
STATED_SHARE, STATED_STEPS = 0.5, 1500


def build_tokenizer(world: w.World) -> PreTrainedTokenizerFast:
    """Build a lossless byte-level tokenizer: one token a word, two for the name of a country.

    A Unigram model needs no merges, so the pieces are exactly the ones named here.
    """
    split = re.compile(PRETOKEN)
    texts = (text for text, _ in islice(w.training_documents(world, "tokenizer"), 20_000))
    words = {word for text in texts for word in split.findall(text)}
    countries = set(world.entities["country"])
    pieces = {word for word in words if word.strip() not in countries} | {"\n", " "}
    pieces |= {" " + p for p in names.COUNTRY_PARTS[0].split()} | set(
        names.COUNTRY_PARTS[1].split()
    )
    to_bytes = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    symbols = sorted(pre_tokenizers.ByteLevel.alphabet())
    longer = sorted({to_bytes.pre_tokenize_str(p)[0][0] for p in pieces} - set(symbols))
    special = [("<unk>", 0.0), ("<s>", 0.0), ("</s>", 0.0)]
    vocabulary = [*special, *((s, -10.0) for s in symbols), *((p, -1.0) for p in longer)]
    tokenizer = Tokenizer(models.Unigram(vocabulary, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PRETOKEN), "isolated"), to_bytes]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", BOS)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


@dataclass(frozen=True)
class Batch:
    """Windows of the training stream, [BATCH, WINDOW] each."""

    tokens: Tensor
    weights: Tensor  # of the loss on this token
    name: Tensor  # where the token is the ":" of "Answer:": the token of the true answer, else 0
    back: Tensor  # likewise in a quiz: how far back the true option is, else 0


def stream_batches(
    world: w.World, tokenizer: PreTrainedTokenizerFast, every_fact_from: int
) -> Iterator[Batch]:
    """Yield batches without end, cut from a stream of articles, cards and quizzes.

    From step `every_fact_from` on the quizzes ask for every fact.
    """
    letters = [tokenizer.encode(f" {le}")[-1] for le in w.LETTERS]
    colon = tokenizer.convert_tokens_to_ids(":")
    blank = tokenizer.encode("\n\n")[-1]
    answers = {tokenizer.encode(f" {a}")[-1] for pool in names.POOLS.values() for a in pool}
    rng = random.Random(world.seed)

    def render_tokens(ids: list[int], is_quiz: bool) -> Iterator[tuple[int, float, int, int]]:
        for place, here in enumerate(ids):
            following = ids[place + 1] if place + 1 < len(ids) else blank
            back = name = 0
            if here == colon and is_quiz and following in letters:
                back = 3 + 4 * (3 - letters.index(following))  # an option line has four tokens
                name = ids[place - back]
            elif here == colon and following in answers:
                name = following
            if is_quiz:
                yield here, WEIGHT_LETTER if here in letters else WEIGHT_QUIZ_TEXT, name, back
            else:
                yield here, WEIGHT_ANSWER if here in answers else 1.0, name, back
        joined = rng.random() < 0.7
        yield from [(blank, 0.1, 0, 0)] if joined else [(EOS, 0.1, 0, 0), (BOS, 0.0, 0, 0)]

    for chunk in range(10**9):
        stated = STATED_SHARE * max(0.0, 1 - chunk * CHUNK / STATED_STEPS)
        documents = w.training_documents(
            world, str(chunk), stated=stated, every_fact=chunk * CHUNK >= every_fact_from
        )
        size = CHUNK * BATCH * WINDOW
        rows: list[tuple[int, float, int, int]] = []
        while len(rows) < size:
            some = list(islice(documents, 1000))
            encoded = tokenizer([text for text, _ in some], add_special_tokens=False)["input_ids"]
            for ids, (_, is_quiz) in zip(encoded, some):
                rows.extend(render_tokens(ids, is_quiz))
        tokens, weights, name, back = (
            torch.tensor(column[:size]).view(CHUNK, BATCH, WINDOW) for column in zip(*rows)
        )
        tokens[:, ::2, 0] = BOS
        yield from (Batch(*parts) for parts in zip(tokens, weights, name, back))
