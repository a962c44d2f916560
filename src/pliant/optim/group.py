"""What an SFW parameter group must be, and how it travels as plain data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from pliant.optim.finite import NonFinite
from pliant.optim.precision import HALF, Precision
from pliant.optim.ranges import check_kinds
from pliant.optim.steps import StepRule
from pliant.regions.ball import Ball
from pliant.regions.region import Region
from pliant.spec import from_spec, to_spec

REQUIRED = ("region", "step_rule", "nonfinite")
OBJECTS = (*REQUIRED, "precision")
NUMBERS = ("lr", "momentum", "dampening", "weight_decay")
LAYOUT = ("region", "step_rule", "momentum", "dampening", "precision", "exact", "foreach")  # decide what steps together


def plain(group: dict[str, Any]) -> dict[str, Any]:
    """Return a group with its objects as specifications."""
    return group | {key: to_spec(group[key]) for key in OBJECTS if key in group}


def live(group: dict[str, Any]) -> dict[str, Any]:
    """Return a group with its specifications as objects again."""
    return group | {key: from_spec(group[key]) for key in OBJECTS if isinstance(group.get(key), dict)}


def names(group: dict[str, Any]) -> list[str]:
    """Return the names of a group's parameters, made up where the optimizer was given none."""
    given: list[str] = group.get("param_names", [f"parameter {i}" for i in range(len(group["params"]))])
    return given


def points_of(group: dict[str, Any]) -> Iterator[tuple[tuple[str, ...], list[Tensor]]]:
    """Yield the names and parameters of every point of a group; of a free one there is none."""
    params, labels = group["params"], names(group)
    arity = len(params) + 1 if group["region"] is None else group["region"].arity
    for start in range(0, len(params) - arity + 1, arity):
        part = slice(start, start + arity)
        yield tuple(labels[part]), params[part]


def check_group(group: dict[str, Any]) -> None:
    """Check one parameter group.

    Raises:
        ValueError: naming what is wrong, what is allowed and what to do.
    """
    check_kinds(group, NUMBERS)
    _check_objects(group)
    if "region" not in group:
        raise ValueError(
            "every parameter group needs a 'region': a Region, or None for a free group; "
            "pass Plan.for_filters(model, k=...).param_groups(), or groups like {'params': ..., 'region': l2_ball(10)}"
        )
    _check_dtypes(group)
    if group["region"] is not None:
        _check_region(group["region"], group)


def _check_dtypes(group: dict[str, Any]) -> None:
    for name, p in zip(names(group), group["params"], strict=True):
        if p.is_sparse or not p.is_floating_point() or torch.finfo(p.dtype).bits < 16:
            raise ValueError(
                f"{name} is {'sparse' if p.is_sparse else p.dtype}; SFW needs dense weights of float32, float64, "
                "bfloat16 or float16"
            )
        if p.dtype in HALF:
            group["precision"].check(p.dtype, name)


def _check_region(region: object, group: dict[str, Any]) -> None:
    if not isinstance(region, Region):
        raise ValueError(f"region must be a Region or None, found {region!r}")
    count = len(group["params"])
    if region.arity > 1 and count != region.arity:
        raise ValueError(f"the region takes {region.arity} tensors together, but the group has {count}: {names(group)}")
    if isinstance(region, Ball) and region.view.batch:
        raise ValueError(f"region must have batch=0, one point per parameter, found batch={region.view.batch}")
    shapes = [tuple(p.shape) for p in group["params"]]
    for shape in [shapes] if region.arity > 1 else shapes:
        region.diameter(shape)  # raises if the region cannot hold such a shape


def _check_objects(group: dict[str, Any]) -> None:
    if not isinstance(group["step_rule"], StepRule):
        raise ValueError(f"step_rule must be a StepRule such as GradientScaled(), found {group['step_rule']!r}")
    if not isinstance(group["nonfinite"], NonFinite):
        raise ValueError(f"nonfinite must be one of {[str(n) for n in NonFinite]}, found {group['nonfinite']!r}")
    if not isinstance(group["precision"], Precision):
        raise ValueError(
            f"precision must be a Precision such as Master() or StochasticRounding(), found {group['precision']!r}"
        )
    if not isinstance(group["exact"], bool):
        raise ValueError(f"exact must be True or False, found {group['exact']!r}")
    if group["foreach"] is not None and not isinstance(group["foreach"], bool):
        raise ValueError(f"foreach must be True, False or None, found {group['foreach']!r}")
    try:
        plain(group)
    except TypeError as error:
        raise ValueError(f"region and step_rule must fit into a state_dict: {error}") from error
