"""cnn-4: four convolutions, for small images and quick runs."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from pliant.models.checks import check_sizes, check_widths

if TYPE_CHECKING:
    from collections.abc import Sequence

_LARGE = 28


@final
class CNN4(nn.Module):
    """Four times 3x3 convolution, BatchNorm and ReLU; global average pool; one linear layer.

    A 2x2 max-pool follows the second convolution and, for images of 28 pixels or more, the third.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: in pixels, at least 2.
        widths: channels of the four convolutions.

    Raises:
        ValueError: a size is out of its range.
    """

    def __init__(
        self, *, num_classes: int, in_channels: int, image_size: int, widths: Sequence[int] = (16, 32, 32, 64)
    ) -> None:
        super().__init__()
        check_sizes("cnn-4", num_classes=num_classes, in_channels=in_channels, image_size=image_size, smallest=2)
        check_widths("cnn-4", widths, layers=4)
        self.features = nn.Sequential()
        for number, (before, after) in enumerate(pairwise((in_channels, *widths)), start=1):
            self.features.add_module(f"conv{number}", nn.Conv2d(before, after, 3, padding=1, bias=False))
            self.features.add_module(f"bn{number}", nn.BatchNorm2d(after))
            self.features.add_module(f"relu{number}", nn.ReLU())
            if number == 2 or (number == 3 and image_size >= _LARGE):
                self.features.add_module(f"pool{number}", nn.MaxPool2d(2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores ``(batch, num_classes)`` of images ``(batch, in_channels, height, width)``."""
        scores: Tensor = self.classifier(self.flatten(self.pool(self.features(images))))
        return scores
