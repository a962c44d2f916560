"""Backward elimination: channels leave in the order in which least squares can do without them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pliant.compress.atom_scores import atom_scores
from pliant.compress.channel_choice import choose
from pliant.compress.filters import FilterPruning
from pliant.compress.least_squares import Moments
from pliant.compress.observe import check_fit, columns_of, observe, parts_of, places_wanted
from pliant.compress.patches import can_be_read, drawn, places, targets
from pliant.compress.replay import Hook, batches_of, labels_hint, layers_in_order, watching
from pliant.compress.scores import Given, GroupNorm
from pliant.structure.channels import ChannelGroup, Member, Role, channel_graph
from pliant.structure.example import Example, call
from pliant.structure.matricise import axes_of, is_layer, widths
from pliant.structure.norms import norm_after
from pliant.structure.patterns import check_ignore, ignored_by, warn_of_unmatched


def backward_elimination(
    pruning: FilterPruning,
    model: nn.Module,
    batches: Iterable[Example],
    *,
    ridge: float = 1e-2,
    rows: int = 32,
    ignore: Sequence[str] = (),
) -> FilterPruning:
    """Return the pruning with channels scored by what the layers that read them lose when they are fitted again.

        pruning = backward_elimination(FilterPruning(), model, batches)
        small = compress(model, pruning, budget=Macs(0.5), example=images, reconstruct=batches)

    In every group of channels the one leaves first without which the layers that read the group can be fitted best to
    what they compute now, as `reconstruct` will do; then the one that is missed least beside it, and so on. With e the
    error of a layer that is left by the best fit, relative to the mean square of what it computes (about the mean,
    where a bias or a norm behind it makes up for means), what is lost is

        sum over the layers that read the group of  share * -log(1 - e)

    and the squared score of a channel is by how much that grows when it leaves; where it grows less than before, as
    much as before. The share is 1, or one in n for a layer that makes its channels together with n - 1 others, as those
    do that a residual sum adds up: the others are left as they were. Budgets, and `Global`, weigh groups against each
    other by these losses.

    What can be fitted are convolutions in one group and linear layers that are called once. Any other layer that reads
    a group loses -log(1 - s), with s the share of the squared `pruning.score` that leaves (of the default score, if
    those of `pruning` are given already). So do the layers that make a group which none reads that can be fitted.

    Args:
        pruning: how channels are cut.
        model: the trained model, before the cut; left as it is.
        batches: what it can be called with; training data, a thousand images say. It runs once on each, or several
            times where not all layers' matrices fit into memory together.
        ridge: damping of the fits, relative to the mean square of each number that a layer reads; positive.
        rows: positions and samples that are looked at, for every column of a weight; at most all of them. A layer takes
            a few matrices of columns times columns in float64 (columns are inputs times kernel size), and time of their
            cube: for 512 channels and kernels of 3 x 3 some ten seconds of one core, after those of the inverse.
        ignore: patterns of layer names that are not to be fitted, for instance the 25,088 columns of VGG's first linear
            layer.

    Raises:
        CutError: if `pruning` is strict, and a layer cannot be cut.
        TypeError: if `pruning` is no `FilterPruning`.
        ValueError: if there is no batch, a number is out of range, or what a layer reads is not finite.

    Reference: Hassibi, Stork (1992), Second order derivatives for network pruning: optimal brain surgeon, for how the
    best fit changes; here whole blocks of columns leave.
    """
    _check(pruning, ridge, rows, ignore)
    examples = batches_of(batches)
    with labels_hint():
        norms = norm_after(model, examples[0])
    warn_of_unmatched(model, ignore)
    groups, _ = choose(model, examples[0], kind=pruning.layers, ignore=pruning.ignore, strict=pruning.strict)
    readers = _readers(model, groups, examples[0], ignore)
    shares = _shares(model, examples[0])
    plain = GroupNorm() if isinstance(pruning.score, Given) else pruning.score
    scores: dict[str, Tensor] = {}
    layers = dict(model.named_modules())

    def numbers(group: ChannelGroup) -> int:
        return sum(columns_of(layers[member.layer]) ** 2 for member in readers[group.name])

    for window in parts_of(groups, numbers, _TOGETHER):
        names = [member.layer for group in window for member in readers[group.name]]
        grams = _grams(model, {name: name in norms for name in names}, examples, rows)
        for group in window:
            fitted = [member for member in readers[group.name] if member.layer in grams]
            others = len(group.of(Role.INPUT) if fitted else group.of(Role.INPUT, Role.OUTPUT)) - len(fitted)
            fits = [_fit(model, group, one, grams[one.layer], ridge) for one in fitted]
            loss = _Loss(
                [*(shares.get(member.layer, 1.0) for member in fitted), *[1.0] * others],
                [*fits, *[_Plain(atom_scores(model, group, norms, plain))] * others],
            )
            scores[group.name] = _eliminate(group, loss)
    return replace(pruning, score=Given.of(scores))


def _check(pruning: FilterPruning, ridge: float, rows: int, ignore: Sequence[str]) -> None:
    if not isinstance(pruning, FilterPruning):
        raise TypeError(
            f"pruning must be a FilterPruning, found {pruning!r}; for filters and ranks give the result to "
            "Both(filters=...)"
        )
    check_fit(ridge, rows)
    check_ignore(ignore)


_Readers = Mapping[str, Sequence[Member]]  # group name -> the weights whose columns read its channels


def _readers(model: nn.Module, groups: Sequence[ChannelGroup], example: Example, ignore: Sequence[str]) -> _Readers:
    names = {name for name in layers_in_order(model, example) if can_be_read(model.get_submodule(name))}
    usable = {
        name
        for name in names
        if _is_whole(model.get_submodule(name)) and not ignored_by(ignore, name, f"{name}.weight")
    }
    return {
        group.name: [one for one in group.of(Role.INPUT) if one.layer in usable and one.tensor == f"{one.layer}.weight"]
        for group in groups
    }


def _is_whole(module: nn.Module | None) -> bool:
    """Tell whether a module is a layer each of whose outputs reads all channels."""
    return module is not None and is_layer(module) and widths(module)[2] == 1


def _shares(model: nn.Module, example: Example) -> dict[str, float]:
    """Return layer name -> its share of what it makes together with the layers that are tied to it."""
    found: dict[str, float] = {}
    modules = dict(model.named_modules())
    for group in channel_graph(model, example).groups:
        layers = [member.layer for member in group.of(Role.OUTPUT) if _is_whole(modules.get(member.layer))]
        found |= {layer: 1.0 / len(layers) for layer in layers}
    return found


_TOGETHER = 2**27  # numbers: 1 GiB
_SEED = 0  # of the positions that are looked at
_LEAST = 1e-6  # a share that counts as nothing; less is rounding
_TINY = 1e-24  # what is lost with the first that leaves, at least
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
        matrices = axes_of(layer, "weight").to_matrices(layer.get_parameter("weight"))
        moments = found[name] = Moments.empty(matrices[:, :0])  # what is written is of no interest

        def read(module: nn.Module, arguments: tuple[object, ...], output: Tensor) -> None:
            if arguments and isinstance(arguments[0], Tensor):
                where = drawn(places(module, output), count, generator)
                wide = torch.promote_types(output.dtype, torch.float32)
                observe(moments, module, arguments[0], where, targets(module, output, where)[..., :0].to(wide))

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


_LATE = 256  # columns that have left


class _Reader(ABC):
    """What a layer loses of what it reads when channels leave."""

    @abstractmethod
    def growth(self) -> Tensor:
        """Return by which share of all that can be lost the loss grows with each atom that leaves next, (atoms,)."""

    @abstractmethod
    def remove(self, atom: int) -> None:
        """Take an atom out."""


@dataclass(eq=False)
class _Fit(_Reader):
    """A layer whose columns leave, block by block, while those that stay are fitted to what all computed.

    What the blocks of the atoms become is known after every step; the whole matrices follow some hundred columns later,
    by one product of matrices in the place of many of rank one block, which would take ten times as long.

    Args:
        products: W^T W of the best fit W, shape (columns, columns), float64.
        inverse: of the Gram matrix of the columns, with its damping.
        blocks: the columns of every atom, shape (atoms, columns of an atom).
        total: what is lost if all leave.
        columns: how many there are; those behind them fill blocks up, with zeros in the products and the identity in
            the inverse.
    """

    products: Tensor
    inverse: Tensor
    blocks: Tensor
    total: float
    columns: int

    def __post_init__(self) -> None:
        rows, columns = self.blocks[:, :, None], self.blocks[:, None, :]
        self._own_products, self._own_inverses = self.products[rows, columns], self.inverse[rows, columns]
        self._live = (torch.arange(len(self.inverse), device=self.inverse.device) < self.columns).to(self.inverse)
        self._late = self.inverse.new_empty(
            3, max(_LATE // self.blocks.shape[1], 1) * self.blocks.shape[1], len(self.inverse)
        )
        self._count = 0

    def growth(self) -> Tensor:
        grown = torch.linalg.solve(self._own_inverses, self._own_products)
        found = grown.diagonal(dim1=-2, dim2=-1).sum(-1).clamp_min(0.0).cpu()
        return found / self.total if self.total > 0.0 else torch.zeros_like(found)

    def remove(self, atom: int) -> None:
        at = self.blocks[atom]
        read, moved, half = self._late[:, : self._count]
        inverse = (self.inverse[at] - read[:, at].mT @ moved) * self._live
        products = (self.products[at] - moved[:, at].mT @ half - half[:, at].mT @ moved) * self._live
        change = torch.linalg.solve(self._own_inverses[atom], inverse)  # W loses W[:, at] change
        part = products - 0.5 * self._own_products[atom] @ change
        self._late[:, self._count : self._count + len(at)] = torch.stack([inverse, change, part])
        self._count += len(at)
        mine, theirs, parts = (rows[:, self.blocks].movedim(0, 1) for rows in (inverse, change, part))
        self._own_inverses -= mine.mT @ theirs
        self._own_products -= theirs.mT @ parts + parts.mT @ theirs
        self._own_inverses[atom] = torch.eye(len(at)).to(inverse)
        self._own_products[atom] = 0.0
        self._live[at] = 0.0
        if self._count == self._late.shape[1]:
            self._catch_up()

    def _catch_up(self) -> None:
        read, moved, half = self._late
        self.inverse.addmm_(read.mT, moved, alpha=-1.0)
        self.products.addmm_(moved.mT, half, alpha=-1.0).addmm_(half.mT, moved, alpha=-1.0)
        self._count = 0


@dataclass(eq=False)
class _Plain(_Reader):
    """A layer that cannot be fitted: it loses the squared scores of what leaves.

    Args:
        scores: shape (atoms,).
    """

    scores: Tensor

    def growth(self) -> Tensor:
        squares = self.scores.double().square()
        return squares / squares.sum() if squares.any() else squares

    def remove(self, atom: int) -> None:
        pass


@torch.no_grad()
def _fit(model: nn.Module, group: ChannelGroup, member: Member, gram: Tensor, ridge: float) -> _Fit:
    """Return a layer with all its columns, and columns of zeros behind them where atoms have fewer than others."""
    layer = model.get_submodule(member.layer)
    weight = axes_of(layer, "weight").to_matrices(layer.get_parameter("weight"))[0].double()
    blocks = _blocks(layer, group, member).to(weight.device)
    extra = max(int(blocks.max()) + 1 - weight.shape[1], 0)
    weight, system = F.pad(weight, (0, extra)), F.pad(gram, (0, extra, 0, extra))
    squares = system.diagonal().clone()
    weight = weight * (squares > 0.0)  # the other columns are multiplied by zeros, whatever they are
    system.diagonal().add_(torch.where(squares > 0.0, ridge * squares, 1.0))
    return _Fit(
        weight.mT @ weight, torch.linalg.inv(system), blocks, float((weight @ system * weight).sum()), len(gram)
    )


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
        shares: how much each of them counts.
        readers: the layers.
    """

    shares: Sequence[float]
    readers: Sequence[_Reader]

    def __post_init__(self) -> None:
        self._left = [1.0] * len(self.readers)

    def growths(self) -> list[Tensor]:
        """Return by which share every reader loses with each atom that leaves next, each of shape (atoms,)."""
        return [reader.growth() for reader in self.readers]

    def total(self, growths: Sequence[Tensor]) -> Tensor:
        """Return by how much the loss grows with each atom, given what every reader loses, shape (atoms,)."""
        parts = zip(self.shares, growths, self._left, strict=True)
        return torch.stack([-share * (1.0 - lost / left).clamp_min(_LEAST).log() for share, lost, left in parts]).sum(0)

    def remove(self, atom: int, growths: Sequence[Tensor]) -> None:
        """Take an atom out."""
        for number, (reader, lost) in enumerate(zip(self.readers, growths, strict=True)):
            self._left[number] = max(self._left[number] - float(lost[atom]), _LEAST)
            reader.remove(atom)


def _eliminate(group: ChannelGroup, loss: _Loss) -> Tensor:
    """Return the scores of a group's atoms, greater for each that leaves later, shape (atoms,)."""
    squares = torch.zeros(group.atoms, dtype=torch.float64)
    gone = torch.zeros(group.atoms, dtype=torch.bool)
    last = _TINY
    for _ in range(group.atoms):
        growths = loss.growths()
        growth = loss.total(growths).masked_fill(gone, torch.inf)
        atom = int(growth.argmin())
        last = max(float(growth[atom]), last * _MORE)
        squares[atom] = last
        gone[atom] = True
        loss.remove(atom, growths)
    return squares.sqrt()
