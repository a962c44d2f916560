"""A layer of cores in the place of a plain one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pliant.tensor_train.errors import TrainError
from pliant.tensor_train.form import Form
from pliant.tensor_train.layers import TTConv2d, TTLinear, pair
from pliant.tensor_train.modes import Modes
from pliant.tensor_train.train import Cores


def check_layer(layer: nn.Module) -> nn.Linear | nn.Conv2d:
    """Return a layer that a train can stand for.

    Raises:
        TrainError: if it is neither `nn.Linear` nor `nn.Conv2d` of one group, or its weight is no parameter of its own.
    """
    if not isinstance(layer, nn.Linear) and not (isinstance(layer, nn.Conv2d) and layer.groups == 1):
        raise TrainError(f"a tensor train stands for nn.Linear or nn.Conv2d of one group, found {layer}")
    if "weight" not in dict(layer.named_parameters(recurse=False)):
        raise TrainError(
            "a tensor train stands for a weight that is a plain parameter, found one that is computed before each "
            "call (parametrised, weight-normed or pruned): make it a parameter first"
        )
    return layer


def blank_train(layer: nn.Module, form: Form) -> TTLinear | TTConv2d:
    """Return a layer of a form in the place of a plain one, without values, on the meta device.

    Raises:
        TrainError: as `check_layer`.
    """
    plain = check_layer(layer)
    if isinstance(plain, nn.Linear):
        return TTLinear(form, bias=plain.bias is not None, device="meta", dtype=plain.weight.dtype)
    return TTConv2d(
        form,
        stride=pair(plain.stride),
        padding=plain.padding if isinstance(plain.padding, str) else pair(plain.padding),
        dilation=pair(plain.dilation),
        padding_mode=plain.padding_mode,
        bias=plain.bias is not None,
        device="meta",
        dtype=plain.weight.dtype,
    )


def as_train(layer: nn.Module, modes: Modes, cores: Sequence[Tensor]) -> TTLinear | TTConv2d:
    """Return a layer that computes with the cores of a train in the place of a plain layer's weight.

    All cores get the same norm; bias, type, device, mode and whether it learns are those of the plain layer.

    Args:
        layer: `nn.Linear` or `nn.Conv2d` of one group.
        modes: how its weight is read.
        cores: shapes (r_{k-1}, n_k, r_k), such as `TensorTrainSet.project(layer.weight).factors`.

    Raises:
        TrainError: if the layer is another, or the cores do not fit it.
    """
    weight, biases = check_layer(layer).weight, dict(layer.named_parameters(recurse=False))
    form = Form(tuple(weight.shape), modes, tuple(core.shape[2] for core in cores[:-1]))
    made = blank_train(layer, form)
    if [tuple(core.shape) for core in cores] != form.cores:
        raise TrainError(f"cores must have the shapes {form.cores}, found {[tuple(core.shape) for core in cores]}")
    values = [core.to(weight.device, weight.dtype) for core in _levelled(cores)]
    made.cores = nn.ParameterList(
        nn.Parameter(core.clone(memory_format=torch.contiguous_format), weight.requires_grad) for core in values
    )
    if "bias" in biases:
        made.bias = nn.Parameter(biases["bias"].detach().clone(), biases["bias"].requires_grad)
    made.train(layer.training)
    return made


def _levelled(cores: Sequence[Tensor]) -> Cores:
    """Return the same train with cores of equal norm, so that none of them learns much faster than the others."""
    norms = torch.stack([torch.linalg.vector_norm(core) for core in cores]).double()
    if not bool((norms > 0).all()):
        return tuple(cores)
    level = norms.log().mean()
    return tuple(core * (level - norm.log()).exp().to(core.dtype) for core, norm in zip(cores, norms, strict=True))
