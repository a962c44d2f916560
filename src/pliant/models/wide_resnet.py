"""wide-resnet-28-10: a wide residual network with pre-activation."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from pliant.models.checks import check_share, check_sizes

_DEPTH_STEP = 6  # convolutions that one more block a stage adds, three stages of two
_STAGE_WIDTHS = (16, 32, 64)


@final
class WideBlock(nn.Module):
    """``conv2(dropout(relu(bn2(conv1(h))))) + shortcut`` with ``h = relu(bn1(x))``.

    The shortcut is x itself, or a 1x1 convolution of h where the shape changes.

    Args:
        before: input channels.
        after: output channels.
        stride: of the first convolution and the shortcut.
        dropout: probability, in [0, 1).
    """

    def __init__(self, before: int, after: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(before)
        self.relu1 = nn.ReLU()
        self.conv1 = nn.Conv2d(before, after, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(after)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        same = stride == 1 and before == after
        self.shortcut = None if same else nn.Conv2d(before, after, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(batch, before, height, width)`` to ``(batch, after, height / stride, width / stride)``."""
        active = self.relu1(self.bn1(x))
        branch = self.conv2(self.dropout(self.relu2(self.bn2(self.conv1(active)))))
        out: Tensor = branch + (x if self.shortcut is None else self.shortcut(active))
        return out


@final
class WideResNet(nn.Module):
    """A 3x3 stem of 16 channels, three stages of pre-activation blocks, BatchNorm, one linear layer.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: in pixels, at least 4.
        depth: ``6 n + 4`` for n >= 1 blocks a stage.
        width: factor on the stages' 16, 32 and 64 channels.
        dropout: probability between a block's convolutions, in [0, 1).

    Raises:
        ValueError: a size is out of its range.

    Reference:
        S. Zagoruyko and N. Komodakis, Wide Residual Networks (2016), table 1.
    """

    def __init__(
        self,
        *,
        num_classes: int,
        in_channels: int,
        image_size: int,
        depth: int = 28,
        width: int = 10,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        check_sizes("wide-resnet", **sizes, smallest=4)
        blocks = _blocks(depth, width)
        check_share("wide-resnet", "dropout", dropout)
        self.conv = nn.Conv2d(in_channels, _STAGE_WIDTHS[0], 3, padding=1, bias=False)
        self.stages = nn.Sequential()
        before = _STAGE_WIDTHS[0]
        for number, after in enumerate(width * channels for channels in _STAGE_WIDTHS):
            self.stages.append(_stage(before, after, blocks, 1 if number == 0 else 2, dropout))
            before = after
        self.bn = nn.BatchNorm2d(before)
        self.relu = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(before, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores ``(batch, num_classes)`` of images ``(batch, in_channels, height, width)``."""
        features = self.relu(self.bn(self.stages(self.conv(images))))
        scores: Tensor = self.classifier(self.flatten(self.pool(features)))
        return scores


def _stage(before: int, after: int, blocks: int, stride: int, dropout: float) -> nn.Sequential:
    first = WideBlock(before, after, stride, dropout)
    return nn.Sequential(first, *(WideBlock(after, after, 1, dropout) for _ in range(blocks - 1)))


def _blocks(depth: int, width: int) -> int:
    blocks, rest = divmod(depth - 4, _DEPTH_STEP)
    if blocks < 1 or rest:
        raise ValueError(f"wide-resnet: depth must be 6 n + 4 for an n of at least 1, found {depth}")
    if width < 1:
        raise ValueError(f"wide-resnet: width must be at least 1, found {width}")
    return blocks
