"""Zeroing and removing slices of a whole model, in place: loops over members, the same for every architecture."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from pliant.compress.reading import CutError
from pliant.compress.surgery import in_format_of, replace
from pliant.structure.attention import PrunedAttention
from pliant.structure.channels import ChannelGroup, Role, removed_slices
from pliant.structure.matricise import CONVOLUTIONS, TRANSPOSED

Kept = Mapping[str, Sequence[int]]


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Return parameters and buffers by name; tied ones once, by the first of their names."""
    return dict((*model.named_parameters(), *model.named_buffers()))


def check_groups(model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept) -> None:
    """Check that groups describe a model.

    Raises:
        CutError: if a tensor is missing or of another size, a slice belongs to two atoms, or nothing of a tensor or of
            a module's number would stay.
    """
    tensors = tensors_of(model)
    taken: dict[tuple[str, int], list[Any]] = {}
    for group in groups:
        for member in group.members:
            shape = tensors[member.tensor].shape if member.tensor in tensors else ()
            if member.dim >= len(shape) or shape[member.dim] != member.size:
                found = f"has the shape {tuple(shape)}" if shape else "does not exist"
                raise CutError(
                    f"layer {group.name!r}: dimension {member.dim} of {member.tensor!r} must have the size "
                    f"{member.size} that the cut was made for, but the tensor {found}"
                )
            places = member.positions.of(range(group.atoms))
            taken.setdefault((member.tensor, member.dim), []).append(places)
    for (tensor, dim), parts in taken.items():
        together = np.concatenate(parts)
        if len(np.unique(together)) < len(together):
            raise CutError(f"a slice of dimension {dim} of {tensor!r} belongs to two atoms of the cut")
    for tensor, cuts in removed_slices(groups, kept).items():
        for dim, removed in cuts:
            if len(removed) >= tensors[tensor].shape[dim]:
                raise CutError(f"the cut would leave nothing of dimension {dim} of {tensor!r}")
    _check_attributes(model, groups, kept)


def _check_attributes(model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept) -> None:
    modules = dict(model.named_modules(remove_duplicate=False))
    for (module, name), lost in _lost(groups, kept).items():
        value = vars(modules[module]).get(name) if module in modules else None
        if isinstance(value, bool) or not isinstance(value, int) or value <= lost:
            raise CutError(f"{name!r} of the module {module!r} must be a number above {lost}, found {value!r}")


def zero_slices(model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept) -> None:
    """Set every slice of the removed atoms to zero; running variances stay, for nothing divides by zero."""
    tensors = tensors_of(model)
    variances = {member.tensor for group in groups for member in group.of(Role.VARIANCE)}
    with torch.no_grad():
        for name, cuts in removed_slices(groups, kept).items():
            for dim, removed in cuts if name not in variances else ():
                tensors[name].index_fill_(dim, torch.tensor(removed, device=tensors[name].device), 0.0)


def without(tensor: Tensor, cuts: Sequence[tuple[int, Sequence[int]]]) -> Tensor:
    """Return a copy without some slices, pairs (dimension, positions), in the memory format of the tensor."""
    if not cuts:
        return tensor.detach().clone()
    left = tensor.detach()
    for dim, removed in cuts:
        kept = torch.ones(tensor.shape[dim], dtype=torch.bool)
        kept[list(removed)] = False
        left = left.index_select(dim, kept.nonzero().flatten().to(tensor.device))
    return in_format_of(left, tensor)


def remove_slices(model: nn.Module, groups: Sequence[ChannelGroup], kept: Kept) -> None:
    """Take every slice of the removed atoms out, and let the modules know their new sizes."""
    tensors = tensors_of(model)
    smaller = {}
    for name, cuts in removed_slices(groups, kept).items():
        old = tensors[name]
        new = without(old, cuts)
        smaller[id(old)] = nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new
    changed = [module for module in model.modules() if _exchange(module, smaller)]
    for module in changed:
        _refit(module)
    for (module_name, attribute), lost in _lost(groups, kept).items():
        module = model.get_submodule(module_name)
        setattr(module, attribute, getattr(module, attribute) - lost)
    for name, module in list(model.named_modules(remove_duplicate=False)):
        if isinstance(module, nn.MultiheadAttention) and (module in changed or module.out_proj in changed):
            replace(model, [name], [PrunedAttention(module)])


def _lost(groups: Sequence[ChannelGroup], kept: Kept) -> dict[tuple[str, str], int]:
    lost: dict[tuple[str, str], int] = {}
    for group in groups:
        removed = group.atoms - len(kept[group.name])
        for one in group.attributes if removed else ():
            key = (one.module, one.name)
            lost[key] = lost.get(key, 0) + one.per_atom * removed
    return lost


def _exchange(module: nn.Module, smaller: Mapping[int, Tensor]) -> bool:
    own = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
    found = [(name, smaller[id(tensor)]) for name, tensor in own if id(tensor) in smaller]
    for name, tensor in found:
        setattr(module, name, tensor)
    return bool(found)


def _refit(module: nn.Module) -> None:
    for kind, refit in _REFITS:
        if isinstance(module, kind):
            refit(module)


def _linear(layer: Any) -> None:  # noqa: ANN401  (torch declares these numbers as its own constants)
    layer.out_features, layer.in_features = layer.weight.shape


def _convolution(layer: Any) -> None:  # noqa: ANN401  (as above)
    if layer.groups > 1:
        layer.groups = layer.groups * layer.weight.shape[0] // layer.out_channels
    layer.out_channels, layer.in_channels = layer.weight.shape[0], layer.weight.shape[1] * layer.groups


def _transposed(layer: Any) -> None:  # noqa: ANN401  (as above)
    if layer.groups > 1:
        layer.groups = layer.groups * layer.weight.shape[0] // layer.in_channels
    layer.in_channels, layer.out_channels = layer.weight.shape[0], layer.weight.shape[1] * layer.groups


def _channel_norm(layer: Any) -> None:  # noqa: ANN401  (as above)
    layer.num_features = len(layer.weight if layer.weight is not None else layer.running_mean)


def _layer_norm(layer: Any) -> None:  # noqa: ANN401  (as above)
    layer.normalized_shape = tuple(layer.weight.shape)


def _table(layer: Any) -> None:  # noqa: ANN401  (as above)
    layer.embedding_dim = layer.weight.shape[1]


def _recurrent(layer: Any) -> None:  # noqa: ANN401  (as above)
    layer.input_size = layer.get_parameter("weight_ih_l0" if isinstance(layer, nn.RNNBase) else "weight_ih").shape[1]


def _slopes(layer: Any) -> None:  # noqa: ANN401  (as above)
    layer.num_parameters = len(layer.weight)


_REFITS: tuple[tuple[Any, Callable[[Any], None]], ...] = (
    (nn.Linear, _linear),
    (CONVOLUTIONS, _convolution),
    (TRANSPOSED, _transposed),
    ((_BatchNorm, _InstanceNorm), _channel_norm),
    ((nn.LayerNorm, nn.RMSNorm), _layer_norm),
    (nn.Embedding, _table),
    (nn.PReLU, _slopes),
    ((nn.RNNBase, nn.RNNCellBase), _recurrent),
)
