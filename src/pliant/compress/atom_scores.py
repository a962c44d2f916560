"""Scores of whole atoms: all the channels that they have in all the layers of their group."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

import torch
from torch import Tensor, nn

from pliant.compress.scores import Channels, Given, Score
from pliant.compress.slices import tensors_of
from pliant.structure.channels import ChannelGroup, Member, Role


def scores_of(model: nn.Module, group: ChannelGroup, norms: Mapping[str, str], score: Score | Given) -> Tensor:
    """Return one score per atom, computed or given, shape (atoms,); see `atom_scores`."""
    return score.atoms(group) if isinstance(score, Given) else atom_scores(model, group, norms, score)


def atom_scores(model: nn.Module, group: ChannelGroup, norms: Mapping[str, str], score: Score) -> Tensor:
    """Return one score per atom, shape (atoms,).

    The channels of every layer that produces them are scored, in units of the root mean square of the layer, and added
    up over the atom with the power of the score. Columns that read the channels do not count.

    An atom whose filters are exactly zero, in all these layers, scores zero, whatever scales, shifts and biases behind
    them are: it carries a constant and nothing of the input.

    Args:
        model: the model.
        group: whose atoms.
        norms: layer name -> the norm layer right behind it.
        score: of single channels.

    Raises:
        ValueError: if the scores of a layer are not one finite, non-negative number for each of its channels.
    """
    tensors = tensors_of(model)
    totals = torch.zeros(group.atoms, dtype=torch.float64)
    paired = {norms[member.layer] for member in group.of(Role.OUTPUT) if member.layer in norms}
    lonely = [member for member in group.of(Role.SCALE, Role.SHIFT) if member.layer not in paired]
    parts = [(member, _produced(model, tensors, group, member, norms)) for member in group.of(Role.OUTPUT)]
    first = {member.layer: member for member in reversed(lonely)}  # scale and shift count together
    for layer, member in first.items():
        no_filters = tensors[member.tensor].detach().new_zeros(member.size, 0)
        parts.append((member, _with_norm(model, tensors, layer, no_filters)))
    alive = torch.full((group.atoms,), not group.of(Role.OUTPUT))  # without filters there is nothing to be zero
    for member, channels in parts:
        scores = score.of(channels).double().cpu()
        _check(scores, score, member)
        for atoms, rows in _rows(member, group.atoms):
            totals.index_add_(0, atoms, _relative(scores)[rows] ** score.power)
            alive[atoms[channels.filters.any(1).cpu()[rows]]] = True
    return torch.where(alive, totals ** (1.0 / score.power), 0.0)


def _check(scores: Tensor, score: Score, member: Member) -> None:
    whose = f"the scores of {member.layer!r} by {score}"
    if scores.shape != (member.size,):
        raise ValueError(f"{whose} must have shape ({member.size},), one per channel, found {tuple(scores.shape)}")
    if not torch.isfinite(scores).all():
        raise ValueError(f"{whose} must be finite, found infinite or NaN: repair the model, or the score")
    if (scores < 0).any():
        raise ValueError(
            f"{whose} must not be negative, found {float(scores.min()):.4g}: a score is a size, and the smallest leave"
        )


@lru_cache(maxsize=1024)  # the same members again and again where cuts are tried in training
def _rows(member: Member, atoms: int) -> list[tuple[Tensor, Tensor]]:
    rows = [torch.from_numpy(member.positions.of([atom])) for atom in range(atoms)]
    owners = torch.repeat_interleave(torch.arange(atoms), torch.tensor([len(row) for row in rows]))
    return [(owners, torch.cat(rows))]


def _produced(
    model: nn.Module, tensors: Mapping[str, Tensor], group: ChannelGroup, member: Member, norms: Mapping[str, str]
) -> Channels:
    filters = _upcast(tensors[member.tensor]).movedim(member.dim, 0).flatten(1)
    biases = [one for one in group.of(Role.BIAS) if one.layer == member.layer and one.size == member.size]
    bias = _upcast(tensors[biases[0].tensor]) if biases else None
    if member.layer not in norms:
        return Channels(filters, bias)
    return _with_norm(model, tensors, norms[member.layer], filters, bias)


def _with_norm(
    model: nn.Module, tensors: Mapping[str, Tensor], name: str, filters: Tensor, bias: Tensor | None = None
) -> Channels:
    own = {local: _upcast(tensors[f"{name}.{local}"]) for local in _NORM if f"{name}.{local}" in tensors}
    variance = own.get("running_var")
    module = model.get_submodule(name)
    deviation = None if variance is None else (variance + getattr(module, "eps", 0.0)).sqrt()
    return Channels(filters, bias, True, own.get("weight"), own.get("bias"), deviation)


_NORM = ("weight", "bias", "running_var")


def _relative(scores: Tensor) -> Tensor:
    mean = scores.square().mean().sqrt()
    return scores / mean if mean > 0 else scores


def _upcast(x: Tensor) -> Tensor:
    x = x.detach()
    return x.float() if x.dtype in {torch.float16, torch.bfloat16} else x
