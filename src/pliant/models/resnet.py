"""resnet-20, resnet-56 and resnet-18: residual networks for small images."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from pliant.models.checks import check_sizes

if TYPE_CHECKING:
    from collections.abc import Sequence


@final
class BasicBlock(nn.Module):
    """``relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x))``.

    The shortcut is the identity, or a 1x1 convolution with BatchNorm where the shape changes (option B).

    Args:
        before: input channels.
        after: output channels.
        stride: of the first convolution and the shortcut.
    """

    def __init__(self, before: int, after: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(after)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.shortcut = nn.Sequential()
        if stride != 1 or before != after:
            self.shortcut.add_module("conv", nn.Conv2d(before, after, 1, stride=stride, bias=False))
            self.shortcut.add_module("bn", nn.BatchNorm2d(after))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, before, height, width)`` to ``(batch, after, height / stride, width / stride)``."""
        branch = self.bn2(self.conv2(self.relu1(self.bn1(self.conv1(x)))))
        out: Tensor = self.relu2(branch + self.shortcut(x))
        return out


@final
class ResNet(nn.Module):
    """A 3x3 stem, stages of basic blocks that halve the image from the second on, and one linear layer.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: in pixels, at least 2 to the number of stages less one.
        blocks: basic blocks of each stage.
        widths: channels of each stage; the stem has the first.

    Raises:
        ValueError: a size is out of its range.

    Reference:
        K. He, X. Zhang, S. Ren and J. Sun, Deep Residual Learning (2016), section 4.2.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: int,
        blocks: Sequence[int],
        widths: Sequence[int],
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        check_sizes("resnet", **sizes, smallest=2 ** (len(widths) - 1))
        if len(blocks) != len(widths) or min(*blocks, *widths) < 1:
            found = f"{tuple(blocks)} and {tuple(widths)}"
            raise ValueError(f"resnet: blocks and widths must be positive, one of each a stage, found {found}")
        self.conv = nn.Conv2d(in_channels, widths[0], 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(widths[0])
        self.relu = nn.ReLU()
        self.stages = nn.Sequential()
        before = widths[0]
        for number, (count, width) in enumerate(zip(blocks, widths, strict=True)):
            self.stages.append(_stage(before, width, count, stride=1 if number == 0 else 2))
            before = width
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(before, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores ``(batch, num_classes)`` of images ``(batch, in_channels, height, width)``."""
        features = self.stages(self.relu(self.bn(self.conv(images))))
        scores: Tensor = self.classifier(self.flatten(self.pool(features)))
        return scores


def resnet20(*, num_classes: int, in_channels: int, image_size: int, widths: Sequence[int] = (16, 32, 64)) -> ResNet:
    """Three stages of three blocks: 0.27 M parameters on CIFAR-10."""
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    return ResNet(**sizes, blocks=(3, 3, 3), widths=widths)


def resnet56(*, num_classes: int, in_channels: int, image_size: int, widths: Sequence[int] = (16, 32, 64)) -> ResNet:
    """Three stages of nine blocks: 0.86 M parameters on CIFAR-10."""
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    return ResNet(**sizes, blocks=(9, 9, 9), widths=widths)


def resnet18(
    *, num_classes: int, in_channels: int, image_size: int, widths: Sequence[int] = (64, 128, 256, 512)
) -> ResNet:
    """Four stages of two blocks, with a 3x3 stem and no first pool: 11.17 M parameters on CIFAR-10."""
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    return ResNet(**sizes, blocks=(2, 2, 2, 2), widths=widths)


def _stage(before: int, width: int, count: int, *, stride: int) -> nn.Sequential:
    first = BasicBlock(before, width, stride)
    return nn.Sequential(first, *(BasicBlock(width, width, 1) for _ in range(count - 1)))
