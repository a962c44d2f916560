"""LoRITa: every weight is trained as a product of factors, so that plain weight decay makes it low-rank."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn

from pliant.methods.chain import Chain, chain_of, chained, decomposed, unchained
from pliant.methods.change import ModuleChange
from pliant.structure.patterns import check_ignore


@dataclass(frozen=True)
class LoRITa(ModuleChange):
    """Low-rank induced training: W = W_N ... W_1 without activations in between, of full width min(rows, cols).

    With squared weight decay on the factors training minimises an implicit penalty of the product,

        min { sum_i norm_F(W_i)^2 : W_N ... W_1 = W }  =  N * sum_j s_j(W)^(2/N)

    for N = 2 twice the nuclear norm, for N = 3 a Schatten quasi-norm that is concave in the singular values. Factors
    start balanced, where that minimum is attained: with W = U S V^T

        W_1 = S^(1/N) V^T,   W_i = S^(1/N),   W_N = U S^(1/N)

    so that `apply` changes no output. After training `collapse` multiplies the factors out: the architecture, its
    inference cost and all compressors are those of the plain model.

    Args:
        depth: N, the number of factors, at least 2; published: 2 and 3, with weight decay 1e-4 to 1e-3.
        first: whether the first convolution or linear layer is factored as well.
        last: whether the last linear layer, which emits the classes, is.
        ignore: patterns of layer names that stay plain.

    Raises:
        ValueError: if the depth is no count of at least 2, or `ignore` is not a tuple of patterns.

    Reference: Zhang, Alkhouri, Wang, "Structure-preserving network compression via low-rank induced training through
    linear layers composition" (2024).
    """

    depth: int = 2
    first: bool = True
    last: bool = False
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if isinstance(self.depth, bool) or not isinstance(self.depth, int) or self.depth < 2:
            raise ValueError(f"depth must be a number of factors of at least 2, found {self.depth!r}")
        check_ignore(self.ignore)

    def apply(self, model: nn.Module) -> nn.Module:
        return chained(model, self._chain, first=self.first, last=self.last, ignore=self.ignore)

    def collapse(self, model: nn.Module) -> nn.Module:
        return unchained(model)

    def _chain(self, layer: nn.Module) -> Chain:
        left, values, right = decomposed(layer)
        root = values ** (1.0 / self.depth)
        inner = [root.diag_embed()] * (self.depth - 2)
        return chain_of(layer, [root.unsqueeze(-1) * right, *inner, left * root.unsqueeze(-2)])
