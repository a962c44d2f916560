"""Repair without gradients: layer by layer, the weights that a cut left are fitted to what the whole model computed."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial

import torch
from torch import Tensor, nn

from pliant.compress.calibrate import recompute_statistics
from pliant.compress.compressor import compressor_of
from pliant.compress.cut import Cut
from pliant.compress.factor import rectangle
from pliant.compress.filters import FilterPruning
from pliant.compress.least_squares import Moments, fit
from pliant.compress.low_rank import LowRank
from pliant.compress.patches import can_be_read, drawn, features, places, targets
from pliant.compress.replay import batches_of, check_same, layers_in_order, run_until, watching
from pliant.compress.unstructured import UnstructuredPruning
from pliant.structure.matricise import axes_of
from pliant.structure.norms import Example, call, norm_after
from pliant.structure.patterns import check_ignore


def reconstruct(
    model: nn.Module,
    reference: nn.Module,
    cut: Cut,
    batches: Iterable[Example],
    *,
    ridge: float = 1e-2,
    rows: int = 32,
    ignore: Sequence[str] = (),
) -> nn.Module:
    """Return a copy of a truncated model whose layers compute, as well as they can, what they did before the cut.

    Layer by layer, in the order in which they run, the weights W become

        argmin  mean |W x + b - y|^2 + damping |W - W_reference|^2

    with x what the layer reads in the repaired model, and y what it wrote in the reference; damping is `ridge` times
    the mean square of an entry of x. Zeros stay zeros and ranks stay what they are, so that `realise` of the result is
    exact as before. The bias, where there is one, is fitted too; running statistics are recomputed on the way, as
    `recalibrate_batchnorm` does. No labels and no gradients are used.

    Concerned are linear layers and convolutions with weights of their own that are called once, transposed convolutions
    apart. Layers that read what they read before and lost nothing stay as they are, and so do tensor trains and what
    other compressors cut than filters, ranks and single weights.

    Args:
        model: truncated by `cut`, with the shapes of `reference`; left as it is.
        reference: the model before the cut; left as it is.
        cut: which atoms stay.
        batches: what both can be called with; training data, a thousand images say. Both models run once for every
            layer, and norm layers once more.
        ridge: positive.
        rows: positions and samples that are looked at, for every column of the weight; at most all of them. A layer
            takes memory of the order of its squared columns (inputs times kernel size), and time of their cube.
        ignore: patterns of layer names to leave as they are.

    Raises:
        ValueError: if there is no batch, the models have other parameters, or a number is out of range.

    Reference: He, Zhang, Sun (2017), Channel pruning for accelerating very deep neural networks, arXiv 1707.06168, for
    the least squares; Zhang et al. (2016), arXiv 1505.06798, for ranks, and that layers follow one another.
    """
    _check(ridge, rows, ignore)
    examples = batches_of(batches)
    check_same(model, reference)
    constraints = _Constraints.of(cut)
    normed = norm_after(reference, examples[0])
    repaired = copy.deepcopy(model)
    stale = False
    for name in layers_in_order(reference, examples[0]):
        layer, before = repaired.get_submodule(name), reference.get_submodule(name)
        if name not in constraints.held and can_be_read(layer) and not any(fnmatchcase(name, p) for p in ignore):
            if stale:
                recompute_statistics(repaired, examples, partial(run_until, last=name))
            moments = _moments(repaired, reference, name, examples, rows)
            if moments.count:
                _refit(layer, before, moments, ridge, constraints.ranks.get(name), normed=name in normed)
        stale = stale or not torch.equal(layer.get_parameter("weight"), before.get_parameter("weight"))
    recompute_statistics(repaired, examples, call)
    return repaired


@dataclass(frozen=True)
class _Constraints:
    """What a cut demands beside zeros.

    Args:
        ranks: layer name -> the most that each of its matrices may have.
        held: names of the layers that a compressor of another kind cut.
    """

    ranks: Mapping[str, int]
    held: frozenset[str]

    @classmethod
    def of(cls, cut: Cut) -> _Constraints:
        parts = [(compressor_of(part), part) for part in cut.parts or (cut,)]
        return cls(
            ranks={n: part.count(n) for kind, part in parts if isinstance(kind, LowRank) for n in part.reduced()},
            held=frozenset(n for kind, part in parts if not isinstance(kind, _KNOWN) for n in part.reduced()),
        )


_KNOWN = (FilterPruning, LowRank, UnstructuredPruning)
_SEED = 0  # of the positions that are looked at
_SAME = 1e-5  # relative; less is rounding


def _moments(repaired: nn.Module, reference: nn.Module, name: str, examples: Sequence[Example], rows: int) -> Moments:
    """Sum what a layer reads in one model and writes in the other, at the same positions."""
    generator = torch.Generator().manual_seed(_SEED)
    layer = reference.get_submodule(name)
    matrices = axes_of(layer, "weight").to_matrices(layer.get_parameter("weight"))
    moments = Moments.empty(matrices)
    images = sum(_length(example) for example in examples)
    count = max(1, math.ceil(rows * matrices.shape[-1] / max(images, 1)))
    seen: list[tuple[Tensor, Tensor]] = []

    def write(module: nn.Module, _: object, output: Tensor) -> None:
        where = drawn(places(module, output), count, generator)
        wide = torch.promote_types(output.dtype, torch.float32)
        seen.append((where, targets(module, output, where).to(wide)))

    def read(module: nn.Module, arguments: tuple[object, ...], _: Tensor) -> None:
        where, wanted = seen.pop()
        if arguments and isinstance(arguments[0], Tensor):
            moments.add(features(module, arguments[0], where).to(wanted.dtype), wanted)

    for example in examples:
        for model, hook in ((reference, write), (repaired, read)):
            with watching(model, {name: hook}):
                run_until(model, example, name)
    return moments


def _length(example: Example) -> int:
    first = example if isinstance(example, Tensor) else example[0]
    return len(first) if isinstance(first, Tensor) and first.ndim else 1


@torch.no_grad()
def _refit(
    layer: nn.Module, before: nn.Module, moments: Moments, ridge: float, rank: int | None, *, normed: bool
) -> None:
    """Fit a layer's weight and bias in place."""
    weight, axes = layer.get_parameter("weight"), axes_of(layer, "weight")
    bias = dict(layer.named_parameters(recurse=False)).get("bias")
    means = moments.means(centred=normed or bias is not None)
    truncated = axes.to_matrices(weight)
    support = (truncated != 0.0) if rank is None else rectangle(truncated != 0.0)
    start = axes.to_matrices(before.get_parameter("weight")).double() * support
    missing = ((means.cross - start @ means.gram) * support).norm()
    if missing <= _SAME * means.cross.norm() and torch.equal(start.to(weight.dtype), truncated):
        return
    fitted = fit(start, support, means, ridge, rank)
    weight.copy_(axes.from_matrices(fitted, weight.shape))
    if bias is not None:
        shift = means.y - (fitted @ means.x[..., None])[..., 0]
        bias.copy_(torch.where(support.any(-1), shift, bias.view(shift.shape)).flatten())


def _check(ridge: float, rows: int, ignore: Sequence[str]) -> None:
    if not (math.isfinite(ridge) and ridge > 0.0):
        raise ValueError(f"ridge must be positive, found {ridge!r}")
    if isinstance(rows, bool) or not isinstance(rows, int) or rows < 1:
        raise ValueError(f"rows must be an int of at least 1, found {rows!r}")
    check_ignore(ignore)
