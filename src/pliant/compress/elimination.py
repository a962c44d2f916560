"""Backward elimination: channels leave in the order in which least squares can do without them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.compress.atom_scores import scores_of
from pliant.compress.channel_choice import choose
from pliant.compress.filters import FilterPruning
from pliant.compress.least_squares import Moments
from pliant.compress.observe import check_fit, observe, places_wanted
from pliant.compress.patches import can_be_read, drawn, places, targets
from pliant.compress.replay import Hook, batches_of, labels_hint, layers_in_order, watching
from pliant.compress.scores import Given
from pliant.structure.channels import ChannelGroup, Member, Role, channel_graph
from pliant.structure.matricise import axes_of, widths
from pliant.structure.norms import Example, call, norm_after


def backward_elimination(
    pruning: FilterPruning,
    model: nn.Module,
    batches: Iterable[Example],
    *,
    ridge: float = 1e-2,
    rows: int = 32,
) -> FilterPruning:
    """Return the pruning with channels scored by what the layers that read them lose when they are fitted again.

        pruning = backward_elimination(FilterPruning(), model, batches)
        small = compress(model, pruning, budget=Macs(0.5), example=images, reconstruct=batches)

    In every group of channels the one leaves first without which the layers that read the group can be fitted best to
    what they compute now, as `reconstruct` will do; then the one that is missed least beside it, and so on. With e the
    error of a layer that is left by the best fit, relative to the mean square of what it computes (about the mean,
    where a bias or a norm behind it makes up for means), what is lost is

        sum over the layers that read the group of  share * -log(1 - e)

    and the squared score of a channel is by how much that grows when it leaves. The share is 1, or one in n for a layer
    whose outputs are tied to those of n - 1 others, as those that a residual sum adds up are: the others are left as
    they were. Budgets, and `Global`, weigh groups against each other by these losses.

    Channels are read, in this sense, by convolutions in one group and linear layers that are called once. Groups that
    others alone read keep the order of `pruning.score`, and lose -n log(1 - s) with s the share of the squared scores
    that leaves and n the number of layers that make or read the group.

    Args:
        pruning: how channels are cut.
        model: the trained model, before the cut; left as it is.
        batches: what it can be called with; training data, a thousand images say. It runs once on each, or several
            times where not all layers' matrices fit into memory together.
        ridge: damping of the fits, relative to the mean square of what a layer reads; positive.
        rows: positions and samples that are looked at, for every column of a weight; at most all of them. A layer takes
            a few matrices of columns times columns in float64 (columns are inputs times kernel size).

    Raises:
        CutError: if `pruning` is strict, and a layer cannot be cut.
        ValueError: if there is no batch, a number is out of range, or what a layer reads is not finite.

    Reference: Hassibi, Stork (1992), Second order derivatives for network pruning: optimal brain surgeon, for how the
    best fit changes; here whole blocks of columns leave.
    """
    check_fit(ridge, rows)
    examples = batches_of(batches)
    with labels_hint():
        norms = norm_after(model, examples[0])
    groups, _ = choose(model, examples[0], kind=pruning.layers, ignore=pruning.ignore, strict=pruning.strict)
    readers, shares = _readers(model, groups, examples[0]), _shares(model, examples[0])
    scores: dict[str, Tensor] = {}
    for window in _windows(model, groups, readers):
        names = [member.layer for group in window for member in readers[group.name]]
        grams = _grams(model, {name: name in norms for name in names}, examples, rows)
        for group in window:
            members = [member for member in readers[group.name] if member.layer in grams]
            fits = [_fit(model, group, one, grams[one.layer], ridge) for one in members]
            loss = _Loss([shares.get(member.layer, 1.0) for member in members], fits)
            plain = scores_of(model, group, norms, pruning.score)
            scores[group.name] = _eliminate(group, loss) if fits else _unread(group, plain)
    return replace(pruning, score=Given.of(scores))


_Readers = Mapping[str, Sequence[Member]]  # group name -> the weights whose columns read its channels


def _readers(model: nn.Module, groups: Sequence[ChannelGroup], example: Example) -> _Readers:
    usable = {
        name
        for name in layers_in_order(model, example)
        if can_be_read(model.get_submodule(name)) and widths(model.get_submodule(name))[2] == 1
    }
    return {
        group.name: [one for one in group.of(Role.INPUT) if one.layer in usable and one.tensor == f"{one.layer}.weight"]
        for group in groups
    }


def _shares(model: nn.Module, example: Example) -> dict[str, float]:
    """Return layer name -> its share of what it is summed up to with the layers that are tied to it."""
    makers = [[member.layer for member in group.of(Role.OUTPUT)] for group in channel_graph(model, example).groups]
    return {layer: 1.0 / len(layers) for layers in makers for layer in layers}


def _windows(model: nn.Module, groups: Sequence[ChannelGroup], readers: _Readers) -> Iterator[list[ChannelGroup]]:
    """Yield the groups in parts, of each of which the readers' matrices fit into memory together."""
    window: list[ChannelGroup] = []
    held = 0
    for group in groups:
        layers = [model.get_submodule(member.layer) for member in readers[group.name]]
        numbers = sum((layer.get_parameter("weight").numel() // widths(layer)[0]) ** 2 for layer in layers)
        if window and held + numbers > _TOGETHER:
            yield window
            window, held = [], 0
        window.append(group)
        held += numbers
    if window:
        yield window


_TOGETHER = 2**27  # numbers: 1 GiB
_SEED = 0  # of the positions that are looked at
_LEAST = 1e-6  # a share that counts as nothing; less is rounding
_MORE = 1.0 + 1e-9  # who leaves later scores more, also where less is lost with it


def _grams(model: nn.Module, normed: Mapping[str, bool], examples: Sequence[Example], rows: int) -> dict[str, Tensor]:
    """Return the mean products of what layers read, by layer, shape (columns, columns), float64.

    They are about the means if the layer has a bias or a norm behind it. Layers that are not called with a tensor are
    left out.

    Args:
        model: the model.
        normed: layer name -> whether a norm layer follows.
        examples: to run it on.
        rows: see `backward_elimination`.

    Raises:
        ValueError: if something is not finite.
    """
    generator = torch.Generator().manual_seed(_SEED)
    found: dict[str, Moments] = {}

    def hook(name: str) -> Hook:
        layer = model.get_submodule(name)
        count = places_wanted(layer, examples, rows)
        moments = found[name] = Moments.empty(axes_of(layer, "weight").to_matrices(layer.get_parameter("weight")))

        def read(module: nn.Module, arguments: tuple[object, ...], output: Tensor) -> None:
            if arguments and isinstance(arguments[0], Tensor):
                where = drawn(places(module, output), count, generator)
                wide = torch.promote_types(output.dtype, torch.float32)
                observe(moments, module, arguments[0], where, targets(module, output, where).to(wide))

        return read

    with watching(model, {name: hook(name) for name in normed}):
        for example in examples if normed else ():
            call(model, example)
    grams = {}
    for name, moments in found.items():
        if not moments.is_finite():
            raise ValueError(f"batches: layer {name!r} reads or writes infinite or undefined numbers")
        biased = any(local == "bias" for local, _ in model.get_submodule(name).named_parameters(recurse=False))
        if moments.count:
            grams[name] = moments.means(centred=biased or normed[name]).gram[0]
    return grams


@dataclass(eq=False)
class _Fit:
    """A layer whose columns leave, block by block, while those that stay are fitted to what all computed.

    Args:
        weight: of the best fit, shape (outputs, columns), float64.
        inverse: of the Gram matrix of the columns that are left, with its damping, shape (columns, columns); the
            identity where they are not.
        blocks: the columns of every atom, shape (atoms, columns of an atom).
        total: what is lost if all leave.
    """

    weight: Tensor
    inverse: Tensor
    blocks: Tensor
    total: float

    def growth(self) -> Tensor:
        """Return by how much the error, relative to the total, grows with each atom that leaves next, (atoms,)."""
        own = self.inverse[self.blocks[:, :, None], self.blocks[:, None, :]]
        columns = self.weight[:, self.blocks].movedim(0, 2)  # (atoms, columns, outputs)
        found = (columns * torch.linalg.solve(own, columns)).sum((1, 2))
        return found.clamp_min(0.0).cpu() / self.total if self.total > 0.0 else torch.zeros(len(found)).double()

    def remove(self, atom: int) -> None:
        """Take an atom out; the others are fitted again."""
        at = self.blocks[atom]
        moved = torch.linalg.solve(self.inverse[at][:, at], self.inverse[at])
        self.weight -= self.weight[:, at] @ moved
        self.inverse -= self.inverse[:, at] @ moved
        self.weight[:, at] = 0.0
        self.inverse[at] = 0.0
        self.inverse[:, at] = 0.0
        self.inverse[at, at] = 1.0


@torch.no_grad()
def _fit(model: nn.Module, group: ChannelGroup, member: Member, gram: Tensor, ridge: float) -> _Fit:
    """Return a layer with all its columns, and columns of zeros behind them where atoms have fewer than others."""
    layer = model.get_submodule(member.layer)
    weight = axes_of(layer, "weight").to_matrices(layer.get_parameter("weight"))[0].double()
    blocks = _blocks(layer, group, member).to(weight.device)
    squares = gram.diagonal()
    damping = ridge * squares.sum() / squares.gt(0.0).sum().clamp_min(1)
    extra = max(int(blocks.max()) + 1 - weight.shape[1], 0)
    system = torch.block_diag(gram, gram.new_zeros(extra, extra))
    system.diagonal().add_(damping if damping > 0.0 else 1.0)
    weight = F.pad(weight, (0, extra))
    return _Fit(weight, torch.linalg.inv(system), blocks, float((weight @ system * weight).sum()))


def _blocks(layer: nn.Module, group: ChannelGroup, member: Member) -> Tensor:
    """Return the columns of every atom, shape (atoms, columns), filled up with columns behind the last one."""
    weight = layer.get_parameter("weight")
    shape = [1] * weight.ndim
    shape[member.dim] = member.size
    grid = torch.arange(member.size).view(shape).expand(weight.shape)
    positions = axes_of(layer, "weight").to_matrices(grid)[0, 0]  # along the member's dimension, of every column
    columns = [
        torch.isin(positions, torch.from_numpy(member.positions.of([atom]))).nonzero().flatten()
        for atom in range(group.atoms)
    ]
    most, behind = max(map(len, columns)), len(positions)
    return torch.stack([torch.cat([one, behind + torch.arange(most - len(one))]) for one in columns])


@dataclass(eq=False)
class _Loss:
    """What all layers that read a group lose.

    Args:
        shares: of the layers.
        fits: the layers.
    """

    shares: Sequence[float]
    fits: Sequence[_Fit]

    def __post_init__(self) -> None:
        self._left = [1.0] * len(self.fits)

    def growth(self) -> Tensor:
        """Return by how much it grows with each atom that leaves next, shape (atoms,)."""
        stay = [1.0 - fit.growth() / left for fit, left in zip(self.fits, self._left, strict=True)]
        parts = [-share * one.clamp_min(_LEAST).log() for share, one in zip(self.shares, stay, strict=True)]
        return torch.stack(parts).sum(0)

    def remove(self, atom: int) -> None:
        """Take an atom out."""
        for number, fit in enumerate(self.fits):
            self._left[number] = max(self._left[number] - float(fit.growth()[atom]), _LEAST)
            fit.remove(atom)


def _eliminate(group: ChannelGroup, loss: _Loss) -> Tensor:
    """Return the scores of a group's atoms, greater for each that leaves later, shape (atoms,)."""
    squares = torch.zeros(group.atoms, dtype=torch.float64)
    gone = torch.zeros(group.atoms, dtype=torch.bool)
    last = torch.finfo(torch.float64).tiny
    for _ in range(group.atoms):
        growth = loss.growth().masked_fill(gone, torch.inf)
        atom = int(growth.argmin())
        last = max(float(growth[atom]), last * _MORE)
        squares[atom] = last
        gone[atom] = True
        loss.remove(atom)
    return squares.sqrt()


def _unread(group: ChannelGroup, scores: Tensor) -> Tensor:
    """Return scores in the order of others, whose squares are what is lost where no layer that reads can be fitted."""
    order = scores.double().argsort(stable=True)
    squares = scores.double()[order].square()
    left = squares.flip(0).cumsum(0).flip(0)  # before each of them leaves
    lost = -(1.0 - squares / left.clamp_min(_LEAST)).clamp_min(_LEAST).log()
    found = torch.empty_like(lost)
    found[order] = lost * len(group.of(Role.OUTPUT, Role.INPUT))
    return found.sqrt()
