"""The table of models, and models of the user's own by import path."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from pliant.models.cnn4 import CNN4
from pliant.models.decompose_me import dec3, dec4, dec8
from pliant.models.lenet import LeNet5, LeNet300100
from pliant.models.perceptron import Perceptron
from pliant.models.resnet import resnet18, resnet20, resnet56
from pliant.models.strided import StridedCNN
from pliant.models.vgg import VGG16
from pliant.models.vit import ViT
from pliant.models.wide_resnet import WideResNet
from pliant.own import called, imported

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES: dict[str, Callable[..., nn.Module]] = {
    "lenet-300-100": LeNet300100,
    "lenet-5": LeNet5,
    "perceptron": Perceptron,
    "cnn-4": CNN4,
    "cnn-strided": StridedCNN,
    "dec-3": dec3,
    "dec-4": dec4,
    "dec-8": dec8,
    "vgg-16-bn": VGG16,
    "resnet-20": resnet20,
    "resnet-56": resnet56,
    "resnet-18": resnet18,
    "wide-resnet-28-10": WideResNet,
    "vit": ViT,
}


def create(name: str, *, num_classes: int, in_channels: int, image_size: int, **args: object) -> nn.Module:
    """Build a model with freshly drawn weights (torch's default initialisation, torch's global random state).

    Args:
        name: one of ``NAMES``, or ``"package.module:function"`` for any importable factory, which is called
            with those of the three sizes that it accepts by keyword, and all of ``args``.
        num_classes: outputs.
        in_channels: of the images.
        image_size: in pixels.
        args: what this model takes besides, such as ``widths`` of ``cnn-4``.

    Raises:
        ValueError: no such model, an argument it does not take or lacks, a factory that raises or gives no
            ``nn.Module``.
    """
    factory = imported(name) if ":" in name else _registered(name)
    sizes = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    model = called(name, factory, sizes, args)
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name}: the factory must return a torch.nn.Module, found {type(model).__name__}")
    return model


def _registered(name: str) -> Callable[..., object]:
    if name not in NAMES:
        known = ", ".join(sorted(NAMES))
        raise ValueError(f"name must be one of {known}, or 'package.module:function', found {name!r}")
    return NAMES[name]
