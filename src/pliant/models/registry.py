"""The table of models, and models of the user's own by import path."""

from __future__ import annotations

import importlib
import inspect
from typing import TYPE_CHECKING, Any

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
    model = _called(name, factory, _accepted(name, factory, sizes, args))
    if not isinstance(model, nn.Module):
        raise ValueError(f"{name}: the factory must return a torch.nn.Module, found {type(model).__name__}")
    return model


def _called(name: str, factory: Callable[..., object], keywords: dict[str, object]) -> object:
    try:
        return factory(**keywords)
    except Exception as error:
        given = ", ".join(f"{key}={value!r}" for key, value in keywords.items()) or "no argument"
        raise ValueError(f"{name}: the factory raised {type(error).__name__}: {error} (called with {given})") from error


def _registered(name: str) -> Callable[..., object]:
    if name not in NAMES:
        known = ", ".join(sorted(NAMES))
        raise ValueError(f"name must be one of {known}, or 'package.module:function', found {name!r}")
    return NAMES[name]


def imported(name: str) -> Callable[..., Any]:
    """Import a factory of the user's own.

    Args:
        name: "package.module:function", given by the user; never by a file.

    Raises:
        ValueError: if it cannot be imported, or is nothing that can be called.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), attribute)):
        raise ValueError(f"name must have the form 'package.module:function', found {name!r}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        raise ValueError(f"{name}: cannot import {module_name!r} ({error})") from error
    factory = getattr(module, attribute, None)
    if not callable(factory):
        raise ValueError(f"{name}: {module_name!r} has no function {attribute!r}")
    checked: Callable[..., Any] = factory
    return checked


def _accepted(
    name: str, factory: Callable[..., object], sizes: dict[str, int], args: dict[str, object]
) -> dict[str, object]:
    parameters = inspect.signature(factory).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return {**sizes, **args}
    keywords = {key for key, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    unknown = sorted(set(args) - keywords)
    if unknown:
        allowed = ", ".join(sorted(keywords - set(sizes))) or "no arguments besides the sizes"
        raise ValueError(f"{name}: takes {allowed}, found {', '.join(unknown)}")
    given = {**{key: value for key, value in sizes.items() if key in keywords}, **args}
    needed = [key for key, p in parameters.items() if p.default is p.empty and p.kind is not p.VAR_POSITIONAL]
    missing = [key for key in needed if key not in given]
    if missing:
        raise ValueError(f"{name}: needs {', '.join(missing)} as well; give them in args")
    return given
