"""What tries channel groups out must find the mistakes of whatever proposed them."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from pliant.compress.verify import verify
from pliant.structure.channels import channel_graph


class Sum(nn.Module):
    """Two layers whose channels are added."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two, self.last = nn.Linear(3, 8), nn.Linear(3, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        """Return two numbers."""
        out: Tensor = self.last(torch.relu(self.one(x) + self.two(x)))
        return out


def test_groups_of_equal_size_that_depend_on_each_other_do_not_pass_as_two() -> None:
    model, example = Sum(), torch.randn(4, 3)
    (group,) = channel_graph(model, example).groups
    assert verify(model, [group], example) == ([group], {})
    second = tuple(member for member in group.members if member.layer == "two")
    first = tuple(member for member in group.members if member not in second)
    torn = [replace(group, members=first), replace(group, name="two", members=second)]
    assert verify(model, torn, example)[1]
