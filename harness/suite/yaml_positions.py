"""A YAML file as plain values, and where in the file each of them stands.

Accepts one document of mappings with string keys, lists, strings, finite numbers, booleans and
null, with anchors and merge keys. Refuses duplicate keys and tags. Knows nothing of suites.
"""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

import yaml
from yaml.constructor import ConstructorError, SafeConstructor
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from yaml.reader import Reader

Location = tuple["str | int", ...]

_MAX_DEPTH = 60
_MAX_NODES = 200_000  # an alias of aliases of aliases can stand for more nodes than fit in memory
_CORE = "tag:yaml.org,2002:"
_TEXT_TAGS = {_CORE + "str", _CORE + "timestamp", _CORE + "value"}
_scalars = SafeConstructor()
_READ_SCALAR = {
    _CORE + "null": _scalars.construct_yaml_null,
    _CORE + "bool": _scalars.construct_yaml_bool,
    _CORE + "int": _scalars.construct_yaml_int,
    _CORE + "float": _scalars.construct_yaml_float,
}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """The safe loader, the C one where libyaml is there."""


# YAML 1.2 reads 1e-3 as a number; PyYAML follows 1.1 and wants 1.0e-3.
_Loader.add_implicit_resolver(
    _CORE + "float", re.compile(r"[-+]?[0-9]+[eE][-+]?[0-9]+$"), list("-+0123456789")
)


class Place(NamedTuple):
    """A position in the file, both counted from 1."""

    line: int
    column: int


class Problem(NamedTuple):
    """One mistake and where it is; sorts by position."""

    line: int
    column: int
    message: str


@dataclass
class Document:
    """The value of a YAML file, the place of each part by its location, and what is wrong.

    A location is the path of keys and indices from the top: ``("models", 0, "name")``.
    """

    value: Any = None
    problems: list[Problem] = field(default_factory=list)
    _values: dict[Location, Place] = field(default_factory=dict)
    _keys: dict[Location, Place] = field(default_factory=dict)
    _texts: dict[Location, str] = field(default_factory=dict)
    _broken: set[Location] = field(default_factory=set)

    def place(self, location: Location, at: Literal["key", "value"] = "value") -> Place:
        """Where the value (or its key) at ``location`` starts; else its nearest parent's place."""
        for end in range(len(location), -1, -1):
            prefix = location[:end]
            if at == "key" and prefix in self._keys:
                return self._keys[prefix]
            if prefix in self._values:
                return self._values[prefix]
        return Place(1, 1)

    def text(self, location: Location) -> str | None:
        """A scalar as it is written in the file, before it became a number or a boolean."""
        return self._texts.get(location)

    def report(
        self, location: Location, message: str, at: Literal["key", "value"] = "value"
    ) -> None:
        """Note a mistake, unless the value there was already found to be unreadable."""
        if not any(location[:end] in self._broken for end in range(1, len(location) + 1)):
            self.problems.append(Problem(*self.place(location, at), message))


def read_document(content: bytes) -> Document:
    """Parse a file's bytes; what is wrong with it as YAML is in ``problems``, never raised."""
    document = Document()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = content[: error.start].decode("utf-8", errors="replace")
        byte = content[error.start]
        document.problems.append(
            Problem(*_end_of(before), f"not UTF-8 text: byte 0x{byte:02x}; save the file as UTF-8")
        )
        return document
    forbidden = Reader.NON_PRINTABLE.search(text)
    if forbidden:
        code = f"U+{ord(forbidden.group()):04X}"
        document.problems.append(
            Problem(*_end_of(text[: forbidden.start()]), f"the character {code} is not allowed")
        )
        return document
    try:
        too_deep = _find_too_deep(text)
        node = None if too_deep else _Loader(text).get_single_node()
    except yaml.MarkedYAMLError as error:
        document.problems.append(_explain_syntax(error, text))
        return document
    if too_deep:
        document.problems.append(too_deep)
    if node is not None:
        _Builder(document).build_root(node)
    return document


