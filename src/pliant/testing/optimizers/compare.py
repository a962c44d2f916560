"""Comparisons that laws are made of."""

from __future__ import annotations

import torch
from torch import Tensor

from pliant.testing.optimizers.case import OptimizerCase, Run
from pliant.testing.violation import require


def distance(a: list[Tensor], b: list[Tensor]) -> float:
    """Return the largest difference of two lists of tensors; NaN if there is one."""
    gaps = [float((x.double() - y.double()).abs().max()) for x, y in zip(a, b, strict=True) if x.numel()]
    return float("nan") if any(gap != gap for gap in gaps) else max(gaps, default=0.0)  # noqa: PLR0124  (NaN)


def same(a: object, b: object) -> bool:
    """Tell whether two structures of plain data and tensors are equal to the bit."""
    if isinstance(a, Tensor) and isinstance(b, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple) and isinstance(b, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return type(a) is type(b) and a == b


def oddities(state: object, path: str = "state_dict") -> list[str]:
    """Return where a structure holds something else than plain data and tensors."""
    if isinstance(state, dict):
        keys = [f"key {key!r} of {path}" for key in state if not isinstance(key, str | int)]
        return keys + [odd for key, value in state.items() for odd in oddities(value, f"{path}[{key!r}]")]
    if isinstance(state, list | tuple):
        return [odd for i, value in enumerate(state) for odd in oddities(value, f"{path}[{i}]")]
    plain = state is None or type(state) in {bool, int, float, str, Tensor}
    return [] if plain else [f"{type(state).__name__} at {path}"]


def require_same(expected: list[Tensor], found: list[Tensor], law: str, case: OptimizerCase) -> None:
    """Raise unless two lists of tensors are equal to the bit."""
    if not same(expected, found):
        require(False, law, case, f"a difference of {distance(expected, found):.3g}", "none")


def require_close(expected: list[Tensor], found: list[Tensor], law: str, case: OptimizerCase) -> None:
    """Raise unless two lists of tensors are equal up to the rounding of a few steps."""
    largest = max(float(x.abs().max()) for x in expected)
    allowed = 1e3 * case.eps * max(largest, 1.0)
    require(
        distance(expected, found) <= allowed, law, case, f"a difference of {distance(expected, found):.3g}", allowed
    )


def require_feasible(run: Run, law: str) -> None:
    """Raise unless all points of a run are feasible, up to rounding."""
    allowed = 100.0 * run.case.eps
    require(run.excess() <= allowed, law, run.case, f"value / radius - 1 = {run.excess():.3g}", allowed)
