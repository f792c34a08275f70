"""A YAML file as plain values, and where in the file each of them is.

Accepts one document of mappings with text keys, lists, strings, finite numbers, booleans and null,
with anchors and merge keys (``<<``). Refuses duplicate keys and tags. Knows nothing of suites.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

from harness.suite.yaml_syntax import (
    MAX_DEPTH,
    Loader,
    Problem,
    TooLargeError,
    describe_syntax_error,
    end_of,
)

Location = tuple["str | int", ...]

_CORE = "tag:yaml.org,2002:"
_MERGE = _CORE + "merge"
_MAX_VALUES = 200_000  # a few nested aliases can stand for more values than fit in memory


class _Built(NamedTuple):
    """A node's value, the number of values in it with aliases expanded, and its depth."""

    value: Any
    size: int = 1
    depth: int = 0


class YamlFile:
    """A file's value and what is wrong with it, as YAML and then as what it should hold.

    A location is the path of keys and indices from the top: ``("models", 0, "name")``. Positions
    are looked up in the tree of YAML nodes when a problem is reported.
    """

    def __init__(self, content: bytes) -> None:
        self.value: Any = None
        self.problems: list[Problem] = []
        self._root: Node | None = None
        self._built: dict[int, _Built | None] = {}  # by the node's id; None: not yet finished
        self._refused: set[int] = set()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = content[: error.start].decode("utf-8", errors="replace")
            message = f"not UTF-8 text: byte 0x{content[error.start]:02x}; save the file as UTF-8"
            self.problems.append(Problem(*end_of(before), message))
            return
        try:
            self._loader = Loader(text)
            self._root = self._loader.get_single_node()
            if self._root is not None:
                self.value = self._build(self._root).value
        except ReaderError as error:
            message = f"the character U+{error.character:04X} is not allowed"
            self.problems.append(Problem(*end_of(text[: error.position]), message))
        except yaml.MarkedYAMLError as error:
            self.problems.append(describe_syntax_error(error, text))

    def place(self, location: Location, of_key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of the value (or key) there, or else of its nearest parent."""
        path = self._walk(location)
        key, node = path[-1]
        left_out = isinstance(node, ScalarNode) and node.value == "" and not node.style
        if key is not None and (left_out or (of_key and len(path) > len(location))):
            node = key
        return (node.start_mark.line + 1, node.start_mark.column + 1) if node else (1, 1)

    def text(self, location: Location) -> str | None:
        """A scalar as it is written in the file, before it became a number or a boolean."""
        path = self._walk(location)
        node = path[-1][1]
        found = len(path) > len(location) and isinstance(node, ScalarNode)
        return str(node.value) if found and node is not None else None

    def report(
        self,
        location: Location,
        message: str,
        *,
        key: str | None = None,
        value_of: str | None = None,
    ) -> None:
        """Note a mistake in the value at ``location``, unless that was refused as YAML already.

        ``key`` or ``value_of`` is a key in that mapping to point at, or to the value of.
        """
        inside = [part for part in (key, value_of) if part is not None]
        path = (*location, *inside)
        if not any(id(node) in self._refused for _, node in self._walk(path)):
            place = self.place(path, of_key=key is not None)
            self.problems.append(Problem(*place, _prefix(location, message)))

    def _walk(self, location: Location) -> list[tuple[Node | None, Node | None]]:
        """Key and value nodes along a location, from the top, as far as it goes."""
        path: list[tuple[Node | None, Node | None]] = [(None, self._root)]
        for part in location:
            step = _find_child(path[-1][1], part)
            if step is None:
                break
            path.append(step)
        return path

    def _build(self, node: Node) -> _Built:
        """The value of a node; of one that several aliases name, built once."""
        if id(node) in self._built:
            built = self._built[id(node)]
            if built is None:
                raise _too_large(node, "this anchor contains an alias of itself")
            return built
        self._built[id(node)] = None
        if isinstance(node, ScalarNode):
            built = _Built(self._read_scalar(node))
        elif node.tag not in (_CORE + "map", _CORE + "seq"):
            self._refuse_tag(node)
            built = _Built(None)
        elif isinstance(node, MappingNode):
            built = self._build_mapping(node)
        else:
            items = [self._build(item) for item in node.value]
            built = _measure([item.value for item in items], items)
        if built.size > _MAX_VALUES:
            raise _too_large(node, f"more than {_MAX_VALUES:,} values after expanding aliases")
        if built.depth > MAX_DEPTH:
            raise _too_large(node, f"nested more than {MAX_DEPTH} deep through aliases")
        self._built[id(node)] = built
        return built

    def _build_mapping(self, node: MappingNode) -> _Built:
        own: dict[str, _Built] = {}
        merged: list[_Built] = []
        seen: dict[str, Node] = {}
        for key_node, value_node in node.value:
            key = self._read_key(key_node)
            if key is None:
                continue
            if key in seen:
                mark = seen[key].start_mark
                first = f"first given at {mark.line + 1}:{mark.column + 1}"
                self._refuse(key_node, f"duplicate key {key!r}; {first}")
                continue
            seen[key] = key_node
            if key_node.tag != _MERGE:
                own[key] = self._build(value_node)
                continue
            for source in _merge_sources(value_node):
                if isinstance(source, MappingNode):
                    merged.append(self._build(source))
                else:
                    self._refuse(source, "`<<` takes a mapping or a list of mappings")
        value = {key: built.value for key, built in own.items()}
        for inherited in merged:  # the first is the strongest
            value |= {k: v for k, v in inherited.value.items() if k not in value}
        return _measure(value, [*own.values(), *merged])

    def _read_key(self, node: Node) -> str | None:
        if isinstance(node, ScalarNode) and node.tag in (_CORE + "str", _MERGE):
            return str(node.value)
        kind = _name_kind(node)
        found = f", found {kind} {node.value}".rstrip() + "; put it in quotes" if kind else ""
        self._refuse(node, f"keys must be text{found}")
        return None

    def _read_scalar(self, node: ScalarNode) -> Any:
        if node.tag == _CORE + "str":
            return node.value
        if _name_kind(node) is None:
            self._refuse_tag(node)
            return None
        kind = node.tag.removeprefix(_CORE)
        try:
            value = getattr(self._loader, f"construct_yaml_{kind}")(node)
        except (ValueError, KeyError, ConstructorError):
            self._refuse(node, f"cannot read {node.value[:40]!r} as !!{kind}")
            return None
        if isinstance(value, float) and not math.isfinite(value):
            self._refuse(node, f"expected a finite number, found {node.value}")
        return value

    def _refuse_tag(self, node: Node) -> None:
        tag = node.tag.replace(_CORE, "!!", 1)
        held = "a suite holds plain text, numbers, lists and mappings"
        self._refuse(node, f"the tag {tag} is not allowed: {held}")

    def _refuse(self, node: Node, message: str) -> None:
        self._refused.add(id(node))
        mark = node.start_mark
        self.problems.append(Problem(mark.line + 1, mark.column + 1, message))


def _measure(value: Any, parts: list[_Built]) -> _Built:
    size = 1 + sum(part.size for part in parts)
    return _Built(value, size, 1 + max((part.depth for part in parts), default=0))


def _name_kind(node: Node) -> str | None:
    """What YAML takes a plain scalar for, in words; None for what a suite may not hold."""
    words = {"int": "the number", "float": "the number", "bool": "the boolean", "null": "null"}
    return words.get(node.tag.removeprefix(_CORE))


def _merge_sources(node: Node) -> list[Node]:
    return list(node.value) if isinstance(node, SequenceNode) else [node]


def _find_child(node: Node | None, part: str | int) -> tuple[Node | None, Node] | None:
    """Key and value of an entry, perhaps one that a merge key brings in."""
    if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
        return None, node.value[part]
    if isinstance(node, MappingNode):
        for key, value in node.value:
            if key.value == part and key.tag != _MERGE:
                return key, value
        return next(_find_merged(node, part), None)
    return None


def _find_merged(node: MappingNode, part: str | int) -> Iterator[tuple[Node | None, Node]]:
    for key, value in node.value:
        if key.tag == _MERGE:
            for source in _merge_sources(value):
                found = _find_child(source, part)
                if found is not None:
                    yield found


def _prefix(location: Location, message: str) -> str:
    """The message after the path of its value, ``models[0].name: …``."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return f"{path[1:]}: {message}" if path else message


def _too_large(node: Node, message: str) -> TooLargeError:
    return TooLargeError(problem=message, problem_mark=node.start_mark)
