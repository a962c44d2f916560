"""What a trial may choose from, for every key of a recipe."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import Field, model_validator

from pliant.training.recipe_section import Section

if TYPE_CHECKING:
    from collections.abc import Mapping

    from optuna import Trial
    from optuna.distributions import BaseDistribution

_DIGITS = 3


class Range(Section):
    """Numbers from `low` to `high`, both included; whole numbers if both ends are; `log` searches by ratios."""

    low: int | float
    high: int | float
    log: bool = False

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not (math.isfinite(self.low) and math.isfinite(self.high) and self.low < self.high):
            raise ValueError(f"low must be below high, both finite, found {self.low} and {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be positive where log is true, found {self.low}")
        return self

    @property
    def whole(self) -> bool:
        """Whether the numbers are integers."""
        return isinstance(self.low, int) and isinstance(self.high, int)


Values = Annotated[list[Any], Field(min_length=1)]
Space = dict[str, Values | Range]


def settings_in(space: Mapping[str, list[Any] | Range]) -> float:
    """Return how many settings there are, infinite where a range of real numbers is."""
    return math.prod(_count(choice) for choice in space.values())


def corner_of(space: Mapping[str, list[Any] | Range]) -> dict[str, Any]:
    """Return the setting of all first values and lower ends."""
    return {key: choice[0] if isinstance(choice, list) else choice.low for key, choice in space.items()}


def suggest(trial: Trial, space: Mapping[str, list[Any] | Range]) -> dict[str, Any]:
    """Let a trial choose a value for every key; real numbers are rounded to three digits."""
    return {key: _suggest(trial, key, choice) for key, choice in space.items()}


def told(
    space: Mapping[str, list[Any] | Range], overrides: Mapping[str, Any]
) -> tuple[dict[str, Any], dict[str, BaseDistribution]] | None:
    """Return a setting as the sampler's parameters and their distributions, or None if it lies outside the space."""
    if set(overrides) != set(space) or not all(_holds(space[key], value) for key, value in overrides.items()):
        return None
    params = {key: _code(value) if isinstance(space[key], list) else value for key, value in overrides.items()}
    return params, {key: _distribution(choice) for key, choice in space.items()}


def _count(choice: list[Any] | Range) -> float:
    if isinstance(choice, list):
        return len(choice)
    return choice.high - choice.low + 1 if choice.whole else math.inf


def _suggest(trial: Trial, key: str, choice: list[Any] | Range) -> Any:  # noqa: ANN401  (any value of a recipe)
    if isinstance(choice, list):
        return json.loads(trial.suggest_categorical(key, [_code(value) for value in choice]))
    if choice.whole:
        return trial.suggest_int(key, int(choice.low), int(choice.high), log=choice.log)
    drawn = float(f"{trial.suggest_float(key, choice.low, choice.high, log=choice.log):.{_DIGITS}g}")
    return min(max(drawn, choice.low), choice.high)


def _holds(choice: list[Any] | Range, value: Any) -> bool:  # noqa: ANN401  (any value of a recipe)
    if isinstance(choice, list):
        return value in choice
    return isinstance(value, int if choice.whole else int | float) and choice.low <= value <= choice.high


def _distribution(choice: list[Any] | Range) -> BaseDistribution:
    from optuna import distributions  # noqa: PLC0415  (an optional package)

    if isinstance(choice, list):
        return distributions.CategoricalDistribution([_code(value) for value in choice])
    if choice.whole:
        return distributions.IntDistribution(int(choice.low), int(choice.high), log=choice.log)
    return distributions.FloatDistribution(choice.low, choice.high, log=choice.log)


def _code(value: Any) -> str:  # noqa: ANN401  (any value of a recipe)
    """Return a value as text: the sampler takes no mappings."""
    return json.dumps(value, sort_keys=True)