class _Builder:
    """Turns nodes into values while noting their places; owns the recursion's state."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.count = 0
        self.open: list[int] = []

    def build_root(self, node: Node) -> None:
        try:
            self.document.value = self.build(node, ())
        except _TooLargeError as error:
            self.document.value = None
            self.document.problems.append(Problem(*error.place, str(error)))

    def build(self, node: Node, location: Location) -> Any:
        place = _place_of(node)
        self.document._values[location] = place
        self.count += 1
        if self.count > _MAX_NODES:
            raise _TooLargeError(place, f"more than {_MAX_NODES:,} values after expanding aliases")
        if len(self.open) > _MAX_DEPTH:
            raise _TooLargeError(place, f"nested more than {_MAX_DEPTH} deep through aliases")
        if isinstance(node, ScalarNode):
            return self.build_scalar(node, location)
        if node.tag not in (_CORE + "map", _CORE + "seq"):
            return self.refuse_tag(node, location)
        if id(node) in self.open:
            raise _TooLargeError(place, "this anchor contains an alias of itself")
        self.open.append(id(node))
        value: Any
        if isinstance(node, MappingNode):
            value = self.build_mapping(node, location)
        else:
            value = [self.build(item, (*location, i)) for i, item in enumerate(node.value)]
        self.open.pop()
        return value

    def build_scalar(self, node: ScalarNode, location: Location) -> Any:
        self.document._texts[location] = node.value
        if node.tag in _TEXT_TAGS:
            return node.value
        if node.tag not in _READ_SCALAR:
            return self.refuse_tag(node, location)
        try:
            value = _READ_SCALAR[node.tag](node)
        except (ValueError, KeyError, ConstructorError):
            return self.refuse(
                location, f"cannot read {node.value[:40]!r} as {_show_tag(node.tag, raw=True)}"
            )
        if isinstance(value, float) and not math.isfinite(value):
            return self.refuse(location, f"expected a finite number, found {node.value}")
        return value

    def build_mapping(self, node: MappingNode, location: Location) -> dict[str, Any]:
        value: dict[str, Any] = {}
        merged: list[Node] = []
        seen: dict[str, Place] = {}
        for key_node, value_node in node.value:
            key = self.read_key(key_node)
            if key is None:
                continue
            if key in seen:
                first = seen[key]
                self.add(
                    _place_of(key_node),
                    f"duplicate key {key!r}; first given at {first.line}:{first.column}",
                )
                continue
            seen[key] = _place_of(key_node)
            if key_node.tag == _CORE + "merge":
                merged.extend(self.merge_sources(value_node))
                continue
            self.document._keys[(*location, key)] = seen[key]
            value[key] = self.build(value_node, (*location, key))
            if value[key] is None and value_node.value == "":  # nothing to point at
                self.document._values[(*location, key)] = seen[key]
        for source in merged:
            inherited = self.build_merged(source, location, skip=value.keys())
            value.update(inherited)
        return value

    def build_merged(
        self, source: Node, location: Location, skip: Container[str]
    ) -> dict[str, Any]:
        """The entries of a ``<<`` mapping that the mapping itself does not give."""
        if id(source) in self.open:
            raise _TooLargeError(_place_of(source), "this anchor contains an alias of itself")
        kept = [
            pair
            for pair in source.value
            if not (isinstance(pair[0], ScalarNode) and pair[0].value in skip)
        ]
        part = MappingNode(source.tag, kept, source.start_mark, source.end_mark)
        self.open.append(id(source))
        inherited = self.build_mapping(part, location)
        self.open.pop()
        return inherited

    def merge_sources(self, node: Node) -> Iterator[Node]:
        """The mappings that ``<<`` names, the strongest first."""
        for item in node.value if isinstance(node, SequenceNode) else [node]:
            if isinstance(item, MappingNode):
                yield item
            else:
                self.add(_place_of(item), "`<<` takes a mapping or a list of mappings")

    def read_key(self, node: Node) -> str | None:
        if isinstance(node, ScalarNode):
            if node.tag in _TEXT_TAGS or node.tag == _CORE + "merge":
                return str(node.value)
            if node.tag in _READ_SCALAR:
                shown = f"{_show_tag(node.tag)} {node.value}".rstrip()
                self.add(_place_of(node), f"keys must be text, found {shown}; put it in quotes")
                return None
        self.add(_place_of(node), "keys must be plain text")
        return None

    def refuse_tag(self, node: Node, location: Location) -> None:
        self.refuse(
            location,
            f"the tag {_show_tag(node.tag, raw=True)} is not allowed: "
            "a suite holds plain text, numbers, lists and mappings",
        )

    def refuse(self, location: Location, message: str) -> None:
        self.document.report(location, message)
        self.document._broken.add(location)

    def add(self, place: Place, message: str) -> None:
        self.document.problems.append(Problem(*place, message))


class _TooLargeError(Exception):
    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.place = place


def _find_too_deep(text: str) -> Problem | None:
    """Where nesting passes the limit; composing such a file would overflow the C stack."""
    depth = 0
    for event in yaml.parse(text, Loader=_Loader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            return Problem(*_place_of(event), f"nested more than {_MAX_DEPTH} deep")
    return None


def _explain_syntax(error: yaml.MarkedYAMLError, text: str) -> Problem:
    mark = error.problem_mark or error.context_mark
    if mark is None:
        return Problem(1, 1, f"not valid YAML: {error}")
    lines = text.splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    indent = line[: len(line) - len(line.lstrip())]
    if "\t" in indent or line[mark.column : mark.column + 1] == "\t":
        column = indent.index("\t") if "\t" in indent else mark.column
        return Problem(
            mark.line + 1, column + 1, "a tab: YAML forbids tabs for indentation; use spaces"
        )
    what = error.problem or "cannot be read"
    if "but found another document" in what:
        return Problem(mark.line + 1, 1, "a second document starts here; a suite is one document")
    message = f"not valid YAML: {what}"
    start = error.context_mark
    if error.context and start is not None and start.line != mark.line:
        message += f" ({error.context}, started at {start.line + 1}:{start.column + 1})"
    elif error.context:
        message += f" ({error.context})"
    found = line[mark.column : mark.column + 1]
    if found and found in "[]{}:*&%@`!|>":
        message += f"; text that contains {found!r} goes in quotes"
    return Problem(mark.line + 1, mark.column + 1, message)


def _place_of(part: Node | yaml.Event) -> Place:
    assert part.start_mark is not None
    return Place(part.start_mark.line + 1, part.start_mark.column + 1)


def _end_of(text: str) -> Place:
    lines = text.split("\n")
    return Place(len(lines), len(lines[-1]) + 1)


def _show_tag(tag: str, raw: bool = False) -> str:
    """``tag:yaml.org,2002:int`` as a person knows it: ``!!int``, or in words."""
    words = {"int": "the number", "float": "the number", "bool": "the boolean", "null": "null"}
    short = tag.removeprefix(_CORE)
    if raw or short not in words:
        return tag if short == tag else f"!!{short}"
    return words[short]
