"""dec-3, dec-4 and dec-8: networks of one-dimensional convolutions."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from pliant.models.checks import check_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence


@final
class DecomposeMe(nn.Module):
    """Decomposed convolutions with pools, a global average pool, one linear layer.

    Where another network has a k x k convolution, this one has a k x 1 convolution, a ReLU and a 1 x k convolution, all
    of them with BatchNorm: low rank by construction, with a non-linearity inside the decomposition. A pool that would
    find an image of one pixel is left out.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: in pixels.
        widths: channels of the decomposed convolutions, after the vertical as after the horizontal part.
        pools: numbers of the decomposed convolutions that a 2x2 max-pool follows, 1 for the first.
        kernel: k, odd.

    Raises:
        ValueError: a size is out of its range.

    Reference:
        J. Alvarez and L. Petersson, DecomposeMe: Simplifying ConvNets for End-to-End Learning (2016).
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: int,
        widths: Sequence[int],
        pools: Sequence[int],
        kernel: int = 3,
    ) -> None:
        super().__init__()
        check_sizes("dec", num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        if not widths or min(widths) < 1:
            raise ValueError(f"dec: widths must be positive integers, at least one, found {tuple(widths)}")
        if kernel < 1 or kernel % 2 == 0:
            raise ValueError(f"dec: kernel must be odd and positive, found {kernel}")
        self.features = nn.Sequential()
        side = image_size
        for number, (before, after) in enumerate(pairwise((in_channels, *widths)), start=1):
            pool = number in pools and side > 1
            self.features.add_module(f"layer{number}", _decomposed(before, after, kernel, pool=pool))
            side = side // 2 if pool else side
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores ``(batch, num_classes)`` of images ``(batch, in_channels, height, width)``."""
        scores: Tensor = self.classifier(self.flatten(self.pool(self.features(images))))
        return scores


def dec3(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    widths: Sequence[int] = (48, 96, 128),
    pools: Sequence[int] = (1, 2),
    kernel: int = 5,
) -> DecomposeMe:
    """Three decomposed 5x5 convolutions, for characters: in the style of Dec_3."""
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    return DecomposeMe(**sizes, widths=widths, pools=pools, kernel=kernel)


def dec4(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    widths: Sequence[int] = (16, 32, 32, 64),
    pools: Sequence[int] = (2, 3),
    kernel: int = 3,
) -> DecomposeMe:
    """Four decomposed 3x3 convolutions, cnn-4 in one dimension: for small images and quick runs."""
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    return DecomposeMe(**sizes, widths=widths, pools=pools, kernel=kernel)


def dec8(
    *,
    num_classes: int,
    in_channels: int,
    image_size: int,
    widths: Sequence[int] = (64, 128, 256, 256, 512, 512, 512, 512),
    pools: Sequence[int] = (1, 2, 4, 6),
    kernel: int = 3,
) -> DecomposeMe:
    """Eight decomposed 3x3 convolutions, for photographs: in the style of Dec_8."""
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    return DecomposeMe(**sizes, widths=widths, pools=pools, kernel=kernel)


def _decomposed(before: int, after: int, kernel: int, *, pool: bool) -> nn.Sequential:
    reach = kernel // 2
    parts = nn.Sequential()
    for name, channels, size, padding in (
        ("vertical", before, (kernel, 1), (reach, 0)),
        ("horizontal", after, (1, kernel), (0, reach)),
    ):
        parts.add_module(name, nn.Conv2d(channels, after, size, padding=padding, bias=False))
        parts.add_module(f"{name}_bn", nn.BatchNorm2d(after))
        parts.add_module(f"{name}_relu", nn.ReLU())
    if pool:
        parts.add_module("pool", nn.MaxPool2d(2))
    return parts
