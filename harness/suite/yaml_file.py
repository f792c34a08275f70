"""A YAML file as plain values, and where in the file each of them is.

Accepts one document of mappings with text keys, lists, strings, finite numbers, booleans and null,
with anchors and merge keys (``<<``). Refuses duplicate keys and tags. Knows nothing of suites.
"""

from __future__ import annotations

import math
import re
from typing import Any, NamedTuple

import yaml
from yaml.constructor import ConstructorError
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import ReaderError

Location = tuple["str | int", ...]

_CORE = "tag:yaml.org,2002:"
_TEXT, _MERGE = _CORE + "str", _CORE + "merge"
_WORDS = {"int": "the number", "float": "the number", "bool": "the boolean", "null": "null"}
_MAX_DEPTH = 60
_MAX_VALUES = 200_000  # a few nested aliases can stand for more values than fit in memory


class _Loader(yaml.SafeLoader):
    """The safe loader, but dates are text, and 1e-3 is a number as in YAML 1.2."""

    yaml_implicit_resolvers = {  # noqa: RUF012 - as PyYAML declares it
        first: [pair for pair in pairs if not pair[0].endswith((":timestamp", ":value"))]
        for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    _CORE + "float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class Problem(NamedTuple):
    """One mistake and its position, from 1; sorts by position."""

    line: int
    column: int
    message: str


class _TooLargeError(Exception):
    """The file is valid YAML but cannot be read."""


class YamlFile:
    """A file's value and what is wrong with it, as YAML and then as what it should hold.

    A location is the path of keys and indices from the top: ``("models", 0, "name")``. Positions
    are looked up in the tree of YAML nodes when a problem is reported.
    """

    def __init__(self, content: bytes) -> None:
        self.value: Any = None
        self.problems: list[Problem] = []
        self._root: Node | None = None
        self._count = 0
        self._refused: set[int] = set()  # ids of nodes
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = content[: error.start].decode("utf-8", errors="replace")
            byte = content[error.start]
            self._add_after(before, f"not UTF-8 text: byte 0x{byte:02x}; save the file as UTF-8")
            return
        try:
            self._loader = _Loader(text)
            self._root = self._loader.get_single_node()
            self.value = None if self._root is None else self._build(self._root, 0)
        except ReaderError as error:
            code = f"U+{error.character:04X}"
            self._add_after(text[: error.position], f"the character {code} is not allowed")
        except yaml.MarkedYAMLError as error:
            self.problems.append(_describe_syntax_error(error, text))
        except RecursionError:
            place = text[: self._loader.get_mark().index]
            self._add_after(place, f"nested more than {_MAX_DEPTH} deep")
        except _TooLargeError as error:
            self._refuse(*error.args)

    def place(self, location: Location, of_key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of the value (or key) there, or else of its nearest parent."""
        path = self._walk(location)
        key, node = path[-1]
        left_out = isinstance(node, ScalarNode) and node.value == "" and not node.style
        if key is not None and (left_out or (of_key and len(path) > len(location))):
            node = key
        return _start(node) if node else (1, 1)

    def text(self, location: Location) -> str | None:
        """A scalar as it is written in the file, before it became a number or a boolean."""
        path = self._walk(location)
        node = path[-1][1]
        return node.value if isinstance(node, ScalarNode) and len(path) > len(location) else None

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
        inside = key or value_of
        target = (*location, inside) if inside else location
        if not any(id(node) in self._refused for _, node in self._walk(target)):
            place = self.place(target, of_key=key is not None)
            self.problems.append(Problem(*place, _prefix(location, message)))

    def _walk(self, location: Location) -> list[tuple[Node | None, Node | None]]:
        """Key and value nodes along a location, from the top, as far as it goes."""
        path: list[tuple[Node | None, Node | None]] = [(None, self._root)]
        for part in location:
            node = path[-1][1]
            if isinstance(node, SequenceNode) and isinstance(part, int) and part < len(node.value):
                path.append((None, node.value[part]))
            elif isinstance(node, MappingNode):
                path += [pair for pair in node.value if pair[0].value == part]
        return path

    def _build(self, node: Node, depth: int) -> Any:
        """The value of a node; resolves its merge keys and drops its duplicate keys."""
        self._count += 1
        if self._count > _MAX_VALUES:
            message = f"more than {_MAX_VALUES:,} values after expanding aliases"
            raise _TooLargeError(node, message)
        if depth > _MAX_DEPTH:
            message = f"nested more than {_MAX_DEPTH} deep, perhaps by an alias of itself"
            raise _TooLargeError(node, message)
        if isinstance(node, ScalarNode):
            return self._read_scalar(node)
        if node.tag not in (_CORE + "map", _CORE + "seq"):
            return self._refuse_tag(node)
        if not isinstance(node, MappingNode):
            return [self._build(item, depth + 1) for item in node.value]
        node.value = self._read_entries(node)
        return {key.value: self._build(value, depth + 1) for key, value in node.value}

    def _read_entries(self, node: MappingNode) -> list[tuple[ScalarNode, Node]]:
        """The key and value nodes of a mapping, with those that merge keys bring in."""
        own: dict[str, tuple[ScalarNode, Node]] = {}
        for key, value in node.value:
            if key.tag == _MERGE:
                continue
            if not isinstance(key, ScalarNode) or key.tag != _TEXT:
                kind = _WORDS.get(key.tag.removeprefix(_CORE))
                found = f", found {kind} {key.value}".rstrip() if kind else ""
                self._refuse(key, f"keys must be text{found}; put it in quotes")
            elif key.value in own:
                line, column = _start(own[key.value][0])
                first = f"first given at {line}:{column}"
                self._refuse(key, f"duplicate key {key.value!r}; {first}")
            else:
                own[key.value] = (key, value)
        self._loader.flatten_mapping(node)
        merged = {key.value: (key, value) for key, value in node.value if key.tag == _TEXT}
        return list({**own, **merged, **own}.values())

    def _read_scalar(self, node: ScalarNode) -> Any:
        kind = node.tag.removeprefix(_CORE)
        if node.tag == _TEXT:
            return node.value
        if kind not in _WORDS:
            return self._refuse_tag(node)
        try:
            value = getattr(self._loader, f"construct_yaml_{kind}")(node)
        except (ValueError, KeyError, ConstructorError):
            return self._refuse(node, f"cannot read {node.value[:40]!r} as !!{kind}")
        if isinstance(value, float) and not math.isfinite(value):
            return self._refuse(node, f"expected a finite number, found {node.value}")
        return value

    def _refuse_tag(self, node: Node) -> Any:
        tag = node.tag.replace(_CORE, "!!", 1)
        held = "a suite holds plain text, numbers, lists and mappings"
        return self._refuse(node, f"the tag {tag} is not allowed: {held}")

    def _refuse(self, node: Node, message: str) -> Any:
        """Note a mistake in the YAML; the node's value is None."""
        self._refused.add(id(node))
        self.problems.append(Problem(*_start(node), message))

    def _add_after(self, text: str, message: str) -> None:
        lines = text.split("\n")
        self.problems.append(Problem(len(lines), len(lines[-1]) + 1, message))


def _start(node: Node) -> tuple[int, int]:
    return node.start_mark.line + 1, node.start_mark.column + 1


def _prefix(location: Location, message: str) -> str:
    """The message after the path of its value, ``models[0].name: …``."""
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location)
    return f"{path[1:]}: {message}" if path else message


def _describe_syntax_error(error: yaml.MarkedYAMLError, text: str) -> Problem:
    """PyYAML's error, with the remedy for the common ones."""
    mark = error.problem_mark or error.context_mark
    assert mark is not None, "the scanner, the parser and the composer mark their errors"
    line = [*text.splitlines(), ""][mark.line]
    indent = line[: len(line) - len(line.lstrip())]
    found = line[mark.column : mark.column + 1]
    if "\t" in indent + found:
        column = indent.index("\t") if "\t" in indent else mark.column
        message = "a tab: YAML forbids tabs for indentation; use spaces"
        return Problem(mark.line + 1, column + 1, message)
    if "but found another document" in str(error.problem):
        return Problem(mark.line + 1, 1, "a second document starts here; a suite is one document")
    message = f"not valid YAML: {error.problem}"
    if error.context:
        start = error.context_mark
        where = f", started at {start.line + 1}:{start.column + 1}" if start else ""
        message += f" ({error.context}{where})"
    if found and found in "[]{}:*&%@`!|>":
        message += f"; text that contains {found!r} goes in quotes"
    return Problem(mark.line + 1, mark.column + 1, message)
