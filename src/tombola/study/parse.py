"""YAML text as plain settings: mappings, lists, texts, numbers, true, false and null, as JSON has them.

PyYAML alone accepts more than a study can mean: dates, sets, NUL characters, a key that stands twice in a mapping (it keeps
the last one), and aliases that multiply a few lines into millions of values. Each is an error that names its place.
"""

import re
from collections.abc import Iterator
from typing import Any

import yaml

from tombola.errors import TombolaError

from .messages import in_short

_DEEPEST = 20
_MOST = 20_000  # values, those of a repeated alias counted each time
_LONGEST = 2_000  # characters of a text, which a description may need
_LONGEST_KEY = 100
_NUMBERS = {  # without YAML 1.1's octal 010 and its base 60, by which 2:4 would be 124; both are texts here
    "tag:yaml.org,2002:int": re.compile(r"[-+]?(0|[1-9][0-9_]*|0x[0-9a-fA-F_]+|0b[01_]+)$"),
    "tag:yaml.org,2002:float": re.compile(
        r"[-+]?([0-9][0-9_]*\.[0-9_]*([eE][-+][0-9]+)?|\.[0-9][0-9_]*([eE][-+][0-9]+)?)$|[-+]?\.(inf|Inf|INF)$|\.(nan|NaN|NAN)$"
    ),
}


class _Loader(yaml.SafeLoader):
    """Safe loader that refuses a key given twice, deep nesting, and merges (`<<`) that multiply."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > _DEEPEST:
            problem = f"it is nested in more than {_DEEPEST} levels"
            raise yaml.composer.ComposerError(problem=problem, problem_mark=self.peek_event().start_mark)
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        found: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in found:
                raise yaml.composer.ComposerError(problem=f"{key.value!r} is given twice", problem_mark=key.start_mark)
            found.add(key.value)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        if len(node.value) > _MOST:
            raise yaml.constructor.ConstructorError(problem="it merges too many values", problem_mark=node.start_mark)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, _NUMBERS.get(tag, pattern)) for tag, pattern in found]
    for first, found in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def parse(text: str, where: str) -> Any:
    """Return the value of a YAML text. Raises TombolaError, whose sentence begins with `where`."""
    try:
        value = yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f" at line {mark.line + 1}" if mark else ""
        problem = " ".join(str(getattr(error, "problem", None) or error).split())
        raise TombolaError(f"{where} is not YAML{line}: {in_short(problem, 120)}; correct that line") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:  # PyYAML's, for numbers and dates that are none
        raise TombolaError(f"{where} has a value that YAML does not know: {in_short(str(error))}; correct it") from None
    for path, fault in _faults(value):
        raise TombolaError(f"{where}: {in_short(path)} {fault}" if path else f"{where} {fault}")
    return value


def _faults(root: Any) -> Iterator[tuple[str, str]]:
    """Yield (path, fault) of values that JSON has not, or that no study needs."""
    waiting: list[tuple[str, Any, int]] = [("", root, 0)]
    count = 0
    while waiting:
        path, value, depth = waiting.pop()
        count += 1
        if count > _MOST or depth > _DEEPEST:
            yield "", f"has over {_MOST:,} values or {_DEEPEST} levels; an alias may repeat or contain itself: write fewer"
        if isinstance(value, dict):
            for name in value:
                if not isinstance(name, str) or len(name) > _LONGEST_KEY or _unreadable(name):
                    yield path, f"has the key {in_short(repr(name))}; a key is a text of at most {_LONGEST_KEY} characters"
        if isinstance(value, dict | list):
            inside = value.items() if isinstance(value, dict) else enumerate(value)
            waiting += reversed([(f"{path}.{name}" if path else str(name), item, depth + 1) for name, item in inside])
        elif isinstance(value, str):
            if len(value) > _LONGEST or _unreadable(value):
                yield path, f"is {in_short(repr(value))}; a text has at most {_LONGEST:,} characters, and no NUL among them"
        elif isinstance(value, int):
            if value.bit_length() > 63:
                yield path, "is a whole number of 2**63 or more; give a smaller one"
        elif not isinstance(value, float | None):
            yield path, f"is {in_short(str(value))}, a {type(value).__name__} in YAML; put it in quotes"


def _unreadable(text: str) -> bool:
    """Return whether a text has a character that no file can have: NUL or half of a surrogate pair."""
    return any(c == "\0" or "\ud800" <= c <= "\udfff" for c in text)
