"""Reference: every key that a recipe can hold, with what it takes and its default, as Markdown."""

from __future__ import annotations

import inspect
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pliant.training.recipe import Recipe
from pliant.training.recipe_section import Section

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

_REF = "#/$defs/"
_BOUNDS = (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
_LENGTHS = (("minItems", "at least"), ("maxItems", "at most"))
_KINDS = {"object": "mapping", "boolean": "true or false", "string": "text"}


def recipe_reference() -> str:
    """Return the reference: a table for the recipe, and one for every section that can stand in it."""
    schema = Recipe.model_json_schema()
    return _Page(schema["$defs"], {section.__name__: section for section in _sections(Section)}).text(schema)


@dataclass
class _Page:
    """Sections in the order in which keys lead to them, each under the first key that does.

    Args:
        schemas: of the sections, by name.
        classes: of the sections, by name.
        titles: of those found so far.
    """

    schemas: Mapping[str, Any]
    classes: Mapping[str, type[Section]]
    titles: dict[str, str] = field(default_factory=dict)

    def text(self, recipe: Mapping[str, Any]) -> str:
        waiting: list[tuple[str, Mapping[str, Any]]] = [("", recipe)]
        self.titles[recipe["title"]] = "The recipe"
        parts = []
        while waiting:
            path, schema = waiting.pop(0)
            waiting += self._found(path, schema)
            parts.append(self._part(schema))
        return "\n\n".join(parts)

    def _found(self, path: str, schema: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
        """Give titles to the sections that the keys lead to for the first time; return them with their paths."""
        found = []
        for key, value in schema["properties"].items():
            for name in _names(value):
                if name not in self.titles:
                    below = f"{path}.{key}".lstrip(".")
                    kind = self._kind(name)
                    self.titles[name] = below if kind is None else f"{below}, type {kind}"
                    found.append((below, self.schemas[name]))
        return found

    def _part(self, schema: Mapping[str, Any]) -> str:
        fields = self.classes[schema["title"]].model_fields
        lines = [
            f"| `{key}` | {self._takes(value)} | {_default(fields[key])} |"
            for key, value in schema["properties"].items()
        ]
        about = inspect.cleandoc(schema.get("description", ""))
        table = "\n".join(["| key | takes | default |", "|---|---|---|", *lines])
        return "\n\n".join(part for part in (f"### {self.titles[schema['title']]}", about, table) if part)

    def _takes(self, value: Mapping[str, Any]) -> str:
        if "$ref" in value:
            name = value["$ref"].removeprefix(_REF)
            return f"[{self._kind(name) or self.titles[name]}](#{_anchor(self.titles[name])})"
        if words := value.get("enum") or ([value["const"]] if "const" in value else []):
            return ", ".join(f"`{word}`" for word in words)
        if choices := value.get("anyOf"):
            return " or ".join(dict.fromkeys(self._takes(choice) for choice in choices))
        if choices := value.get("oneOf"):
            return f"section of type {', '.join(self._takes(choice) for choice in choices)}"
        if value.get("type") == "array":
            return f"list{_said(value, _LENGTHS)} of {self._takes(value['items'])}"
        return _KINDS.get(value.get("type", "anything"), value.get("type", "anything")) + _said(value, _BOUNDS)

    def _kind(self, name: str) -> str | None:
        kind: str | None = self.schemas[name]["properties"].get("type", {}).get("const")
        return kind


def _sections(parent: type[Section]) -> Iterator[type[Section]]:
    for child in parent.__subclasses__():
        yield child
        yield from _sections(child)


def _names(value: Any) -> Iterator[str]:  # noqa: ANN401  (a part of a JSON schema)
    """Yield the names of all sections that a part of the schema refers to."""
    if isinstance(value, dict):
        if "$ref" in value:
            yield value["$ref"].removeprefix(_REF)
        for key, part in value.items():
            if key not in {"default", "discriminator"}:
                yield from _names(part)
    elif isinstance(value, list):
        for part in value:
            yield from _names(part)


def _default(info: FieldInfo) -> str:
    if info.is_required():
        return "needed"
    return f"`{json.dumps(_plain(_value(info)), ensure_ascii=False)}`"


def _value(info: FieldInfo) -> Any:  # noqa: ANN401  (whatever a field holds by default)
    return info.get_default(call_default_factory=True, validated_data={})


def _plain(value: Any) -> Any:  # noqa: ANN401  (whatever a field holds by default)
    """Return a default as YAML has it, sections without what they leave to their own defaults."""
    if isinstance(value, Section):
        given = {key: _plain(part) for key, part in value if part != _value(type(value).model_fields[key])}
        return given if "type" not in given or len(given) > 1 else given["type"]
    return [_plain(part) for part in value] if isinstance(value, list) else value


def _said(value: Mapping[str, Any], known: tuple[tuple[str, str], ...]) -> str:
    said = [f"{word} {value[key]:g}" for key, word in known if key in value]
    return f" {', '.join(said)}" if said else ""


def _anchor(title: str) -> str:
    """Return the anchor of a heading, as Markdown viewers make it."""
    kept = (letter for letter in title.lower() if letter.isalnum() or letter in " -_")
    return "".join(kept).replace(" ", "-")
