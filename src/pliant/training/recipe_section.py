"""What every section of a recipe shares, and the kinds of number that recipes hold."""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pliant.regions.gauges import TopK


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, types are not coerced, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def by_type(union: Any) -> dict[str, type[Section]]:  # noqa: ANN401  (a union of sections)
    """Return the sections of a union by the names that their `type` has in recipes."""
    return {get_args(section.model_fields["type"].annotation)[0]: section for section in get_args(union)}


def _check_k(k: float) -> float:
    return TopK(k).k


K = Annotated[int | float, BeforeValidator(_check_k)]  # an int is a count, a float a fraction; YAML keeps them apart
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
