"""Recipes as YAML: safe reading, overrides, and errors that name the field, what is allowed and what was found."""

from __future__ import annotations

import copy
import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ValidationError

from pliant.training import safe_yaml
from pliant.training.own_section import OrOwn, is_own
from pliant.training.recipe_section import Section

M = TypeVar("M", bound=BaseModel)


class RecipeError(ValueError):
    """A recipe file, an override or a value in it is not what a recipe can hold."""


def parse(text: str, source: str) -> Any:  # noqa: ANN401  (any YAML value)
    """Read YAML text.

    Raises:
        RecipeError: it is not YAML that a recipe can be; the message says where.
    """
    try:
        return safe_yaml.parse(text)
    except safe_yaml.YAMLTextError as error:
        raise RecipeError(f"{source} is not valid YAML: {error}") from error


def dump(data: Mapping[str, Any]) -> str:
    """Write plain data as YAML, in its own order."""
    text: str = yaml.safe_dump(dict(data), sort_keys=False, default_flow_style=None, width=100)
    return text


def read_mapping(path: Path) -> dict[str, Any]:
    """Read a recipe file.

    Raises:
        RecipeError: no such file, not YAML, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"cannot read the recipe {path}: {error}") from error
    data = parse(text, str(path))
    if not isinstance(data, dict):
        raise RecipeError(f"{path} must hold a mapping (name: ..., method: ...), found {type(data).__name__}")
    return data


def overridden(data: Mapping[str, Any], overrides: Iterable[str], model: type[BaseModel]) -> dict[str, Any]:
    """Return the data of a recipe with overrides applied.

    An override of a part that the data leaves out changes the default of that part.

    Raises:
        RecipeError: an override does not fit.
    """
    changed = copy.deepcopy(dict(data))
    for override in overrides:
        _apply(changed, override, _written_out(model, changed))
    return changed


def _written_out(model: type[BaseModel], data: Mapping[str, Any]) -> dict[str, Any]:
    """Return a recipe with its defaults, or nothing while it is not valid; then the overrides have to complete it."""
    try:
        return model.model_validate(data).model_dump(exclude_none=True)
    except ValidationError:
        return {}


def _apply(data: dict[str, Any], override: str, defaults: Any) -> None:  # noqa: ANN401  (any part of a recipe)
    path, equals, text = override.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise RecipeError(f"an override must look like train.epochs=5, found {override!r}")
    here = data
    for depth, key in enumerate(keys[:-1], start=1):
        defaults = defaults.get(key) if isinstance(defaults, dict) else None
        if here.get(key) is None:
            here[key] = dict(defaults) if isinstance(defaults, dict) else {}
        if not isinstance(here[key], dict):
            where = ".".join(keys[:depth])
            raise RecipeError(f"override {override!r}: {where} is {here[key]!r}, which has no parts")
        here = here[key]
    here[keys[-1]] = parse(text, f"override {override!r}")


def from_mapping(model: type[M], data: Mapping[str, Any], *, source: str) -> M:
    """Check plain data against a model.

    Raises:
        RecipeError: with one line for every field that does not fit.
    """
    try:
        return model.model_validate(data)
    except ValidationError as error:
        lines = [_describe(model, dict(found)) for found in error.errors()]
        raise RecipeError("\n  ".join([f"{source} is not a valid recipe:", *dict.fromkeys(lines)])) from error


def _describe(model: type[BaseModel], error: dict[str, Any]) -> str:
    kind, found = error["type"], error["input"]
    keys, options = _walk(model, error["loc"])
    where = ".".join(map(str, keys)) or "the recipe"
    if kind == "extra_forbidden":
        return f"{where}: no such key; {_allowed(keys[-1], [name for m in options for name in m.model_fields])}"
    if kind in {"union_tag_invalid", "union_tag_not_found"}:
        tags = ", ".join(dict.fromkeys(tag for m in options for tag in _tags(m)))
        own = ", or 'package.module:name'" if any(map(_is_open, options)) else ""
        text = repr(found.get("type") if isinstance(found, dict) else found)
        return f"{where}.type: must be one of {tags}{own}, found {text}"
    if kind in {"model_type", "dict_type", "model_attributes_type"}:
        return f"{where}: must be a mapping, found {found!r}"
    if kind == "missing":
        return f"{where}: is missing"
    if kind == "value_error":
        return f"{where}: {error['ctx']['error']}"
    message = error["msg"].replace("Input should be", "must be")
    return f"{where}: {message[0].lower()}{message[1:]}, found {found!r}"


def _allowed(key: object, names: list[str]) -> str:
    near = difflib.get_close_matches(str(key), names, n=1)
    return f"did you mean {near[0]}? allowed: {', '.join(names)}" if near else f"allowed: {', '.join(names)}"


def _walk(model: type[BaseModel], loc: Sequence[Any]) -> tuple[list[Any], list[type[BaseModel]]]:
    """Follow pydantic's location: the keys as the file has them (no union tags), and the models found there."""
    keys: list[Any] = []
    here, several = [model], False
    for part in loc:
        tagged = _tagged(here, part) if several else []
        if tagged:
            here, several = tagged, False
            continue
        keys.append(part)
        fields = [m.model_fields[part].annotation for m in here if part in m.model_fields]
        if fields:
            here = [found for annotation in fields for found in _models_in(annotation)]
            several = bool(here) and "type" in here[0].model_fields
    return keys, here


def _tagged(models: Sequence[type[BaseModel]], tag: object) -> list[type[BaseModel]]:
    """Return the sections that a union's tag stands for; the path of one of the user's own is its class."""
    if not is_own(tag):
        return [m for m in models if tag in _tags(m)]
    return [OrOwn(m).section(str(tag)) for m in models if _is_open(m) and issubclass(m, Section)]


def _is_open(model: type[BaseModel]) -> bool:
    """Tell whether a section stands for those of the user's own: its type is any text."""
    return "type" in model.model_fields and model.model_fields["type"].annotation is str


def _tags(model: type[BaseModel]) -> tuple[Any, ...]:
    return get_args(model.model_fields["type"].annotation) if "type" in model.model_fields else ()


def _models_in(annotation: Any) -> list[type[BaseModel]]:  # noqa: ANN401  (any type expression)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [found for part in get_args(annotation) for found in _models_in(part)]
