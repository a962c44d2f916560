"""Repair without gradients: layer by layer, the weights that a cut left are fitted to what the whole model computed."""

from __future__ import annotations

import copy
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from torch import Tensor, nn

from pliant.compress.calibrate import STATISTICAL, recompute_statistics
from pliant.compress.compressor import compressor_of
from pliant.compress.cut import Cut
from pliant.compress.filters import FilterPruning
from pliant.compress.least_squares import Limit, Means, Moments, fit
from pliant.compress.low_rank import LowRank
from pliant.compress.observe import check_fit, observe, parts_of, places_wanted, samples_of
from pliant.compress.patches import can_be_read, drawn, places, targets
from pliant.compress.replay import batches_of, check_same, labels_hint, layers_in_order
from pliant.compress.unstructured import UnstructuredPruning
from pliant.compress.walk import Visitor, Walk, walk
from pliant.structure.example import Example, call
from pliant.structure.matricise import Scheme, axes_in, axes_of, widths
from pliant.structure.norms import norm_after
from pliant.structure.patterns import check_ignore, ignored_by, warn_of_unmatched

_LOG = logging.getLogger(__name__)


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
    the mean square of an entry of x, about its mean if the layer has a bias or is followed by batch or instance norm,
    for which means do not matter. Zeros stay zeros and ranks stay what they are, so that `realise` of the result is
    exact as before. The biases of channels that have weights are fitted too; running statistics are recomputed on the
    way, as `recalibrate_batchnorm` does. No labels and no gradients are used.

    Concerned are linear layers and convolutions with weights of their own that are called once, with what they read as
    positional argument, transposed convolutions apart. Layers that read what they read before and lost nothing stay as
    they are, and so do tensor trains and what other compressors cut than filters, ranks and single weights. A layer
    that reads more or fewer rows of a batch than before the cut, because the model sends rows to its layers as its data
    say (a mixture of experts), stays as it was cut, and a warning names it. Where as many rows are read, but others
    (experts that choose so many rows each, the k best tokens), that is not seen: name such layers in `ignore`.

    Args:
        model: truncated by `cut`, with the shapes of `reference`; left as it is.
        reference: the model before the cut; left as it is.
        cut: which atoms stay.
        batches: what both can be called with; training data, a thousand images say. Where they can be
            taken as one batch, both models run on that, once for each part of the model whose outputs are held together
            (1 GiB of them); if not, the repaired model runs twice for every layer as far as that.
        ridge: positive.
        rows: positions and samples that are looked at, for every column of the weight; at most all of them. A layer
            takes several matrices of columns times columns in float64 (columns are inputs times kernel size), and time
            of their cube: 5 GB each for the 25,088 of VGG's first linear layer, which `ignore` can leave out.
        ignore: patterns of layer names to leave as they are.

    Raises:
        ValueError: if there is no batch, the models have other parameters, a number is out of range, or what a layer
            reads or writes is not finite.

    Reference: He, Zhang, Sun (2017), Channel pruning for accelerating very deep neural networks, arXiv 1707.06168, for
    the least squares; Zhang et al. (2016), arXiv 1505.06798, for ranks, and that layers follow one another.
    """
    check_fit(ridge, rows)
    check_ignore(ignore)
    examples = batches_of(batches)
    check_same(model, reference)
    warn_of_unmatched(reference, ignore)
    constraints = _Constraints.of(cut, reference)
    with labels_hint():
        normed = norm_after(reference, examples[0])
    repaired = copy.deepcopy(model)
    names = [name for name in layers_in_order(reference, examples[0]) if can_be_read(reference.get_submodule(name))]
    fitted = [n for n in names if n not in constraints.held and not ignored_by(ignore, n, f"{n}.weight")]
    counts = {name: places_wanted(reference.get_submodule(name), examples, rows) for name in fitted}
    if fitted:
        walked = walk(reference, fitted, examples)
        stale = _differ_elsewhere(repaired, reference, fitted)
        repair = _Repair(repaired, reference, constraints.ranks, frozenset(normed), ridge, changed=stale)
        for window in parts_of(fitted, partial(_numbers, reference, counts, samples_of(examples)), _AHEAD):
            repair.written = _written(reference, {name: counts[name] for name in window}, walked)
            stale = walked.visit(repaired, window, repair, stale=stale)
        _warn_of(repair.strayed)
    recompute_statistics(repaired, examples, call)
    return repaired


@dataclass(frozen=True)
class _Constraints:
    """What a cut demands beside zeros.

    Args:
        ranks: layer name -> how that of its matrices is limited.
        held: names of the layers that a compressor of another kind cut.
    """

    ranks: Mapping[str, Limit]
    held: frozenset[str]

    @classmethod
    def of(cls, cut: Cut, model: nn.Module) -> _Constraints:
        parts = [(compressor_of(part), part) for part in cut.parts or (cut,)]
        ranks = [(kind.scheme, part) for kind, part in parts if isinstance(kind, LowRank)]
        return cls(
            ranks={n: _limit(model.get_submodule(n), s, part.count(n)) for s, part in ranks for n in part.reduced()},
            held=frozenset(n for kind, part in parts if not isinstance(kind, _KNOWN) for n in part.reduced()),
        )


def _limit(layer: nn.Module, scheme: Scheme, rank: int) -> Limit:
    spatial = axes_in(scheme, layer).spatial
    return Limit(rank, layer.get_parameter("weight").shape[-1] if spatial else 1)


_KNOWN = (FilterPruning, LowRank, UnstructuredPruning)
_SEED = 0  # of the positions that are looked at
_SAME = 1e-5  # relative; less is rounding


_AHEAD = 2**28  # numbers: 1 GiB


@dataclass(frozen=True)
class _Call:
    """What a layer did with a batch.

    Args:
        read: shape of what it read; None if that is no positional tensor.
        where: positions of its output.
        wrote: what it wrote there.
    """

    read: torch.Size | None
    where: Tensor
    wrote: Tensor


_Written = dict[int, _Call]  # by the number of the batch


def _warn_of(strayed: Sequence[str]) -> None:
    """Log which layers were not fitted because they read other rows than before the cut."""
    if strayed:
        _LOG.warning(
            "reconstruct: these layers read more or fewer rows than before the cut, as the model sends rows to its "
            "layers by its data, and stay as they were cut: %s",
            ", ".join(strayed),
        )


def _numbers(reference: nn.Module, counts: Mapping[str, int], samples: int, name: str) -> int:
    """Return how many numbers `_written` holds of a layer."""
    return samples * counts[name] * widths(reference.get_submodule(name))[0]


def _written(reference: nn.Module, counts: Mapping[str, int], walked: Walk) -> dict[str, _Written]:
    """Return what layers write, given in the order in which they run, at so many random positions of every sample."""
    generator = torch.Generator().manual_seed(_SEED)
    found: dict[str, _Written] = {name: {} for name in counts}

    def look(name: str, number: int, inputs: Tensor | None, output: Tensor) -> None:
        layer = reference.get_submodule(name)
        where = drawn(places(layer, output), counts[name], generator)
        wide = torch.promote_types(output.dtype, torch.float32)
        kept = targets(layer, output, where).to(wide, copy=True)  # what follows may write over the output itself
        found[name][number] = _Call(None if inputs is None else inputs.shape, where, kept)

    walked.watch(reference, counts, look)
    return found


@dataclass(eq=False)
class _Repair(Visitor):
    """Fits layers.

    Args:
        repaired: the model whose layers they are.
        reference: the model before the cut.
        ranks: as in `_Constraints`.
        normed: names of the layers that are followed by batch or instance norm.
        ridge: see `reconstruct`.
        written: what they are to write.
        changed: whether a layer has other weights than before the cut.
        strayed: names of the layers that read other rows than before the cut, which are left alone.
    """

    repaired: nn.Module
    reference: nn.Module
    ranks: Mapping[str, Limit]
    normed: frozenset[str]
    ridge: float
    written: dict[str, _Written] = field(default_factory=dict)
    changed: bool = False
    strayed: list[str] = field(default_factory=list)
    _moments: dict[str, Moments] = field(default_factory=dict)
    _read: dict[str, dict[int, torch.Size]] = field(default_factory=lambda: defaultdict(dict))

    def read(self, name: str, number: int, inputs: Tensor) -> None:
        layer, written = self.repaired.get_submodule(name), self.written[name]
        self._read[name][number] = inputs.shape
        if number not in written or written[number].read != inputs.shape:
            return
        if name not in self._moments:
            self._moments[name] = Moments.empty(axes_of(layer, "weight").to_matrices(layer.get_parameter("weight")))
        observe(self._moments[name], layer, inputs, written[number].where, written[number].wrote)

    def settle(self, name: str) -> bool:
        """Fit a layer.

        Raises:
            ValueError: if what it reads or writes is not finite.
        """
        moments = self._moments.pop(name, None)
        layer, before = self.repaired.get_submodule(name), self.reference.get_submodule(name)
        read, written = self._read.pop(name, {}), self.written.pop(name)
        if read != {number: one.read for number, one in written.items() if one.read is not None}:
            self.strayed.append(name)
        elif moments is not None:
            if not moments.is_finite():
                raise ValueError(
                    f"batches: layer {name!r} reads or writes infinite or undefined numbers, it cannot be fitted"
                )
            _refit(layer, before, moments, self.ridge, self.ranks.get(name), normed=name in self.normed)
        self.changed = self.changed or not torch.equal(layer.get_parameter("weight"), before.get_parameter("weight"))
        return self.changed


@torch.no_grad()
def _refit(
    layer: nn.Module, before: nn.Module, moments: Moments, ridge: float, limit: Limit | None, *, normed: bool
) -> None:
    """Fit a layer's weight and bias in place."""
    weight, axes = layer.get_parameter("weight"), axes_of(layer, "weight")
    bias = dict(layer.named_parameters(recurse=False)).get("bias")
    means = moments.means(centred=normed or bias is not None)
    truncated = axes.to_matrices(weight)
    support = (truncated != 0.0) if limit is None else limit.rectangle(truncated != 0.0)
    start = axes.to_matrices(before.get_parameter("weight")).double() * support
    if not _is_missing(means, start, support, bias, weight.dtype) and torch.equal(start.to(weight.dtype), truncated):
        return
    fitted = fit(start, support, means, ridge, limit)
    if fitted is None:
        fitted = truncated.double()
    weight.copy_(axes.from_matrices(fitted, weight.shape))
    if bias is not None:
        shift = means.y - (fitted @ means.x[..., None])[..., 0]
        bias.copy_(torch.where(support.any(-1), shift, bias.view(shift.shape)).flatten())
    torch.clear_autocast_cache()  # an autocast around all this would go on with the weights from before


def _is_missing(means: Means, start: Tensor, support: Tensor, bias: Tensor | None, dtype: torch.dtype) -> bool:
    """Tell whether a layer with weights `start` writes something else than it is to, apart from rounding."""
    tolerance = max(_SAME, torch.finfo(dtype).eps)
    if ((means.cross - start @ means.gram) * support).norm() > tolerance * means.cross.norm():
        return True
    if bias is None:
        return False
    offset = means.y - (start @ means.x[..., None])[..., 0] - bias.double().view(means.y.shape)
    scale = means.y.norm() + (start @ means.x[..., None]).norm() + bias.double().norm()
    return bool((offset * support.any(-1)).norm() > tolerance * scale)


def _differ_elsewhere(model: nn.Module, reference: nn.Module, fitted: Sequence[str]) -> bool:
    """Tell whether the cut took something from modules that are neither fitted nor norms, whose readers are."""
    theirs = dict(reference.named_modules())
    return any(
        not torch.equal(parameter, theirs[name].get_parameter(key))
        for name, module in model.named_modules()
        if name not in fitted and not isinstance(module, STATISTICAL)
        for key, parameter in module.named_parameters(recurse=False)
    )
