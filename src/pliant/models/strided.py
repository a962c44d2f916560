"""cnn-strided: convolutions that halve the image, then a perceptron; ReLU and nothing else between."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from pliant.models.checks import check_sizes, check_widths

if TYPE_CHECKING:
    from collections.abc import Sequence


@final
class StridedCNN(nn.Module):
    """3x3 convolutions of stride 2, then linear layers: a chain without norm layers and pools.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: in pixels; every convolution halves it, rounded up.
        channels: of the convolutions, at least one.
        widths: of the hidden linear layers, at least one.

    Raises:
        ValueError: a size is out of its range.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: int,
        channels: Sequence[int] = (8, 16),
        widths: Sequence[int] = (256, 128),
    ) -> None:
        super().__init__()
        check_sizes("cnn-strided", num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        check_widths("cnn-strided", channels, layers=max(1, len(channels)))
        check_widths("cnn-strided", widths, layers=max(1, len(widths)))
        features: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (before, after) in enumerate(pairwise((in_channels, *channels)), start=1):
            features[f"conv{number}"] = nn.Conv2d(before, after, 3, stride=2, padding=1)
            features[f"relu{number}"] = nn.ReLU()
        side = -(-image_size // 2 ** len(channels))
        hidden: OrderedDict[str, nn.Module] = OrderedDict()
        for number, (before, after) in enumerate(pairwise((channels[-1] * side**2, *widths)), start=1):
            hidden[f"fc{number}"] = nn.Linear(before, after)
            hidden[f"relu{number}"] = nn.ReLU()
        self.features = nn.Sequential(features)
        self.flatten = nn.Flatten()
        self.hidden = nn.Sequential(hidden)
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores ``(batch, num_classes)`` of images ``(batch, in_channels, height, width)``."""
        scores: Tensor = self.classifier(self.hidden(self.flatten(self.features(images))))
        return scores
