"""lenet-300-100 and lenet-5: the small classics of the compression literature."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from pliant.models.checks import check_sizes, check_widths

if TYPE_CHECKING:
    from collections.abc import Sequence

_UNPADDED = 16  # the smallest image that two unpadded 5x5 convolutions with pools leave something of


@final
class LeNet300100(nn.Module):
    """A perceptron with two hidden layers.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: in pixels.
        widths: of the two hidden layers.

    Raises:
        ValueError: a size is out of its range.

    Reference:
        Y. LeCun, L. Bottou, Y. Bengio and P. Haffner, Gradient-based learning (1998), section III.C.
    """

    def __init__(
        self, *, num_classes: int, in_channels: int, image_size: int, widths: Sequence[int] = (300, 100)
    ) -> None:
        super().__init__()
        check_sizes("lenet-300-100", num_classes=num_classes, in_channels=in_channels, image_size=image_size)
        check_widths("lenet-300-100", widths, layers=2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(in_channels * image_size**2, widths[0])
        self.relu1 = nn.ReLU()
        self.fc2 = nn.Linear(widths[0], widths[1])
        self.relu2 = nn.ReLU()
        self.classifier = nn.Linear(widths[1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores ``(batch, num_classes)`` of images ``(batch, in_channels, height, width)``."""
        hidden = self.relu1(self.fc1(self.flatten(images)))
        scores: Tensor = self.classifier(self.relu2(self.fc2(hidden)))
        return scores


@final
class LeNet5(nn.Module):
    """Two 5x5 convolutions with max-pools and two linear layers: the wide variant that Caffe made common.

    The convolutions are unpadded; for images smaller than 16 pixels they keep the size instead.

    Args:
        num_classes: outputs.
        in_channels: of the images.
        image_size: in pixels, at least 4.
        widths: channels of the two convolutions and of the hidden linear layer.

    Raises:
        ValueError: a size is out of its range.

    Reference:
        S. Han, J. Pool, J. Tran and W. Dally, Learning both weights and connections (2015), table 3.
    """

    def __init__(
        self, *, num_classes: int, in_channels: int, image_size: int, widths: Sequence[int] = (20, 50, 500)
    ) -> None:
        super().__init__()
        sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
        check_sizes("lenet-5", **sizes, smallest=4)
        check_widths("lenet-5", widths, layers=3)
        padding = 0 if image_size >= _UNPADDED else 2
        side = ((image_size - 4 + 2 * padding) // 2 - 4 + 2 * padding) // 2
        self.conv1 = nn.Conv2d(in_channels, widths[0], 5, padding=padding)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(widths[0], widths[1], 5, padding=padding)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(widths[1] * side**2, widths[2])
        self.relu3 = nn.ReLU()
        self.classifier = nn.Linear(widths[2], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        """Class scores ``(batch, num_classes)`` of images ``(batch, in_channels, height, width)``."""
        first = self.pool1(self.relu1(self.conv1(images)))
        second = self.pool2(self.relu2(self.conv2(first)))
        scores: Tensor = self.classifier(self.relu3(self.fc1(self.flatten(second))))
        return scores
