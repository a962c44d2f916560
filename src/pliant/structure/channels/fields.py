"""Label fields: integer tensors of an activation's shape that cost only as much memory as they say something.

A field gives every entry of a tensor the label of the channel that it belongs to; 0 means none. Dimensions along which
it is constant have stride 0, so that the field of a feature map takes one number per channel.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from math import prod

import torch
from torch import Tensor


def varying(field: Tensor) -> frozenset[int]:
    """Return the dimensions along which a field is not constant."""
    pairs = zip(field.shape, field.stride(), strict=True)
    return frozenset(dim for dim, (size, stride) in enumerate(pairs) if size > 1 and stride != 0)


def fields_of(shape: Sequence[int], vectors: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Return one field for every dimension of more than one slice, given a vector of labels for each dimension."""
    fields = []
    for dim, vector in enumerate(vectors):
        form = [1] * len(shape)
        form[dim] = len(vector)
        if len(vector) > 1:
            fields.append(vector.view(form).expand(tuple(shape)))
    return tuple(fields)


def first_along(field: Tensor, dims: Collection[int]) -> Tensor:
    """Return the first slice along some dimensions, repeated."""
    small = field
    for dim in dims:
        small = small.narrow(dim, 0, min(1, field.shape[dim]))
    return small.expand(field.shape)


def packed(field: Tensor) -> Tensor:
    """Return the field with every constant dimension of size 1."""
    for dim, size in enumerate(field.shape):
        if size > 1 and field.stride(dim) == 0:
            field = field.narrow(dim, 0, 1)
    return field


def compact(field: Tensor) -> Tensor:
    """Return an equal field in which every dimension that holds equal slices has stride 0."""
    small = packed(field)
    for dim, size in enumerate(small.shape):
        if size > 1 and bool((small == small.narrow(dim, 0, 1)).all()):
            small = small.narrow(dim, 0, 1)
    return small.expand(field.shape)


def reshape(field: Tensor, shape: Sequence[int]) -> Tensor:
    """Return the field in another shape; constant runs of dimensions stay without cost."""
    runs = list(segments(field.shape, shape))
    if not runs:
        return compact(field.reshape(shape))
    vary = varying(field)
    small, result = field, list(shape)
    for ins, outs in runs:
        if vary.isdisjoint(ins):
            for dim in ins:
                small = small.narrow(dim, 0, 1)
            for dim in outs:
                result[dim] = 1
    return compact(small.reshape(result).expand(tuple(shape)))


def segments(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[list[int], list[int]]]:
    """Split a reshape into the smallest runs of dimensions of equal size; nothing if a tensor is empty.

    >>> list(segments((4, 6, 5), (4, 2, 3, 5)))
    [([0], [0]), ([1], [1, 2]), ([2], [3])]
    """
    if prod(before) == 0:
        return
    left, right = 0, 0
    while left < len(before) or right < len(after):
        ins, outs = [], []
        size_in, size_out = 1, 1
        while True:
            if size_in <= size_out and left < len(before):
                size_in, left = size_in * before[left], left + 1
                ins.append(left - 1)
            elif right < len(after):
                size_out, right = size_out * after[right], right + 1
                outs.append(right - 1)
            else:
                break
            if size_in == size_out and ins and outs:
                break
        yield ins, outs


def like(field: Tensor, shape: Sequence[int], dims: Collection[int]) -> Tensor:
    """Return the field, constant along some dimensions, with other sizes there."""
    small = field
    for dim in dims:
        small = small.narrow(dim, 0, min(1, field.shape[dim]))
    return small.expand(tuple(shape))


def pairs_of(first: Tensor, second: Tensor) -> Tensor:
    """Return the distinct pairs of labels that two fields hold at the same place, shape (pairs, 2)."""
    first, second = torch.broadcast_tensors(first, second)
    for dim, size in enumerate(first.shape):
        if size > 1 and first.stride(dim) == 0 and second.stride(dim) == 0:
            first, second = first.narrow(dim, 0, 1), second.narrow(dim, 0, 1)
    both = torch.stack((first.flatten(), second.flatten()), dim=1)
    return torch.unique(both[both[:, 0] != both[:, 1]], dim=0)
