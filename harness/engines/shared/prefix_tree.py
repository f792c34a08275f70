"""Token sequences as a tree of the prefixes they share, laid out in one line. Pure.

The 5-shot examples of a subject, a question before its options: sequences that begin alike share
their first tokens. The tree's tokens are numbered parents before children, one branch after the
other, so that a slice of that line can be computed behind the tokens still open where it begins.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

Tokens = tuple[int, ...]
Place = tuple[int, int]  # a sequence, a position in it


@dataclass(frozen=True)
class PrefixTree:
    """Each distinct beginning of a sequence is one entry: its last token.

    ``positions`` are the tokens' positions in their sequences. Behind a token come those that
    follow it in any sequence, up to the entry numbered by its ``ends``: so ``i`` sees ``j`` where
    ``j <= i < ends[j]``. ``numbers`` are the entries of the places asked for, in their order;
    ``lasts`` those of the sequences' last tokens, ascending.
    """

    tokens: list[int]
    positions: list[int]
    ends: list[int]
    numbers: list[int]
    lasts: list[int]


def build_tree(rows: Sequence[Tokens], places: Sequence[Place] = ()) -> PrefixTree:
    """The tree of distinct, non-empty sequences, of each place the entry it has become."""
    asked: dict[int, list[int]] = {}
    for i, (number, _) in enumerate(places):
        asked.setdefault(number, []).append(i)
    tree = PrefixTree([], [], [], [0] * len(places), [])
    path: list[int] = []  # the entries of the sequence before
    before: Tokens = ()
    for number in sorted(range(len(rows)), key=rows.__getitem__):
        row = rows[number]
        shared = _count_shared(before, row)
        _close(tree, path[shared:])
        del path[shared:]
        path += range(len(tree.tokens), len(tree.tokens) + len(row) - shared)
        tree.tokens.extend(row[shared:])
        tree.positions.extend(range(shared, len(row)))
        tree.ends.extend([0] * (len(row) - shared))
        for i in asked.get(number, ()):
            tree.numbers[i] = path[places[i][1]]
        tree.lasts.append(path[-1])
        before = row
    _close(tree, path)
    return tree


def _close(tree: PrefixTree, entries: Iterable[int]) -> None:
    for entry in entries:
        tree.ends[entry] = len(tree.tokens)


def _count_shared(first: Tokens, second: Tokens) -> int:
    """How many tokens two sequences begin with alike."""
    most = min(len(first), len(second))
    if first[:most] == second[:most]:
        return most
    return next(i for i in range(most) if first[i] != second[i])
