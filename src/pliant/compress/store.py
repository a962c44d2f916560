"""save and load: a compressed model as a folder of JSON and safetensors, without pickle."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from pliant import atomic
from pliant.compress.compressed import Compressed
from pliant.compress.compressor import compressor_of
from pliant.compress.cut import Cut
from pliant.compress.manifest import Manifest, read_manifest
from pliant.compress.tensor_file import StoreError, TensorFile, code_of

CUT_FILE = "cut.json"
WEIGHTS_FILE = "model.safetensors"


def save(compressed: Compressed, folder: str | Path, *, overwrite: bool = False) -> None:
    """Write `cut.json` and `model.safetensors`, from which `load` rebuilds the model.

    `cut.json` holds the cut, and SHA-256 hashes of the weights file and of its names, types and shapes. Both files are
    complete on the disk before they get their names, and a save that fails leaves what was there. Of tensors that are
    shared (tied weights), one is written; buffers that are not persistent are the factory's to make.

    Args:
        compressed: what `compress` returned.
        folder: created if need be.
        overwrite: replace files that are there.

    Raises:
        FileExistsError: if the folder holds one of the files, unless `overwrite`.
        StoreError: if the model has state that safetensors cannot hold.
    """
    folder = Path(folder)
    taken = [name for name in (CUT_FILE, WEIGHTS_FILE) if (folder / name).exists()]
    if taken and not overwrite:
        raise FileExistsError(f"{folder} holds {', '.join(taken)} already; overwrite=True replaces them")
    tensors = _separate(own_tensors(compressed.model))
    folder.mkdir(parents=True, exist_ok=True)
    with atomic.replacing([folder / WEIGHTS_FILE, folder / CUT_FILE]) as (weights, cut):
        save_file(tensors, weights, metadata={"format": "pt"})
        manifest = Manifest.of(compressed.cut, TensorFile.read(weights), temporary_buffers(compressed.model))
        cut.write_text(manifest.to_json() + "\n", encoding="utf-8")


def load(folder: str | Path, model_factory: Callable[[], nn.Module]) -> nn.Module:
    """Rebuild a compressed model: the factory's model, cut as before, with the saved weights.

    Both files are checked, hashes included, before the factory is called; afterwards every name, type and shape is
    compared with the realised model before a weight is read. Nothing in the folder can run code. The hashes find
    damage; they do not say who wrote the files.

    Args:
        folder: where `save` wrote.
        model_factory: returns the model that was cut, with any weights. What it makes on the meta device gets memory
            on the CPU.

    Raises:
        StoreError: if a file is missing, damaged, or does not fit the factory's model; or if that has, on the meta
            device, buffers that are not saved.
        CutError: if `cut.json` holds no cut, or not one for the factory's model.
    """
    weights = Path(folder) / WEIGHTS_FILE
    manifest = read_manifest(Path(folder) / CUT_FILE)
    compressor = compressor_of(manifest.cut)
    file = TensorFile.read(weights)
    manifest.check_weights(file)
    model = compressor.realise(_with_memory(model_factory()), manifest.cut)
    _check_fits(model, file)
    manifest.check_buffers(temporary_buffers(model))
    _fill(model, file)
    return model


def read_cut(folder: str | Path) -> Cut:
    """Read the cut of a saved model; nothing but data is built.

    Args:
        folder: where `save` wrote.

    Raises:
        StoreError: if `cut.json` is missing or damaged.
        CutError: if it holds no cut.
    """
    return read_manifest(Path(folder) / CUT_FILE).cut


def own_tensors(model: nn.Module) -> dict[str, Tensor]:
    """Return a model's persistent state by name; a tensor with several names (tied weights) comes once, by its first.

    Raises:
        StoreError: if the state holds something other than tensors.
    """
    state = model.state_dict(keep_vars=True)
    return {name: state[name] for name, first in _first_names(state).items() if name == first}


def _first_names(state: Mapping[str, object]) -> dict[str, str]:
    """Return for every name of a state the first name of the same tensor."""
    first: dict[int, str] = {}
    for name, value in state.items():
        if not isinstance(value, Tensor):
            raise StoreError(f"{name!r} of the model's state must be a tensor, found a {type(value).__name__}")
        first.setdefault(id(value), name)
    return {name: first[id(value)] for name, value in state.items()}


def _separate(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return contiguous tensors of which no two share memory; the format cannot hold views of one storage."""
    seen: set[int] = set()
    found = {}
    for name, tensor in tensors.items():
        code_of(tensor, name)
        plain = tensor.detach().contiguous()
        address = plain.untyped_storage().data_ptr()
        found[name] = plain.clone() if address in seen else plain
        seen.add(address)
    return found


def temporary_buffers(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers that are not part of a model's saved state, by name."""
    saved = {id(value) for value in model.state_dict(keep_vars=True).values()}
    return {name: buffer for name, buffer in model.named_buffers() if id(buffer) not in saved}


def _with_memory(model: nn.Module) -> nn.Module:
    """Give what is on the meta device zeros on the CPU, in place; tied tensors stay tied.

    Raises:
        StoreError: if there are buffers that no file gives values to.
    """
    lost = [name for name, buffer in temporary_buffers(model).items() if buffer.is_meta]
    if lost:
        raise StoreError(
            f"the factory's model has the buffer {lost[0]!r} on the meta device, which is not part of the saved state: "
            "make the model outside of torch.device('meta')"
        )
    made: dict[int, Tensor] = {}
    for module in model.modules():
        parameters = module.named_parameters(recurse=False, remove_duplicate=False)
        for name, tensor in (*parameters, *module.named_buffers(recurse=False, remove_duplicate=False)):
            if tensor.is_meta:
                setattr(module, name, made.setdefault(id(tensor), _zeros(tensor)))
    return model


def _zeros(like: Tensor) -> Tensor:
    zeros = torch.zeros_like(like, device="cpu", requires_grad=False)
    return nn.Parameter(zeros, like.requires_grad) if isinstance(like, nn.Parameter) else zeros


def _check_fits(model: nn.Module, file: TensorFile) -> None:
    expected = {name: code_of(tensor, name) for name, tensor in own_tensors(model).items()}
    for name in sorted(expected.keys() | file.tensors.keys()):
        have, want = file.tensors.get(name), expected.get(name)
        if have == want:
            continue
        found = "nothing of that name" if have is None else f"{have[0]} of shape {list(have[1])}"
        needed = "does not have" if want is None else f"has as {want[0]} of shape {list(want[1])}"
        raise StoreError(
            f"{file.path} does not fit the factory's model: {name!r}, which the cut model {needed}, is {found} in the "
            "file; the factory must make the very model that was cut, in its type"
        )


def _fill(model: nn.Module, file: TensorFile) -> None:
    first = _first_names(model.state_dict(keep_vars=True))
    tensors = dict(file.load())
    try:
        model.load_state_dict({name: tensors[known] for name, known in first.items()})
    except RuntimeError as error:
        raise StoreError(f"{file.path} does not fit the factory's model: {error}") from error
