"""Save and load a compressed model: JSON and safetensors, no pickle."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_model, save_model
from torch import nn

from pliant.compress.compressed import Compressed
from pliant.compress.compressor import compressor_of
from pliant.compress.cut import Cut

CUT_FILE = "cut.json"
WEIGHTS_FILE = "model.safetensors"


class StoreError(ValueError):
    """A folder that does not hold a compressed model, or not of this architecture."""


def save(compressed: Compressed, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write `cut.json` and `model.safetensors`, from which `load` rebuilds the model.

    Args:
        compressed: what `compress` returned.
        folder: created if need be.
        overwrite: replace files that are there.

    Raises:
        FileExistsError: if the folder holds one of the files, unless `overwrite`.
    """
    folder = Path(folder)
    taken = [name for name in (CUT_FILE, WEIGHTS_FILE) if (folder / name).exists()]
    if taken and not overwrite:
        raise FileExistsError(f"{folder} holds {', '.join(taken)} already; overwrite=True replaces them")
    folder.mkdir(parents=True, exist_ok=True)
    save_model(compressed.model, str(folder / WEIGHTS_FILE))
    (folder / CUT_FILE).write_text(compressed.cut.to_json() + "\n", encoding="utf-8")


def load(folder: str | Path, model_factory: Callable[[], nn.Module]) -> nn.Module:
    """Rebuild a compressed model: the factory's model, cut as before, with the saved weights.

    Args:
        folder: where `save` wrote.
        model_factory: returns the model that was cut, with any weights.

    Raises:
        StoreError: if a file is missing, damaged, or does not fit the factory's model.
        CutError: if `cut.json` is no cut, or not one for the factory's model.
    """
    folder = Path(folder)
    cut = Cut.from_json(_read_text(folder / CUT_FILE))
    compressor = compressor_of(cut)
    weights = folder / WEIGHTS_FILE
    _check_weights(weights)
    model = compressor.realise(model_factory(), cut)
    try:
        load_model(model, str(weights))
    except RuntimeError as error:
        raise StoreError(f"{weights} does not fit the factory's model: {error}") from error
    return model


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"{path} must be a cut written by save: {error}") from error


def _check_weights(path: Path) -> None:
    try:
        with safe_open(str(path), framework="pt") as file:
            file.keys()
    except (OSError, SafetensorError) as error:
        raise StoreError(f"{path} must be weights written by save: {error}") from error
