"""What every section of a recipe shares, and the kinds of number that recipes hold."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pliant.regions.gauges import TopK


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, types are not coerced, nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


def _check_k(k: float) -> float:
    return TopK(k).k


K = Annotated[int | float, BeforeValidator(_check_k)]  # an int is a count, a float a fraction; YAML keeps them apart
Share = Annotated[float, Field(ge=0, lt=1)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Momentum = Annotated[float, Field(ge=0, lt=1)]
