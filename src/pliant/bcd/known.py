"""Known: what one sweep leaves to the next, so that it is not computed again."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from pliant.bcd.chain import Block


@dataclass(frozen=True, eq=False)
class Reached:
    """W V + b of a layer for all samples, and the parameters that it was computed with.

    Args:
        value: shape (samples, out).
        parameters: the weight, and the bias where there is one.
    """

    value: Tensor
    parameters: tuple[Tensor, ...]

    def belongs_to(self, block: Block) -> bool:
        """Tell whether the block's parameters are still those."""
        return all(map(torch.equal, self.parameters, _parameters(block)))


@dataclass(frozen=True, eq=False)
class Known:
    """What is known of blocks, by their index.

    Args:
        grams: the Gram matrix of the first layer, whose features never change.
        reached: W V + b where the step of V gave it. It holds until the layer's next step, or until something else
            touches its weights, which is noticed, or V, which is not.
    """

    grams: dict[int, Tensor] = field(default_factory=dict)
    reached: dict[int, Reached] = field(default_factory=dict)

    def of(self, index: int, block: Block) -> Tensor | None:
        """Return W V + b of a block for all samples, if it is known."""
        found = self.reached.get(index)
        return found.value if found is not None and found.belongs_to(block) else None

    def room(self, index: int, samples: int, part: Tensor) -> Tensor:
        """Return where W V + b of a block is written: the memory of the sweep before, or new.

        Args:
            index: of the block.
            samples: how many.
            part: some samples' values.
        """
        found = self.reached.get(index)
        return part.new_empty(samples, *part.shape[1:]) if found is None else found.value

    def note(self, index: int, block: Block, value: Tensor) -> None:
        """Keep W V + b of a block as it is now."""
        self.reached[index] = Reached(value, tuple(own.clone() for own in _parameters(block)))


def _parameters(block: Block) -> tuple[Tensor, ...]:
    return (block.weight.detach(),) if block.bias is None else (block.weight.detach(), block.bias.detach())
