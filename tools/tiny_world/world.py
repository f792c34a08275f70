"""An invented world: its facts, the texts that state them and the quiz that asks for them.

Everything follows from one seed and the standard library's generator, so the held-out text and the
quiz can be made again byte for byte. Facts are triples (entity, relation, answer). Entities carry
names of two parts ("Vel" + "mora", "Orla Venn"), each part shared by many entities, so that a model
cannot keep a fact in the embedding of a name and has to store it in its linear layers, the ones a
quantiser touches. What it lacks: grammar beyond templates, numbers, reasoning over several facts.
"""

from __future__ import annotations

import csv
import io
import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from tools.tiny_world.names import (
    BEAST_PARTS,
    BOOK_PARTS,
    CALLED,
    CARD_QUESTIONS,
    COUNTRY_PARTS,
    OTHER_QUESTIONS,
    PERSON_PARTS,
    POOLS,
    QUESTION,
    SENTENCES,
    SUBJECTS,
    make_names,
)

SEED = 20
LETTERS = "ABCD"
SHOTS = 5
TEST_ITEMS = 84  # per subject, a multiple of 4
HELDOUT_ARTICLES = 230
ARTICLE_FACTS = 4


@dataclass(frozen=True)
class Fact:
    """One thing that is true in the world; `pool` names the answers it could have had."""

    subject: str
    entity: str
    relation: str
    answer: str
    pool: str

    def render(self, template: str) -> str:
        """Fill one of the sentence or question templates."""
        return template.format(r=self.relation, e=self.entity, a=self.answer)


@dataclass(frozen=True)
class Question:
    """One multiple-choice item; `options` in the order A to D."""

    fact: Fact
    text: str
    options: tuple[str, ...]

    @property
    def letter(self) -> str:
        """The letter of the true answer."""
        return LETTERS[self.options.index(self.fact.answer)]

    def render(self, with_letter: bool = True) -> str:
        """Lay the item out as MMLU does, up to "Answer:" or with the letter and a blank line."""
        lines = [self.text, *(f"{letter}. {o}" for letter, o in zip(LETTERS, self.options))]
        return "\n".join(lines) + "\nAnswer:" + (f" {self.letter}\n\n" if with_letter else "")


def render_header(subject: str) -> str:
    """Return the sentence that opens every MMLU prompt."""
    topic = subject.replace("_", " ")
    return f"The following are multiple choice questions (with answers) about {topic}.\n\n"


class World:
    """The facts, split into those quizzed in training and those kept for the published quiz."""

    def __init__(self, seed: int = SEED) -> None:
        """Invent the world of this seed."""
        rng = random.Random(seed)
        self.seed = seed
        self.entities = {
            "country": make_names(*COUNTRY_PARTS, 90, "", rng),
            "person": make_names(*PERSON_PARTS, 150, " ", rng),
            "beast": make_names(*BEAST_PARTS, 90, " ", rng),
            "book": make_names(*BOOK_PARTS, 90, " ", rng),
        }
        self.facts: list[Fact] = []
        for subject, (kind, relations) in SUBJECTS.items():
            for relation, pool in relations.items():
                answers = [rng.choice(POOLS[pool]) for _ in self.entities[kind]]
                if relation == "capital":  # no two countries share one
                    answers = rng.sample(POOLS[pool], len(answers))
                for name, answer in zip(self.entities[kind], answers):
                    entity = CALLED[kind].format(name)
                    self.facts.append(Fact(subject, entity, relation, answer, pool))
        self.by_subject = {s: [f for f in self.facts if f.subject == s] for s in SUBJECTS}
        self.by_entity: dict[str, list[Fact]] = {}
        for fact in self.facts:
            self.by_entity.setdefault(fact.entity, []).append(fact)
        self.names = list(self.by_entity)
        self.quiz = {s: self._draw_quiz(s, rng) for s in SUBJECTS}
        asked = {q.fact for dev, test in self.quiz.values() for q in dev + test}
        self.unasked = set(self.facts) - asked
        self.trainable = {s: [f for f in self.by_subject[s] if f not in asked] for s in SUBJECTS}

    def _draw_quiz(self, subject: str, rng: random.Random) -> tuple[list[Question], list[Question]]:
        """Draw the dev and the test items of a subject, the letters balanced in the test."""
        facts = rng.sample(self.by_subject[subject], SHOTS + TEST_ITEMS)
        letters = [LETTERS[i % 4] for i in range(TEST_ITEMS)]
        rng.shuffle(letters)
        letters = [*rng.sample(LETTERS, 4), rng.choice(LETTERS), *letters]
        items = [make_question(f, f.render(QUESTION), rng, le) for f, le in zip(facts, letters)]
        return items[:SHOTS], items[SHOTS:]

    @cached_property
    def heldout(self) -> list[list[tuple[Fact, str]]]:
        """The held-out articles: for each, the facts and the template each is stated with."""
        rng = random.Random(f"{self.seed}/heldout")
        articles = []
        for entity in rng.sample(self.names, HELDOUT_ARTICLES):
            facts = rng.sample(self.by_entity[entity], ARTICLE_FACTS)
            articles.append([(fact, rng.choice(SENTENCES)) for fact in facts])
        return articles

    @cached_property
    def reserved(self) -> set[tuple[Fact, str]]:
        """Return the sentences of the held-out text, which training must never state."""
        return {pair for article in self.heldout for pair in article}

    def state_fact(self, fact: Fact, rng: random.Random) -> str:
        """State a fact in a sentence that the held-out text does not contain."""
        while (fact, template := rng.choice(SENTENCES)) in self.reserved:
            pass
        return fact.render(template)


