"""vgg-16-bn: thirteen convolutions in five groups, one linear layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from pliant.models.checks import check_sizes, check_widths

if TYPE_CHECKING:
    from collections.abc import Sequence

_GROUPS = (2, 2, 3, 3, 3)


@final
class VGG16(nn.Module):
    """3x3 convolutions with BatchNorm and ReLU, a 2x2 max-pool after each group, a single linear classifier.

    A group whose image has shrunk to one pixel has no pool; a global average pool follows the last group.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: in pixels.
        widths: channels of the five groups.

    Raises:
        ValueError: a size is out of its range.

    Reference:
        K. Simonyan and A. Zisserman, Very Deep Convolutional Networks (2015), table 1, column D.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: int,
        widths: Sequence[int] = (64, 128, 256, 512, 512),
    ) -> None:
        super().__init__()
        check_sizes("vgg-16-bn", num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        check_widths("vgg-16-bn", widths, layers=len(_GROUPS))
        self.groups = nn.Sequential()
        before, side = in_channels, image_size
        for count, width in zip(_GROUPS, widths, strict=True):
            self.groups.append(_group(before, width, count, pool=side > 1))
            before, side = width, side // 2
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(before, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores ``(batch, num_classes)`` of images ``(batch, in_channels, height, width)``."""
        scores: Tensor = self.classifier(self.flatten(self.pool(self.groups(images))))
        return scores


def _group(before: int, width: int, count: int, *, pool: bool) -> nn.Sequential:
    group = nn.Sequential()
    for number in range(1, count + 1):
        group.add_module(f"conv{number}", nn.Conv2d(before, width, 3, padding=1, bias=False))
        group.add_module(f"bn{number}", nn.BatchNorm2d(width))
        group.add_module(f"relu{number}", nn.ReLU())
        before = width
    if pool:
        group.add_module("pool", nn.MaxPool2d(2))
    return group
