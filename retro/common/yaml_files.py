"""The one reader of YAML: whatever the bytes are, it gives texts, numbers, true, false, null, lists and mappings, or
one error.

Of YAML's other types none is a setting: a date stays the text that was typed, and binary data, sets and Python objects
are refused. Size, depth, and what aliases write out are bounded, so that no file takes long or fills the memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from retro.common.errors import DataError
from retro.common.input_files import ErrorClass, read_text

MAX_YAML_BYTES = 1 << 20
MAX_YAML_DEPTH = 50
"""Lists and mappings within each other."""
MAX_YAML_WRITTEN_OUT = 1 << 21
"""Size of a file whose aliases are all written out, in characters; a value counts as 32 beside its own. PyYAML takes
some seconds for a file of this size, whatever it holds."""
_VALUE = 32

_TYPES = ("null", "bool", "int", "float", "str", "seq", "map")
_MAX_INTEGER = 1 << 64


class _Loader(yaml.SafeLoader):
    """YAML's plain types, bounded. Names of settings are texts as typed, each once in its mapping."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._deepest = self._written_out = 0
        self._seen: dict[yaml.Node, tuple[int, int]] = {}

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        """As the base class does, counting depth and size as if aliases were written out."""
        alias, mark = self.check_event(yaml.AliasEvent), self.peek_event().start_mark  # type: ignore[no-untyped-call]
        before, outer = self._written_out, self._deepest
        self._depth += 1
        self._deepest = self._depth
        self._written_out += _VALUE
        self._require_bounds(mark)
        node = super().compose_node(parent, index)
        if node is None:
            return None
        if alias:
            if node not in self._seen:
                raise yaml.MarkedYAMLError(problem="a value refers to itself", problem_mark=mark)
            size, height = self._seen[node]
            self._written_out += size
            self._deepest += height
        elif isinstance(node, yaml.ScalarNode):
            self._written_out += len(node.value)
            _require_whole_characters(node)
        self._require_bounds(mark)
        self._seen.setdefault(node, (self._written_out - before, self._deepest - self._depth))
        self._deepest = max(outer, self._deepest)
        self._depth -= 1
        return node

    def _require_bounds(self, mark: yaml.Mark) -> None:
        problem = ""
        if self._deepest > MAX_YAML_DEPTH:
            problem = f"values within each other more than {MAX_YAML_DEPTH} deep"
        elif self._written_out > MAX_YAML_WRITTEN_OUT:
            problem = f"more values, aliases written out, than {MAX_YAML_WRITTEN_OUT:,} characters hold"
        if problem:
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=mark)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping from names as typed. Of two equal keys plain YAML keeps the last, without a word."""
        if not isinstance(node, yaml.MappingNode):
            raise yaml.MarkedYAMLError(problem="a mapping is needed", problem_mark=node.start_mark)
        names = set[str]()
        for key, _ in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.YAMLError(f"line {line}: found a {key.id}, needed is a name")
            if key.value in names:
                raise yaml.YAMLError(
                    f"line {line}: {key.value!r} occurs twice; settings of one section belong together"
                )
            if not key.tag.endswith(":merge"):
                names.add(key.value)
        self.flatten_mapping(node)
        return {key.value: self.construct_object(value, deep=deep) for key, value in node.value}

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        """As the base class does; a number or word that its type cannot hold is an error of YAML's kind."""
        try:
            value = super().construct_object(node, deep=deep)
        except (ValueError, ArithmeticError, LookupError):
            problem = f"{_short(node)} is not what it looks like or is said to be"
            raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None
        if isinstance(value, int) and abs(value) > _MAX_INTEGER:
            raise yaml.MarkedYAMLError(problem=f"{_short(node)} is too large", problem_mark=node.start_mark)
        return value


_Loader.yaml_implicit_resolvers = {
    first: [(tag, form) for tag, form in found if tag.rpartition(":")[2] in (*_TYPES, "merge")]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in _TYPES
}


def parse_yaml(text: str) -> Any:
    """The one value that a YAML text is, None for an empty one.

    Raises:
        yaml.YAMLError: It is broken, too deep, too large with its aliases written out, or of another type.
    """
    try:
        return yaml.load(text, Loader=_Loader)  # noqa: S506 - a SafeLoader
    except (ValueError, ArithmeticError) as error:  # an escape or a version number that is none
        raise yaml.YAMLError(str(error)) from None


def read_yaml(path: Path, *, error: ErrorClass = DataError) -> dict[str, Any]:
    """Read one YAML mapping; an empty file is an empty one.

    Raises:
        DataError: The file is missing, is not a file, is too large, is not YAML, or is not a mapping.
    """
    text = read_text(
        path,
        "Give a UTF-8 YAML file, or start from tools/retro/examples/configs",
        limit=MAX_YAML_BYTES,
        error=error,
        missing="no such config file",
    )
    try:
        data = parse_yaml(text)
    except yaml.YAMLError as cause:
        where = " ".join(str(cause).split())
        raise error(path, f"is not YAML: {where}", "Fix the line it names") from None
    if data is None:
        return {}
    if not isinstance(data, dict):
        raise error(path, f"holds a {type(data).__name__}", "A run config is a mapping of stage names to settings")
    return data


def lines_of_keys(text: str) -> tuple[dict[str, int], list[tuple[str, int]]]:
    """The lines on which the keys of a YAML or JSON text stand, counted from 1, for messages.

    Returns:
        Lines by dotted names, items of lists by their number as in `betas.0`; and the keys that one mapping has twice,
        each with the line of the second. Both are empty for a text that is not YAML, or is too large for it.
    """
    if len(text) > MAX_YAML_BYTES:
        return {}, []
    lines: dict[str, int] = {}
    twice: list[tuple[str, int]] = []
    try:
        # JSON may be indented with tabs, which YAML does not allow; a tab more or less moves no line.
        root = _Loader(text.replace("\t", " ")).get_single_node()
    except (yaml.YAMLError, ValueError):
        return {}, []
    left: list[tuple[str, Any]] = [("", root)]
    while left:
        place, node = left.pop()
        pairs: list[tuple[str, Any, Any]] = []
        if isinstance(node, yaml.MappingNode):
            pairs = [(str(key.value), key, value) for key, value in node.value]
        elif isinstance(node, yaml.SequenceNode):
            pairs = [(str(number), item, item) for number, item in enumerate(node.value)]
        seen = set[str]()
        for name, at, value in pairs:
            here, line = f"{place}.{name}" if place else name, at.start_mark.line + 1
            if name in seen:
                twice.append((here, line))
            seen.add(name)
            lines[here] = line
            left.append((here, value))
    return lines, sorted(twice, key=lambda one: one[1])


def _require_whole_characters(node: yaml.ScalarNode) -> None:
    try:
        node.value.encode()
    except UnicodeEncodeError as error:
        problem = f"half a character, {error.object[error.start]!r}, which no UTF-8 file can hold"
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=node.start_mark) from None


def _short(node: yaml.Node) -> str:
    return repr(str(node.value)[:40])
