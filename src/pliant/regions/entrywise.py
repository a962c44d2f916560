"""The oracle of single entries for large tensors: no sorting, no host reads."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from pliant.regions.gauges import Flat, Proportional
from pliant.regions.scaling import nonzero, nonzero_length, to_unit_peak
from pliant.regions.vertex import Product, across, lengths

# Up to here the largest entries are found by sorting; above, by sampling or in two stages.
LARGE = 2**15
SAMPLE, LARGEST_SAMPLE = 2**13, 2**17
RANK = 1024  # of the threshold in a sample, if that needs no larger one; it counts entries to 3 %
SMALLEST_RANK = 128  # below, the count is too uncertain
BRACKET = 0.25  # the threshold lies between those of this share more and this share fewer entries


def whole(x: Tensor, pattern: Proportional | Flat, batch: int) -> Product:
    """Return the maximiser of <v, x> over the unit l2 ball (`Proportional`) or the unit l-inf ball (`Flat`)."""
    one = torch.ones((1,) * x.ndim, dtype=x.dtype, device=x.device)
    if isinstance(pattern, Flat):
        return Product(x.sign(), one, batch, own=True)
    if math.prod(x.shape[batch:]) <= LARGE:
        (x,), _ = to_unit_peak([x], batch)
    return Product(x, across(_inverse(lengths(x, batch)), x.ndim) * one, batch)


def thresholded(x: Tensor, pattern: Proportional | Flat, batch: int, memory: dict[str, Any]) -> Product:
    """Return a nearly optimal v of at most unit norm whose entries are those of x above a threshold.

    The threshold lies between two quantiles of a strided sample, at first where the sample has it. This is corrected
    from call to call, by how many entries turned out to be above it. With k' > k entries the vertex is scaled by
    sqrt(k / k') (by k / k' for the polytope), the ratio of the norms of vectors with k' and k non-zeros: feasible
    whatever the threshold.

    Args:
        x: shape (*batch, *shape), of more than `LARGE` entries.
        pattern: count and kind of the entries.
        batch: number of batch dimensions.
        memory: "between", shape (*batch,), in [0, 1], from the last call.
    """
    flat = x.flatten(batch)
    between = memory.get("between")
    if between is None or between.shape != x.shape[:batch]:
        between = torch.full(x.shape[:batch], 0.5, dtype=x.dtype, device=x.device)
    chosen = x.abs()
    chosen.ge_(across(_threshold(flat, pattern.count, between), x.ndim))
    kept = chosen.flatten(batch).sum(-1)
    excess = kept / pattern.count - 1.0
    memory["between"] = (between + excess).clamp(0.0, 1.0)  # half of the way, since the sample is noisy
    room = pattern.count / kept.clamp_min(pattern.count)
    if isinstance(pattern, Flat):
        return Product(chosen.copysign_(x), across(room, x.ndim), batch, own=True)
    chosen.mul_(x)
    return Product(chosen, across(room.sqrt() * _inverse(lengths(chosen, batch)), x.ndim), batch, own=True)


def can_threshold(n: int, count: int) -> bool:
    """Tell whether the threshold of `count` of `n` entries can be estimated from a sample."""
    return n > LARGE and count * min(LARGEST_SAMPLE, n) >= SMALLEST_RANK * n


def _threshold(flat: Tensor, count: int, between: Tensor) -> Tensor:
    """Return a magnitude that about `count` of all entries exceed if all are like a sample of them."""
    n = flat.shape[-1]
    sample = flat[..., :: _stride(n, min(LARGEST_SAMPLE, max(SAMPLE, RANK * n // count)))].abs()
    size = sample.shape[-1]
    most, usual, least = (
        min(size, max(1, round(share * size * count / n))) for share in (1.0 + BRACKET, 1.0, 1.0 - BRACKET)
    )
    top = sample.topk(most, dim=-1).values  # several times faster than a kthvalue of the whole sample
    low, middle, high = (top[..., rank - 1] for rank in (most, usual, least))
    threshold = torch.lerp(low, middle, (2.0 * between).clamp_max(1.0))
    threshold = torch.lerp(threshold, high, (2.0 * between - 1.0).clamp_min(0.0))
    # Above zero, so that the zeros of a sparse tensor are never counted as chosen.
    return threshold.clamp_min(torch.finfo(flat.dtype).tiny)


def _stride(n: int, size: int) -> int:
    """Return a stride that takes about `size` of n entries.

    It has no factor in common with n, hence none with the length of a kernel or a row: it visits all positions in them
    alike. With a common factor of 9 it would see one position of every 3 x 3 kernel.
    """
    stride = max(1, n // size)
    while math.gcd(stride, n) > 1:
        stride += 1
    return stride


def largest(x: Tensor, pattern: Proportional | Flat, batch: int) -> Product:
    """Return the exact maximiser where few of many entries are chosen: first rows by their largest, then entries.

    The `count` largest entries lie in the `count` rows whose largest entries are largest.
    """
    flat = x.flatten(batch)
    n, count = flat.shape[-1], pattern.count
    cols = max(1, math.isqrt(n // count))
    rows = n // cols
    sizes = flat.abs()
    peaks = sizes[..., : rows * cols].unflatten(-1, (rows, cols)).amax(-1)
    first = peaks.topk(min(count, rows), dim=-1, sorted=False).indices.unsqueeze(-1) * cols
    tail = torch.arange(rows * cols, n, device=x.device).expand(*flat.shape[:-1], -1)
    candidates = torch.cat([(first + torch.arange(cols, device=x.device)).flatten(-2), tail], dim=-1)
    index = candidates.gather(-1, sizes.gather(-1, candidates).topk(count, dim=-1, sorted=False).indices)
    top = flat.gather(-1, index)
    top = top / nonzero(top.abs().amax(-1, keepdim=True))
    length = nonzero_length(torch.linalg.vector_norm(top, dim=-1, keepdim=True))
    top = top.sign() if isinstance(pattern, Flat) else top / length
    one = torch.ones((1,) * x.ndim, dtype=x.dtype, device=x.device)
    return Product(sizes.zero_().scatter_(-1, index, top).reshape(x.shape), one, batch, own=True)


def _inverse(norms: Tensor) -> Tensor:
    """Return 1 / norm, 0 where the squares have left the range of the dtype: the vertex is then 0."""
    limits = torch.finfo(norms.dtype)
    usable = (norms > math.sqrt(limits.tiny / limits.eps)) & (norms < math.inf)
    return torch.where(usable, 1.0 / torch.where(usable, norms, 1.0), 0.0)
