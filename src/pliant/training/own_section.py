"""Sections of the user's own, where a recipe takes one of several: their `type` is an import path."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, get_args

from pydantic import Discriminator, ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError, core_schema

from pliant.own import imported_class
from pliant.training.recipe_section import Section

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler


@dataclass(frozen=True)
class OrOwn:
    """Annotation of a union of sections, told apart by `type`, of which one stands for those of the user's own.

    Their `type` is "package.module:name", which is imported when the recipe is read.

    Args:
        base: that member of the union. If it is abstract, names must be those of subclasses that lack nothing;
            otherwise it takes the name as its `type`, and knows what to make of it.
    """

    base: type[Section]

    def section(self, name: str) -> type[Section]:
        """Return the section that a name stands for.

        Raises:
            ValueError: if there is none.
        """
        return imported_class(name, self.base) if inspect.isabstract(self.base) else self.base

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        built_in = reduce(or_, (member for member in get_args(source) if member is not self.base))
        return core_schema.no_info_wrap_validator_function(
            self._validated,
            handler.generate_schema(Annotated[built_in, Discriminator("type")]),
            serialization=core_schema.simple_ser_schema("any"),
        )

    def _validated(self, value: Any, built_in: core_schema.ValidatorFunctionWrapHandler) -> Any:  # noqa: ANN401
        name: Any = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
        if not is_own(name):
            return built_in(value)
        section = self.section(name)
        try:
            return section.model_validate(value)
        except ValidationError as error:
            lines = [_behind(name, dict(found)) for found in error.errors()]
            raise ValidationError.from_exception_data(section.__name__, lines) from None


def is_own(name: object) -> bool:
    """Tell whether a section's `type` is the path of one of the user's own."""
    return isinstance(name, str) and ":" in name


def _behind(name: str, error: dict[str, Any]) -> InitErrorDetails:
    """Return an error with the name of the section in front of its location, as those of built-in sections have it."""
    kind = PydanticCustomError(error["type"], error["msg"], error.get("ctx"))
    return InitErrorDetails(type=kind, loc=(name, *error["loc"]), input=error["input"])
