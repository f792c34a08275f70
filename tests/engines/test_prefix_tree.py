"""The tree of shared prefixes: what it holds, what folding may cost."""

from __future__ import annotations

import itertools
import random

import pytest

from harness.engines.shared.prefix_tree import Node, PrefixTree, build_tree

Rows = list[tuple[int, ...]]


def spell(node: Node, before: tuple[int, ...] = ()) -> dict[int, tuple[int, ...]]:
    """Each row as the path from the root to the node where it ends."""
    here = before + node.tokens
    assert node.start == len(before)
    found = dict.fromkeys(node.rows, here)
    for child in node.children:
        below = spell(child, here)
        assert not found.keys() & below.keys()
        found |= below
    return found


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
@pytest.mark.parametrize("share", [True, False])
def test_every_row_is_spelled_once_and_as_it_is(seed: int, share: bool) -> None:
    rows = random_rows(seed)
    assert spell(build_tree(rows, share).root) == dict(enumerate(rows))


@pytest.mark.parametrize("seed", range(20))
def test_unique_is_the_trie_and_forwarded_stays_within_four_per_cent(seed: int) -> None:
    rows = random_rows(seed)
    tree = build_tree(rows)
    assert tree.unique == size_of_trie(rows)
    assert tree.unique <= tree.forwarded <= 1.04 * tree.unique
    assert build_tree(rows, share=False).forwarded == sum(map(len, rows))
    assert build_tree(rows, share=False).unique == tree.unique


def count_nodes(tree: PrefixTree) -> int:
    def below(node: Node) -> int:
        return 1 + sum(map(below, node.children))

    return below(tree.root)


def test_a_node_that_saves_little_is_folded_into_its_children() -> None:
    """100 shared tokens are worth a pass of their own; the 7 that two of the rest share is not."""
    shared = tuple(range(100, 200))
    rows = [(*shared, 7, 1), (*shared, 7, 2), (*shared, 8, 1)]
    tree = build_tree(rows)
    [prefix] = tree.root.children
    assert prefix.tokens == shared
    assert sorted(child.tokens for child in prefix.children) == [(7, 1), (7, 2), (8, 1)]
    assert (tree.unique, tree.forwarded) == (105, 106)


def test_a_node_that_costs_more_than_may_be_spared_stays() -> None:
    rows = [(*range(10), tail) for tail in (20, 21)]
    tree = build_tree(rows)
    assert (tree.unique, tree.forwarded) == (12, 12)
    assert count_nodes(tree) == 4


def test_a_row_that_begins_another_ends_inside_the_tree() -> None:
    tree = build_tree([(1, 2, 3), (1, 2), (1, 2, 3, 4)])
    assert (tree.unique, tree.forwarded) == (4, 4)
    [first] = tree.root.children
    assert (first.tokens, first.rows) == ((1, 2), [1])
    assert first.covered == [1, 0, 2]


def test_nothing_shared_is_one_node_per_row() -> None:
    rows = [(i, *range(5)) for i in range(4)]
    tree = build_tree(rows)
    assert tree.unique == tree.forwarded == 24
    assert count_nodes(tree) == 5


def test_a_thousand_levels_deep_is_no_trouble() -> None:
    """Each row one token longer than the last, as a list of prefixes would be."""
    rows = [tuple(range(n)) for n in range(1, 500)]
    tree = build_tree(rows)
    assert tree.unique == 499
    assert spell(tree.root) == dict(enumerate(rows))


def test_the_order_of_rows_does_not_matter() -> None:
    rows = random_rows(99)[:6]
    sizes = {build_tree(list(order)).forwarded for order in itertools.permutations(rows)}
    assert len(sizes) == 1
