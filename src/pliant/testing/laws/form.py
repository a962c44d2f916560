"""Laws of form: dtypes, shapes, untouched arguments, memory layouts, batches."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from pliant.regions.region import Region
from pliant.testing.case import HALF, Case, Point, minus
from pliant.testing.violation import require


def results_match_arguments(case: Case) -> None:
    """Points come back with the shapes, dtype and device of the argument; norms with the shape of the batch."""
    generator = case.draws("match")
    x, g = case.normal(generator), case.normal(generator)
    for name, result in _points(case, x):
        found = [(tuple(part.shape), part.dtype, part.device) for part in result]
        expected = [(tuple(part.shape), part.dtype, part.device) for part in x]
        require(found == expected, f"{name} keeps shape, dtype and device", case, found, expected)
    computing = torch.float32 if case.dtype in HALF else case.dtype
    for name, value in (
        ("value", case.region.value(case.pack(x))),
        ("dual", case.region.dual(case.pack(g))),
        ("gap", case.region.gap(case.pack(x), case.pack(g))),
    ):
        found_form, form = (tuple(value.shape), value.dtype), (case.batch, computing)
        require(found_form == form, f"{name} has the shape of the batch", case, found_form, form)
    require(isinstance(case.diameter(), float), "diameter is a float", case, type(case.diameter()), float)


def arguments_are_untouched(case: Case) -> None:
    """No method writes to its argument, nor returns memory that a write to the vertex would share with g."""
    generator = case.draws("untouched")
    x, g = case.normal(generator), case.normal(generator)
    copies = [part.clone() for part in (*x, *g)]
    for _, result in _points(case, g):
        del result
    for _, result in _points(case, x):
        del result
    case.gap(x, g)
    case.dual(g)
    case.contains(x, 0.0)
    same = all(torch.equal(a, b) for a, b in zip((*x, *g), copies, strict=True))
    require(same, "arguments are untouched", case, "changed entries", "none")
    for part in case.lmo(g):
        part.zero_()
    same = all(torch.equal(a, b) for a, b in zip((*x, *g), copies, strict=True))
    require(same, "a vertex does not share memory with g", case, "shared memory", "its own")


def memory_format_is_ignored(case: Case) -> None:
    """f(x) is the same for contiguous, non-contiguous and channels-last x, up to the rounding of sums."""
    x = case.normal(case.draws("memory"))
    expected = list(_points(case, x))
    for layout, other in _layouts(x, len(case.batch)):
        for (name, old), (_, new) in zip(expected, _points(case, other), strict=True):
            distance, allowed = case.length(minus(new, old)), case.slack * case.length(x)
            require(bool((distance <= allowed).all()), f"{name} of {layout} tensors", case, distance, allowed)
        error, allowed = (case.value(other) - case.value(x)).abs(), case.slack * case.value(x)
        require(bool((error <= allowed).all()), f"value of {layout} tensors", case, error, allowed)


def batch_is_a_loop(case: Case, single: Region) -> None:
    """F of a batch is f of each of its points: value, dual, lmo, project, scale_into, gap.

    Args:
        case: a region with batch dimensions and the sizes of them.
        single: the same region without batch dimensions.
    """
    generator = case.draws("batch")
    x, g = case.normal(generator), case.normal(generator)
    alone = Case(single, case.shapes, case.dtype, case.seed, (), case.device, case.trials)
    results = dict(_points(case, x))
    gap = case.gap(x, g)
    for index in torch.cartesian_prod(*[torch.arange(n) for n in case.batch]).reshape(-1, len(case.batch)).tolist():
        at = tuple(index)
        one, direction = tuple(part[at] for part in x), tuple(part[at] for part in g)
        for name, expected in _points(alone, one):
            distance = alone.length(minus(tuple(part[at] for part in results[name]), expected))
            allowed = case.slack * alone.length(one)
            require(bool(distance <= allowed), f"{name} of a batch is a loop", case, distance, allowed)
        error = (gap[at] - alone.gap(one, direction)).abs()
        allowed = case.slack * (alone.length(one) + case.region.radius) * alone.length(direction)
        require(bool(error <= allowed), "gap of a batch is a loop", case, error, allowed)


def _points(case: Case, x: Point) -> Iterator[tuple[str, Point]]:
    functions: tuple[tuple[str, Callable[[Point], Point]], ...] = (
        ("lmo", case.lmo),
        ("project", case.project),
        ("scale_into", case.scale_into),
    )
    for name, function in functions:
        yield name, function(x)


def _layouts(x: Point, batch: int) -> Iterator[tuple[str, Point]]:
    yield "every second entry of wider", tuple(_strided(part) for part in x)
    yield "transposed", tuple(_reversed_axes(part) for part in x)
    if any(part.ndim - batch == 4 for part in x):
        yield "channels-last", tuple(_channels_last(part, batch) for part in x)


def _strided(x: Tensor) -> Tensor:
    return torch.stack([x, torch.full_like(x, 7.0)], dim=-1)[..., 0]


def _reversed_axes(x: Tensor) -> Tensor:
    order = list(range(x.ndim))[::-1]
    return x.permute(order).contiguous().permute(order)


def _channels_last(x: Tensor, batch: int) -> Tensor:
    if x.ndim - batch != 4:
        return x
    flat = x.reshape(-1, *x.shape[batch + 1 :]) if batch else x
    return (
        flat.contiguous(memory_format=torch.channels_last).reshape(x.shape)
        if batch
        else flat.contiguous(memory_format=torch.channels_last)
    )
