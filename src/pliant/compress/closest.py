"""closest: of several compressors, the one whose cut computes most nearly what the whole model does."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import nn

from pliant.compress.budgets import Budget, BudgetError
from pliant.compress.compressor import Compressor, check_kind
from pliant.compress.reconstruct import reconstruct
from pliant.compress.replay import batches_of, labels_hint
from pliant.structure.example import Example, call
from pliant.structure.outputs import outputs_of
from pliant.structure.untouched import untouched


def closest(
    candidates: Iterable[Compressor],
    model: nn.Module,
    batches: Iterable[Example],
    fraction: float | None = None,
    *,
    budget: Budget | None = None,
    example: Example,
) -> Compressor:
    """Return the compressor whose cut, reconstructed, has the outputs with the least squared distance from the model's.

        candidates = [Both(pruning, split=split) for split in (0.0, 0.5, 1.0)]
        compressor = closest(candidates, model, batches, budget=Macs(0.4), example=images)
        small = compress(model, compressor, budget=Macs(0.4), example=images, reconstruct=batches)

    No labels are needed. Every candidate is cut and reconstructed once; of several that are equally close, the first.

    Args:
        candidates: what is tried; those that cannot meet the budget are left out.
        model: the trained model, before the cut; left as it is.
        batches: what it can be called with; training data, a thousand images say.
        fraction: share of the atoms to remove, 0 <= fraction < 1.
        budget: instead of a fraction.
        example: what the model can be called with; MACs are counted on it.

    Raises:
        BudgetError: if no candidate can meet the budget.
        TypeError: if a candidate is no Compressor.
        ValueError: if there is no candidate or no batch, or not exactly one of fraction and budget is given.
    """
    tried = list(candidates)
    for candidate in tried:
        check_kind(candidate)
    if not tried:
        raise ValueError("candidates must hold at least one compressor, found none")
    if (fraction is None) == (budget is None):
        raise ValueError(f"exactly one of fraction and budget must be given, found {fraction!r} and {budget!r}")
    examples = batches_of(batches)
    distances: list[tuple[float, Compressor]] = []
    refused: BudgetError | None = None
    for candidate in tried:
        try:
            cut = candidate.select(model, fraction, budget=budget, example=example)
        except BudgetError as error:
            refused = error
            continue
        found = reconstruct(candidate.truncate(model, cut), model, cut, examples)
        distances.append((_squared_distance(model, found, examples), candidate))
    if not distances and refused is not None:
        raise refused
    return min(distances, key=lambda pair: pair[0])[1]


def _squared_distance(first: nn.Module, second: nn.Module, examples: Sequence[Example]) -> float:
    total = 0.0
    with untouched(first), untouched(second), torch.no_grad(), labels_hint():
        for example in examples:
            pairs = zip(outputs_of(call(first, example)), outputs_of(call(second, example)), strict=True)
            total += sum(float((one.double() - other.double()).square().sum()) for (one, _), (other, _) in pairs)
    return total
