"""YAML that nobody vouches for: plain data comes out, in proportion to the text, or an error."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import yaml

_FLOAT = re.compile(r"[-+]?(\d+\.\d*|\.\d+|\d+)([eE][-+]?\d+)?|[-+]?\.(inf|Inf|INF)|\.(nan|NaN|NAN)")
_MOST_CHARACTERS = 2**17
_MOST_NODES = 10_000  # counting what an alias stands for each time
_MOST_LEVELS = 50
_MERGE = "tag:yaml.org,2002:merge"
# What PyYAML raises for values that do not fit their tags, such as "!!bool maybe" and the date 2026-99-99.
_DAMAGE = (yaml.YAMLError, ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)


class YAMLTextError(ValueError):
    """A text is not YAML, or stands for more than its length."""


class _Loader(yaml.SafeLoader):
    """Safe YAML in which 5e-4 is a number, as in YAML 1.2, and a key given twice is an error."""


def _mapping(loader: _Loader, node: yaml.MappingNode) -> dict[Any, Any]:
    plain = [key for key, _ in node.value if key.tag != _MERGE]
    keys = Counter(str(loader.construct_object(key, deep=True)) for key in plain)
    twice = sorted(key for key, times in keys.items() if times > 1)
    if twice:
        raise yaml.constructor.ConstructorError(None, None, f"key given twice: {', '.join(twice)}", node.start_mark)
    return loader.construct_mapping(node, deep=True)


_Loader.add_constructor("tag:yaml.org,2002:map", _mapping)
_Loader.add_implicit_resolver("tag:yaml.org,2002:float", re.compile(rf"^({_FLOAT.pattern})$"), list("-+.0123456789"))


def parse(text: str) -> Any:  # noqa: ANN401  (any YAML value)
    """Read one document of YAML.

    Raises:
        YAMLTextError: saying where and why not.
    """
    if len(text) > _MOST_CHARACTERS:
        raise YAMLTextError(f"at most {_MOST_CHARACTERS:,} characters are allowed, found {len(text):,}")
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _measure(node, {}, _MOST_LEVELS)
            return loader.construct_document(node)  # only now, since aliases are written out here
        finally:
            loader.dispose()
    except _DAMAGE as error:
        raise YAMLTextError(f"{error}") from error


def _measure(node: yaml.Node, known: dict[int, int], levels: int) -> int:
    """Return how many nodes a node stands for; one that contains itself has too many levels."""
    if id(node) in known:
        return known[id(node)]
    if levels == 0:
        raise YAMLTextError(f"it must have at most {_MOST_LEVELS} levels, and no part may contain itself")
    size = 1 + sum(_measure(part, known, levels - 1) for part in _parts(node))
    if size > _MOST_NODES:
        raise YAMLTextError(f"it must stand for at most {_MOST_NODES:,} values, aliases written out")
    known[id(node)] = size
    return size


def _parts(node: yaml.Node) -> Iterator[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from (key, value)
    elif isinstance(node, yaml.SequenceNode):
        yield from node.value
