"""Token sequences as a tree of the prefixes they share, so that each is computed once. Pure.

The 5-shot examples of a subject, a question before its options: sequences that begin alike hang
from one node. A node costs one pass of its own, however short it is, so those that save least are
folded into their children as long as that adds few tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby

Tokens = tuple[int, ...]
# Tokens that may be computed twice for the sake of fewer passes, as a share of the unique ones.
_SPARE = 0.04


@dataclass(eq=False)
class Node:
    """``tokens`` from position ``start`` on, shared by everything below; ``rows`` end here."""

    tokens: Tokens
    start: int
    children: list[Node] = field(default_factory=list)
    rows: list[int] = field(default_factory=list)

    @property
    def stop(self) -> int:
        return self.start + len(self.tokens)

    @property
    def covered(self) -> list[int]:
        """The rows that go through this node."""
        return [*self.rows, *(row for child in self.children for row in child.covered)]


@dataclass(frozen=True)
class PrefixTree:
    """``unique`` tokens of the full tree (the trie's size), ``forwarded`` ones of this one."""

    root: Node
    unique: int
    forwarded: int


def build_tree(rows: Sequence[Tokens], share: bool = True) -> PrefixTree:
    """The tree of distinct, non-empty sequences; with ``share`` off each is a child of the root.

    ``forwarded`` stays within 4 % of ``unique`` where prefixes are shared.
    """
    order = sorted(range(len(rows)), key=rows.__getitem__)
    root = Node((), 0)
    root.children = _split(rows, order, 0)
    unique = _count(root)
    if share:
        _fold_least(root, int(unique * _SPARE))
    else:
        root.children = [Node(tuple(rows[i]), 0, rows=[i]) for i in order]
    return PrefixTree(root, unique, _count(root))


def _split(rows: Sequence[Tokens], order: list[int], depth: int) -> list[Node]:
    """Nodes for sorted rows that agree up to ``depth`` and go on behind it."""
    nodes = []
    for _, group in groupby(order, key=lambda row: rows[row][depth]):
        members = list(group)
        stop = _common(rows[members[0]], rows[members[-1]], depth)
        node = Node(tuple(rows[members[0]][depth:stop]), depth)
        node.rows = [row for row in members if len(rows[row]) == stop]
        node.children = _split(rows, [row for row in members if len(rows[row]) > stop], stop)
        nodes.append(node)
    return nodes


def _common(first: Tokens, last: Tokens, depth: int) -> int:
    """How far two sequences agree; of sorted ones, so does everything between them."""
    stop = depth
    while stop < min(len(first), len(last)) and first[stop] == last[stop]:
        stop += 1
    return stop


def _count(node: Node) -> int:
    return len(node.tokens) + sum(map(_count, node.children))


def _fold_least(root: Node, budget: int) -> None:
    """Fold the nodes that save least into their children until ``budget`` tokens are spent."""
    folded = True
    while folded:
        folded = False
        for parent, node in sorted(_foldable(root), key=lambda pair: _cost(pair[1])):
            cost = _cost(node)
            if cost > budget or node not in parent.children or not node.children:
                continue
            parent.children.remove(node)
            parent.children += [
                Node(node.tokens + child.tokens, node.start, child.children, child.rows)
                for child in node.children
            ]
            node.children = []
            budget -= cost
            folded = True


def _foldable(node: Node) -> list[tuple[Node, Node]]:
    """Pairs of parent and child where the child has children and no sequence ends in it."""
    found = []
    for child in node.children:
        if child.children and not child.rows:
            found.append((node, child))
        found += _foldable(child)
    return found


def _cost(node: Node) -> int:
    return len(node.tokens) * (len(node.children) - 1)
