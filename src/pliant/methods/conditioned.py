"""Training of a fixed rank with orthonormal factors and a well-conditioned core (CondLR)."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pliant.compress.atoms import check_fraction, removed_count
from pliant.methods.around import Step, StepMap
from pliant.methods.chain import Chain, chain_of, chained, decomposed, unchained
from pliant.methods.change import ModuleChange
from pliant.methods.targets import Target
from pliant.regions.orthogonal import orthonormal_columns
from pliant.structure.matricise import axes_of
from pliant.structure.patterns import check_ignore


@dataclass(frozen=True)
class LowRankCores(ModuleChange):
    """Layers W = U S V^T of a fixed rank r, trained as a chain of V^T, S and U.

    U and V start with the leading singular vectors, S with the singular values: the best approximation of rank r of the
    given weight, itself if r is full.

    Args:
        fraction: share of the rank that is removed before training, 0 <= fraction < 1.
        first: whether the first convolution or linear layer becomes low-rank as well.
        last: whether the last linear layer, which emits the classes, does.
        ignore: patterns of layer names that stay plain.

    Raises:
        ValueError: if the fraction is out of range, or `ignore` is not a tuple of patterns.
    """

    fraction: float
    first: bool = True
    last: bool = False
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_fraction(self.fraction)
        check_ignore(self.ignore)

    def apply(self, model: nn.Module) -> nn.Module:
        return chained(model, self._chain, first=self.first, last=self.last, ignore=self.ignore)

    def collapse(self, model: nn.Module) -> nn.Module:
        return unchained(model)

    def _chain(self, layer: nn.Module) -> Chain:
        left, values, right = decomposed(layer)
        rank = max(1, values.shape[-1] - removed_count(self.fraction, values.shape[-1]))
        return chain_of(layer, [right[..., :rank, :], values[..., :rank].diag_embed(), left[..., :rank]])


@dataclass(frozen=True)
class Core:
    """The three factors of one layer.

    Args:
        right: V^T, with orthonormal rows.
        core: S.
        left: U, with orthonormal columns.
    """

    right: Target
    core: Target
    left: Target


def cores(model: nn.Module) -> tuple[Core, ...]:
    """Return the factors of every layer that `LowRankCores` changed, in the order of the model.

    Raises:
        ValueError: if there is none.
    """
    found = [(name, chain) for name, chain in model.named_modules() if isinstance(chain, Chain) and len(chain) == 3]
    if not found:
        raise ValueError("the model has no layer of three factors; train what LowRankCores(...).apply(model) returns")
    return tuple(Core(*(_target(f"{name}.{i}", part) for i, part in enumerate(chain))) for name, chain in found)


@dataclass(frozen=True)
class Conditioned(StepMap):
    """Keeps U and V orthonormal and the condition number of S bounded.

    Before the optimizer's step the gradients of U and V are projected onto the complement of their span and scaled,

        G_U  <-  c (I - U U^T) G_U,     G_V  <-  c (I - V V^T) G_V,     c = (s_min(S) / s_max(S))^2

    after it U and V are replaced by the orthonormal factor of their QR decomposition (its triangle with a positive
    diagonal), and the singular values of S are clamped into

        [m - e, m + e],   m = their mean,   e = m (condition - 1) / (condition + 1)

    so that their ratio is at most `condition`: the network stays as stable to perturbations as its layers are.

    Args:
        cores: the factors, see `cores`.
        condition: largest ratio of singular values of S, at least 1; published: 1.1 and 1.5.

    Raises:
        ValueError: if the condition is below 1.

    Reference: Savostianova, Zangrando, Ceruti, Tudisco, "Robust low-rank training via approximate orthonormal
    constraints" (2023); momentum 0.45 there.
    """

    cores: tuple[Core, ...]
    condition: float = 1.5

    def __post_init__(self) -> None:
        if not self.condition >= 1.0:
            raise ValueError(f"condition must be a ratio of at least 1, found {self.condition!r}")

    def before(self, step: Step) -> None:
        for each in self.cores:
            values = torch.linalg.svdvals(each.core.matrices())
            scale = (values[:, -1:] / values[:, :1].clamp_min(torch.finfo(values.dtype).tiny)).square().unsqueeze(-1)
            for target in step.moving((each.right, each.left)):
                columns = _columns(each, target, target.matrices())
                grad = _columns(each, target, target.matrices(target.parameter.grad))
                inside = scale * (grad - columns @ (columns.mT @ grad))
                target.write_grad(target.shaped(_columns(each, target, inside)).to(target.parameter.dtype))

    def after(self, step: Step) -> None:
        for each in self.cores:
            for target in step.moving((each.right, each.left)):
                moved = _columns(each, target, target.matrices())
                target.write(_columns(each, target, _retracted(moved)))
            for target in step.moving((each.core,)):
                target.write(self._clamped(target.matrices()))

    def _clamped(self, core: Tensor) -> Tensor:
        left, values, right = torch.linalg.svd(core, full_matrices=False)
        mean = values.mean(-1, keepdim=True)
        slack = mean * (self.condition - 1.0) / (self.condition + 1.0)
        return left * values.clamp(mean - slack, mean + slack).unsqueeze(-2) @ right


def _columns(core: Core, target: Target, matrices: Tensor) -> Tensor:
    """Return the matrices of a factor with its orthonormal vectors as columns, and back."""
    return matrices.mT if target is core.right else matrices


def _retracted(columns: Tensor) -> Tensor:
    basis = orthonormal_columns(columns)
    signs = torch.where((basis * columns).sum(-2, keepdim=True) < 0, -1.0, 1.0)
    return basis * signs


def _target(name: str, layer: nn.Module) -> Target:
    return Target(name, layer.get_parameter("weight"), axes_of(layer, "weight"))
