"""The leading singular subspace of slowly changing matrices, followed from call to call without host reads.

One step of subspace iteration a call, started from the right factors of the last call, followed by a Rayleigh-Ritz
rotation that needs no eigendecomposition: orthogonal iteration on powers of the small Gram matrix.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from pliant.regions.orthogonal import orthonormal_columns
from pliant.regions.scaling import nonzero

# Over 1,000 training steps of a small network, objective over optimum at k = 10 % of the rank: 2 extra columns, mean
# .994, minimum .62; 4 extra, .998 and .81; 8 extra, .9995 and .968.
EXTRA = 8
COLD_STEPS = 4  # from noise, before the first use
ROUNDS, SQUARINGS = 2, 2  # of the rotation; one round alone lowered the minimum to .83
# From here on products of bfloat16 are faster, with casts: found 1.0 times at 2^15 entries, 1.7 at 2^17, 2.3 at 2^21.
LARGE = 2**16


class Factors(NamedTuple):
    """A matrix restricted to the subspace, m ~ left @ right / scale, terms in descending order, approximately.

    Shapes (*batch, groups, rows, l), (*batch, groups, l, cols) and (*batch, groups, l); the columns of `left` are
    orthonormal, the rows of `right` have the lengths `sizes`, and its largest entry is about 1.
    """

    left: Tensor
    right: Tensor
    sizes: Tensor


def follow(matrices: Tensor, count: int, memory: dict[str, Any], *, rough: bool) -> Factors:
    """Return the factors of the leading subspace, of `count` and a few more dimensions.

    Args:
        matrices: shape (*batch, groups, rows, cols) with rows <= cols, float32 or float64.
        count: how many singular triplets are wanted.
        memory: "subspace", shape (*batch, groups, l, cols), from the last call; where it is missing or does not
            fit, the iteration starts afresh.
        rough: whether `right` may be 1e-3 off, relative to its largest row, where that is faster.
    """
    short, long = matrices.shape[-2:]
    shape = (*matrices.shape[:-2], min(count + EXTRA, short), long)
    basis = memory.get("subspace")
    steps = 1
    if basis is None or basis.shape != shape:
        basis, steps = _noise(shape, matrices), COLD_STEPS
    half = rough and matrices.dtype is torch.float32 and short * long >= LARGE and _multiplies_halves(matrices.device)
    flat = matrices.flatten(0, -3)
    factor = flat.bfloat16() if half else flat
    right = basis.to(matrices.dtype).reshape(-1, *shape[-2:])
    for _ in range(steps):
        left, right = _iterate(factor, right, shape[-3])
    memory["subspace"] = right = right.view(shape)
    return Factors(left.view(*shape[:-2], *left.shape[-2:]), right, torch.linalg.vector_norm(right, dim=-1))


@torch.compiler.assume_constant_result  # type: ignore[untyped-decorator]
def _multiplies_halves(device: torch.device) -> bool:
    """Tell whether products of bfloat16 are known to be much faster than those of float32."""
    return device.type == "cpu" and bool(torch.cpu._is_avx512_bf16_supported())  # noqa: SLF001


def _iterate(matrices: Tensor, right: Tensor, groups: int) -> tuple[Tensor, Tensor]:
    """Return both factors, from the right one of the last call, of matrices (batch, rows, cols) of any precision.

    Where the subspace has lost the matrix, the columns handed to the factorisation are zero or noise, and it returns
    orthonormal columns nevertheless: a random subspace, from which the next steps recover.
    """
    columns = torch.bmm(matrices, right.to(matrices.dtype).mT).to(right.dtype)
    # What a NaN left behind is zero here, and the factorisation fills up with directions of its own.
    left = orthonormal_columns(torch.nan_to_num(columns, 0.0, 0.0, 0.0))
    right = torch.bmm(left.to(matrices.dtype).mT, matrices).to(right.dtype)
    # One scale for all groups: they are compared.
    peak = right.abs().view(-1, groups, *right.shape[-2:]).amax((-3, -2, -1)).repeat_interleave(groups)
    right.div_(nonzero(peak)[:, None, None])
    turn = _rotation(torch.bmm(right, right.mT))
    return torch.bmm(left, turn), torch.bmm(turn.mT, right)


def _rotation(gram: Tensor) -> Tensor:
    """Return orthonormal columns that nearly diagonalise small Gram matrices (batch, l, l), largest first."""
    total = _turn(gram)
    for _ in range(ROUNDS - 1):
        total = torch.bmm(total, _turn(_seen_from(total, gram)))
    return _columns(total, _diagonal(_seen_from(total, gram)).argsort(-1, descending=True))


def _turn(gram: Tensor) -> Tensor:
    """Return an orthonormal basis of the fourth power, the columns with the largest entries on the diagonal first."""
    values, order = _diagonal(gram).sort(-1, descending=True)
    power = gram / nonzero(values[:, :1, None])
    for _ in range(SQUARINGS):
        power = torch.bmm(power, power)
    return orthonormal_columns(_columns(power, order))


def _seen_from(basis: Tensor, gram: Tensor) -> Tensor:
    return torch.bmm(torch.bmm(basis.mT, gram), basis)


def _diagonal(matrices: Tensor) -> Tensor:
    return matrices.diagonal(dim1=-2, dim2=-1)


def _columns(matrices: Tensor, order: Tensor) -> Tensor:
    return matrices.gather(-1, order.unsqueeze(-2).expand_as(matrices))


def _noise(shape: tuple[int, ...], like: Tensor) -> Tensor:
    generator = torch.Generator(like.device).manual_seed(0)
    noise = torch.randn(shape[-2:], generator=generator, dtype=like.dtype, device=like.device)
    return noise.expand(shape)