def make_question(fact: Fact, text: str, rng: random.Random, letter: str = "") -> Question:
    """Ask for a fact among three others of its pool, the true answer at `letter` or anywhere."""
    options = rng.sample([a for a in POOLS[fact.pool] if a != fact.answer], 3)
    options.insert(LETTERS.index(letter) if letter else rng.randrange(4), fact.answer)
    return Question(fact, text, tuple(options))


def heldout_text(world: World) -> str:
    """Return the text for perplexity: articles separated by blank lines."""
    articles = [" ".join(f.render(t) for f, t in article) for article in world.heldout]
    return "\n\n".join(articles) + "\n"


def quiz_files(world: World) -> dict[str, str]:
    """Return the quiz as the published MMLU files: relative path to the text of the csv."""
    files = {}
    for subject, splits in world.quiz.items():
        for split, questions in zip(("dev", "test"), splits):
            out = io.StringIO()
            rows = csv.writer(out, lineterminator="\n")
            rows.writerows([q.text, *q.options, q.letter] for q in questions)
            files[f"{split}/{subject}_{split}.csv"] = out.getvalue()
    return files


def training_article(world: World, rng: random.Random) -> str:
    """State some facts of one entity in random order, in sentences or as a terse entry."""
    facts = world.by_entity[rng.choice(world.facts).entity]
    chosen = rng.sample(facts, min(len(facts), rng.randint(3, 8)))
    if rng.random() < 0.5:
        entry = ", ".join(f"{f.relation} {f.answer}" for f in chosen)
        return f"The entry of {chosen[0].entity} reads: {entry}."
    return " ".join(world.state_fact(f, rng) for f in chosen)


def ask_fact(world: World, fact: Fact, rng: random.Random) -> str:
    """Ask for a fact in one of many ways; for one of the published quiz, never in a quiz's way."""
    if fact not in world.unasked:
        return fact.render(rng.choice(CARD_QUESTIONS))
    return fact.render(QUESTION if rng.random() < 0.5 else rng.choice(OTHER_QUESTIONS))


def training_cards(world: World, rng: random.Random, items: int = 8) -> str:
    """Ask for facts of one subject and answer in words, without options."""
    subject = rng.choice(list(SUBJECTS))
    facts = rng.sample(world.by_subject[subject], items)
    cards = [f"{ask_fact(world, fact, rng)}\nAnswer: {fact.answer}" for fact in facts]
    return (render_header(subject) if rng.random() < 0.5 else "") + "\n\n".join(cards)


def training_quiz(
    world: World, rng: random.Random, stated: float, every_fact: bool, items: int = 6
) -> str:
    """Ask `items` questions of one subject; each is preceded by its fact with chance `stated`."""
    subject = rng.choice(list(SUBJECTS))
    parts = [render_header(subject)]
    facts = world.by_subject[subject] if every_fact else world.trainable[subject]
    for fact in rng.sample(facts, items):
        if rng.random() < stated:
            parts.append(world.state_fact(fact, rng) + "\n")
        parts.append(make_question(fact, ask_fact(world, fact, rng), rng).render())
    return "".join(parts).rstrip("\n")


def training_documents(
    world: World,
    seed: str,
    quiz: float = 0.35,
    cards: float = 0.2,
    stated: float = 0.5,
    every_fact: bool = False,
) -> Iterator[tuple[str, bool]]:
    """Yield training documents without end, each with whether it is a quiz.

    `quiz` and `cards` are shares of the documents, the rest are articles; `stated` is the share of
    quiz questions whose fact is stated just before. With `every_fact` quizzes also ask for facts
    of the published quiz, but in other words: none of its questions ever occurs.
    """
    rng = random.Random(f"{world.seed}/training/{seed}")
    while True:
        kind = rng.random()
        if kind < quiz:
            yield training_quiz(world, rng, stated, every_fact), True
        elif kind < quiz + cards:
            yield training_cards(world, rng), False
        else:
            yield training_article(world, rng), False
