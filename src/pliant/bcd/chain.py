"""Chain: a network as blocks of a layer and its activation, in the order in which they run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from pliant.bcd.activations import Activation
from pliant.bcd.operator import Operator

INPUT = -1  # the index of the network's input among the activations


@dataclass(frozen=True, eq=False)
class Block:
    """U = W B V_before + b (+ V_skip), V = s(U).

    Args:
        operator: W B, with its bias.
        activation: s.
        skip: the block whose activations are added, `INPUT` for the network's input; None for none.
    """

    operator: Operator
    activation: Activation
    skip: int | None = None

    @property
    def name(self) -> str:
        """The qualified name of the layer."""
        return self.operator.name

    @property
    def weight(self) -> Tensor:
        """The weight of the layer."""
        return self.operator.module.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias of the layer."""
        return self.operator.module.bias

    @property
    def learning(self) -> slice:
        """The columns of (W flattened, b) that learn, those of frozen parameters left out."""
        width = self.weight[0].numel()
        bias = self.bias is not None and self.bias.requires_grad
        return slice(0 if self.weight.requires_grad else width, width + bias)

    def move(self, change: Tensor) -> None:
        """Add to weight and bias, in place, a change of their columns that learn."""
        width = self.weight[0].numel()
        if self.weight.requires_grad:
            self.weight.add_(change[:, :width].reshape(self.weight.shape))
        if self.bias is not None and self.bias.requires_grad:
            self.bias.add_(change[:, -1])


@dataclass(frozen=True, eq=False)
class Chain:
    """The blocks of a network.

    Args:
        blocks: at least one.
    """

    blocks: tuple[Block, ...]

    @property
    def last(self) -> int:
        """The index of the last block."""
        return len(self.blocks) - 1

    def readers(self, index: int) -> tuple[int, ...]:
        """Return the blocks to whose pre-activations a block's activations are added."""
        return tuple(number for number, block in enumerate(self.blocks) if block.skip == index)

    def linear(self, index: int, activations: Sequence[Tensor], weight: Tensor | None = None) -> Tensor:
        """Return W B V_before + b (+ V_skip) of a block.

        Args:
            index: of the block.
            activations: of the input and then of all blocks before, at least those that are read.
            weight: in place of the layer's own.
        """
        block = self.blocks[index]
        out = block.operator.apply(activations[index], block.weight if weight is None else weight, block.bias)
        return self.summed(index, out, activations)

    def summed(self, index: int, out: Tensor, activations: Sequence[Tensor]) -> Tensor:
        """Return W B V_before + b of a block with what is added to it."""
        skip = self.blocks[index].skip
        return out if skip is None else out + activations[skip + 1]
