"""A YAML file as plain values, and where in the file each of them is.

Accepts one document of mappings with text keys, lists, strings, finite numbers, booleans and null,
with anchors and merge keys (``<<``). Refuses duplicate keys and tags. Knows nothing of suites.
"""

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
_KINDS: dict[str, type[Node]] = {"map": MappingNode, "seq": SequenceNode}
_KINDS |= dict.fromkeys(("str", "int", "float", "bool", "null"), ScalarNode)
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


class YamlFile:
    """A file's value and what is wrong with it, as YAML and then as what it should hold.

    A location is the path of keys and indices from the top: ``("models", 0, "name")``.
    """

    def __init__(self, content: bytes) -> None:
        self.value: Any = None
        self.problems: list[Problem] = []
        self._nodes: dict[Location, tuple[Node | None, Node]] = {}  # a value's key and the value
        self._refused: set[tuple[int, int]] = set()
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = content[: error.start].decode("utf-8", errors="replace")
            byte = content[error.start]
            self._add_after(before, f"not UTF-8 text: byte 0x{byte:02x}; save the file as UTF-8")
            return
        try:
            self._loader = _Loader(text)
            root = self._loader.get_single_node()
            self.value = None if root is None else self._build((), root)
        except ReaderError as error:
            code = f"U+{error.character:04X}"
            self._add_after(text[: error.position], f"the character {code} is not allowed")
        except yaml.MarkedYAMLError as error:
            self.problems.append(_describe_syntax_error(error, text))
        except RecursionError:
            place = text[: self._loader.get_mark().index]
            self._add_after(place, f"nested more than {_MAX_DEPTH} deep")

    def place(self, location: Location, of_key: bool = False) -> tuple[int, int]:
        """Line and column, from 1, of the value (or key) there, or else of its nearest parent."""
        while location and location not in self._nodes:
            location, of_key = location[:-1], False
        key, node = self._nodes.get(location, (None, None))
        left_out = isinstance(node, ScalarNode) and node.value == "" and not node.style
        if key is not None and (left_out or of_key):
            node = key
        return _start(node) if node else (1, 1)

    def text(self, location: Location) -> str | None:
        """A scalar as it is written in the file, before it became a number or a boolean."""
        _, node = self._nodes.get(location, (None, None))
        return node.value if isinstance(node, ScalarNode) else None

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
        place = self.place(target, of_key=key is not None)
        if place not in self._refused:
            self.problems.append(Problem(*place, _prefix(location, message)))

    def _build(self, location: Location, node: Node, key: Node | None = None) -> Any:
        """The value of a node, its merge keys resolved; None where it is refused."""
        self._nodes[location] = (key, node)
        if len(self._nodes) > _MAX_VALUES:
            too_large = f"more than {_MAX_VALUES:,} values after expanding aliases"
            raise yaml.MarkedYAMLError(problem=too_large, problem_mark=node.start_mark)
        if len(location) > _MAX_DEPTH:
            too_deep = f"nested more than {_MAX_DEPTH} deep, perhaps by an alias of itself"
            raise yaml.MarkedYAMLError(problem=too_deep, problem_mark=node.start_mark)
        kind = node.tag.removeprefix(_CORE)
        if not isinstance(node, _KINDS.get(kind, ())):
            tag = node.tag.replace(_CORE, "!!", 1)
            held = "a suite holds plain text, numbers, lists and mappings"
            return self._refuse(node, f"the tag {tag} is not allowed: {held}")
        if isinstance(node, MappingNode):
            node.value = self._read_entries(node)  # for its aliases, too
            return {k.value: self._build((*location, k.value), v, k) for k, v in node.value}
        if isinstance(node, SequenceNode):
            return [self._build((*location, i), item) for i, item in enumerate(node.value)]
        try:
            value = getattr(self._loader, f"construct_yaml_{kind}")(node)
        except (ValueError, KeyError, ConstructorError):
            return self._refuse(node, f"cannot read {node.value[:40]!r} as !!{kind}")
        if isinstance(value, float) and not math.isfinite(value):
            return self._refuse(node, f"expected a finite number, found {node.value}")
        return value

    def _read_entries(self, node: MappingNode) -> list[tuple[Node, Node]]:
        """The key and value nodes of a mapping, with those that merge keys bring in."""
        own: dict[str, tuple[Node, Node]] = {}
        for key, value in node.value:
            if not isinstance(key, ScalarNode):
                self._refuse(key, "keys must be text")
            elif key.tag not in (_TEXT, _MERGE):
                self._refuse(key, f"keys must be text, found {key.value}; put it in quotes")
            elif key.value in own:
                line, column = _start(own[key.value][0])
                self._refuse(key, f"duplicate key {key.value!r}; first given at {line}:{column}")
            elif key.tag == _TEXT:
                own[key.value] = (key, value)
        self._loader.flatten_mapping(node)
        merged = {
            key.value: (key, value)
            for key, value in node.value
            if isinstance(key, ScalarNode) and key.tag == _TEXT
        }
        return list({**own, **merged, **own}.values())

    def _refuse(self, node: Node, message: str) -> None:
        self._refused.add(_start(node))
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
    message = f"not valid YAML: {error.problem}"
    if error.context:
        start = error.context_mark
        where = f", started at {start.line + 1}:{start.column + 1}" if start else ""
        message += f" ({error.context}{where})"
    if found and found in "[]{}:*&%@`!|>" and type(error) is not yaml.MarkedYAMLError:  # not ours
        message += f"; text that contains {found!r} goes in quotes"
    return Problem(mark.line + 1, mark.column + 1, message)
