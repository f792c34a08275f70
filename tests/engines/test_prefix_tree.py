"""The tree of shared prefixes: what it holds, and what each of its tokens sees."""

from __future__ import annotations

import itertools
import random

import pytest

from harness.engines.shared.prefix_tree import PrefixTree, build_tree

Rows = list[tuple[int, ...]]


def spell(tree: PrefixTree, entry: int) -> tuple[int, ...]:
    """The tokens that an entry sees, in order, itself included."""
    seen = [i for i in range(entry + 1) if entry < tree.ends[i]]
    assert [tree.positions[i] for i in seen] == list(range(len(seen)))
    return tuple(tree.tokens[i] for i in seen)


def size_of_trie(rows: Rows) -> int:
    """Distinct non-empty prefixes: the definition, by brute force."""
    return len({row[:stop] for row in rows for stop in range(1, len(row) + 1)})


def random_rows(seed: int) -> Rows:
    """Shared beginnings of various lengths, and rows that are the beginning of others."""
    rng = random.Random(seed)
    shared = [tuple(rng.choices(range(50), k=rng.randint(1, 60))) for _ in range(3)]
    rows = {
        rng.choice(shared)[: rng.randint(1, 60)] + tuple(rng.choices(range(3), k=rng.randint(0, 9)))
        for _ in range(40)
    }
    return [row for row in rows if row]


@pytest.mark.parametrize("seed", range(20))
def test_every_place_sees_its_own_row_and_nothing_else(seed: int) -> None:
    rows = random_rows(seed)
    rows = list(dict.fromkeys(rows))
    places = [(row, len(rows[row]) - 1) for row in range(len(rows))]
    places += [(row, len(rows[row]) // 2) for row in range(len(rows))]
    tree = build_tree(rows, places)
    for (row, position), entry in zip(places, tree.numbers, strict=True):
        assert spell(tree, entry) == rows[row][: position + 1]


@pytest.mark.parametrize("seed", range(20))
def test_each_distinct_beginning_is_one_entry(seed: int) -> None:
    rows = random_rows(seed)
    tree = build_tree(rows)
    assert len(tree.tokens) == size_of_trie(rows)
    assert len({spell(tree, i) for i in range(len(tree.tokens))}) == len(tree.tokens)
    assert len(tree.lasts) == len(rows)
    assert tree.lasts == sorted(tree.lasts)


def test_the_line_of_a_small_tree() -> None:
    """1 2, then 3 4 and 5 behind it, then 9 alone; the row (1, 2) ends inside."""
    tree = build_tree([(1, 2, 5), (9,), (1, 2, 3, 4), (1, 2)], [(0, 2), (1, 0), (2, 0), (3, 1)])
    assert tree.tokens == [1, 2, 3, 4, 5, 9]
    assert tree.positions == [0, 1, 2, 3, 2, 0]
    assert tree.ends == [5, 5, 4, 4, 5, 6]
    assert tree.numbers == [4, 5, 0, 1]
    assert tree.lasts == [1, 3, 4, 5]


def test_a_thousand_levels_deep_is_no_trouble() -> None:
    """Each row one token longer than the last, as a list of prefixes would be."""
    rows = [tuple(range(n)) for n in range(1, 1000)]
    tree = build_tree(rows)
    assert tree.tokens == list(range(999))
    assert tree.lasts == list(range(999))


def test_the_order_of_rows_does_not_matter() -> None:
    rows = random_rows(99)[:6]
    trees = [build_tree(list(order)) for order in itertools.permutations(rows)]
    assert all(tree == trees[0] for tree in trees)
