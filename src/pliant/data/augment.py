"""Augmentations of whole batches: vectorised, on the images' device, deterministic given a generator.

Every augmentation draws one or two numbers an image from the generator, on the generator's device, and
moves them to the images. A CPU generator therefore gives the same augmented images on every device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Generator, Tensor
from torch.nn import functional as F


class Augmentation(ABC):
    """A random map of image batches that keeps shape, dtype and device."""

    @abstractmethod
    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Augment a batch.

        Args:
            images: ``(batch, channels, height, width)``, uint8 or floating point; it is not changed.
            generator: where the randomness comes from.
        """


@dataclass(frozen=True, kw_only=True)
class RandomCrop(Augmentation):
    """Pad with zeros on every side, then cut a window of the old size: a shift by at most ``padding``.

    Args:
        padding: pixels, at least 1.
    """

    padding: int

    def __post_init__(self) -> None:
        if self.padding < 1:
            raise ValueError(f"padding must be at least 1 pixel, found {self.padding}")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Shift every image by its own offset."""
        batch, _, height, width = images.shape
        offsets = torch.randint(2 * self.padding + 1, (2, batch), generator=generator, device=generator.device)
        rows, columns = offsets.to(images.device, non_blocking=True)
        windows = F.pad(images, (self.padding,) * 4).unfold(2, height, 1).unfold(3, width, 1)
        return windows[torch.arange(batch, device=images.device), :, rows, columns]


@dataclass(frozen=True, kw_only=True)
class RandomFlip(Augmentation):
    """Mirror images left to right.

    Args:
        probability: of mirroring an image, in [0, 1].
    """

    probability: float = 0.5

    def __post_init__(self) -> None:
        if not 0 <= self.probability <= 1:
            raise ValueError(f"probability must lie in [0, 1], found {self.probability}")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Mirror each image or not."""
        draws = torch.rand(len(images), generator=generator, device=generator.device)
        chosen = (draws < self.probability).to(images.device, non_blocking=True)
        return torch.where(chosen[:, None, None, None], images.flip(-1), images)


@dataclass(frozen=True, kw_only=True)
class RandomRotation(Augmentation):
    """Rotate about the centre by an angle uniform in [-degrees, degrees], bilinear, zeros outside.

    Args:
        degrees: the largest angle, in (0, 180].
    """

    degrees: float

    def __post_init__(self) -> None:
        if not 0 < self.degrees <= 180:
            raise ValueError(f"degrees must lie in (0, 180], found {self.degrees}")

    def __call__(self, images: Tensor, generator: Generator) -> Tensor:
        """Rotate every image by its own angle."""
        draws = torch.rand(len(images), generator=generator, device=generator.device)
        angles = ((2 * draws - 1) * self.degrees).deg2rad().to(images.device, non_blocking=True)
        pixels = images if images.is_floating_point() else images.float()
        grid = _rotation_grid(angles.to(pixels.dtype), images.shape)
        turned = F.grid_sample(pixels, grid, mode="bilinear", padding_mode="zeros", align_corners=False)
        return turned if images.is_floating_point() else turned.round().to(images.dtype)


def _rotation_grid(angles: Tensor, shape: torch.Size) -> Tensor:
    """Sampling positions of a rotation in pixels: the aspect ratio undoes the unit square's stretch."""
    height, width = shape[-2:]
    cos, sin, zero = angles.cos(), angles.sin(), torch.zeros_like(angles)
    first = torch.stack((cos, -sin * (height / width), zero), dim=1)
    second = torch.stack((sin * (width / height), cos, zero), dim=1)
    return F.affine_grid(torch.stack((first, second), dim=1), list(shape), align_corners=False)
