"""Blueprint: how to build a model again, as a small JSON file beside its weights."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pliant.models.registry import NAMES, create

FILE = "model.json"
SCHEMA = 1
_MOST_BYTES = 2**20
_LARGEST = 2**20  # of a size; images and classes stay far below
_SIZES = ("num_classes", "in_channels", "image_size")


class BlueprintError(ValueError):
    """A file that does not say how to build a model, or says it in a way that must not be followed."""


@dataclass(frozen=True)
class Blueprint:
    """The name of a model, its sizes and arguments, and what it is called with.

    Args:
        name: one of `pliant.models.NAMES`, or "package.module:function".
        num_classes: outputs.
        in_channels: of the images.
        image_size: in pixels.
        input: shape of an example, the batch first.
        args: what the model takes besides.
    """

    name: str
    num_classes: int
    in_channels: int
    image_size: int
    input: tuple[int, ...]
    args: dict[str, Any] = field(default_factory=dict)

    def build(self) -> nn.Module:
        """Build the model, with weights drawn anew; the global random state stays where it is.

        Raises:
            ValueError: if there is no such model, or it does not take these arguments.
        """
        with torch.random.fork_rng(devices=[]):
            sizes = {name: getattr(self, name) for name in _SIZES}
            return create(self.name, **sizes, **self.args)

    def example(self) -> Tensor:
        """Return normal noise of the shape that the model is called with, the same every time."""
        return torch.randn(self.input, generator=torch.Generator().manual_seed(0))

    def to_json(self) -> str:
        """Return JSON text that `from_json` reads back to an equal blueprint."""
        return json.dumps({"schema": SCHEMA} | asdict(self), indent=2, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Blueprint:
        """Read a blueprint; nothing is built or imported.

        Raises:
            BlueprintError: if the text is not JSON, or not a blueprint of this schema.
        """
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise BlueprintError(f"a blueprint must be JSON text: {type(error).__name__}: {error}") from error
        fields = {"schema", "name", "input", "args", *_SIZES}
        if not isinstance(data, dict) or set(data) != fields or type(data["schema"]) is not int:
            raise BlueprintError(f"a blueprint must be a JSON object with the fields {', '.join(sorted(fields))}")
        if data["schema"] != SCHEMA:
            raise BlueprintError(f"schema must be {SCHEMA}, found {data['schema']}: of another version of pliant")
        if not isinstance(data["name"], str) or not isinstance(data["args"], dict):
            raise BlueprintError("name must be text and args an object")
        shape = data["input"]
        if not isinstance(shape, list) or not 1 <= len(shape) <= 8:
            raise BlueprintError(f"input must be a list of one to eight sizes, found {shape!r:.80}")
        sizes = {name: _size(data[name], name) for name in _SIZES}
        return Blueprint(data["name"], **sizes, input=tuple(_size(n, "input") for n in shape), args=data["args"])


def read_blueprint(folder: str | Path, *, trusted: str | None = None) -> Blueprint:
    """Read the blueprint of a folder that `pliant compress` wrote.

    A file must not decide which code runs: a model that is not one of `pliant.models.NAMES` is only accepted if the
    caller names it too.

    Args:
        folder: where it lies, as `model.json`.
        trusted: the "package.module:function" that may be imported and called.

    Raises:
        BlueprintError: if there is none, it is damaged, or asks for code that is not trusted.
    """
    path = Path(folder) / FILE
    try:
        if not path.is_file() or path.stat().st_size > _MOST_BYTES:
            raise BlueprintError(f"{path} must be a file of at most {_MOST_BYTES:,} bytes, written by pliant compress")
        blueprint = Blueprint.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise BlueprintError(f"{path} cannot be read: {error}") from error
    if blueprint.name not in NAMES and blueprint.name != trusted:
        given = "" if trusted is None else f" and not {trusted!r}"
        raise BlueprintError(
            f"{path} asks for code of {blueprint.name!r:.200}, which is none of pliant's models{given}; "
            "if you trust it, name it yourself: --model package.module:function"
        )
    return blueprint


def check_size(blueprint: Blueprint, parameters: int) -> None:
    """Check one of pliant's own models before it is built: its size, and that the machine can hold it.

    Args:
        blueprint: of the model.
        parameters: that the model must have.

    Raises:
        BlueprintError: if it has another number of parameters, or needs more memory than there is.
    """
    if blueprint.name not in NAMES:
        return
    with torch.device("meta"):
        needed = sum(p.numel() for p in blueprint.build().parameters())
    if needed != parameters:
        raise BlueprintError(f"{blueprint.name} must have {parameters:,} parameters, as the cut says, found {needed:,}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if 4 * needed > memory:
        raise BlueprintError(f"{blueprint.name} needs {4 * needed:,} bytes, this machine has {memory:,}")


def _size(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
        raise BlueprintError(f"{name} must be a whole number between 1 and {_LARGEST:,}, found {value!r:.80}")
    return value
