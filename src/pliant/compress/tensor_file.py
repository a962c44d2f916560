"""A safetensors file, checked before a tensor of it is allocated."""

from __future__ import annotations

import hashlib
import stat
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

# What safetensors can hold, by its own codes.
_CODES: dict[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.complex64: "C64",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}


class StoreError(ValueError):
    """A folder that does not hold a compressed model, or not of this architecture."""


def regular_file(path: Path, what: str) -> int:
    """Return the size of a file in bytes; links are followed, pipes and devices are refused.

    Raises:
        StoreError: if there is no such file.
    """
    try:
        found = path.stat()
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} must be {what} written by save: {error}") from error
    if not stat.S_ISREG(found.st_mode):
        raise StoreError(f"{path} must be {what} written by save, found something that is not a plain file")
    return found.st_size


def code_of(tensor: Tensor, name: str) -> tuple[str, tuple[int, ...]]:
    """Return type and shape of a tensor as a safetensors header has them.

    Raises:
        StoreError: if safetensors cannot hold the type.
    """
    code = _CODES.get(tensor.dtype)
    if code is None:
        raise StoreError(f"{name!r} is of type {tensor.dtype}, which cannot be stored: convert the model first")
    return code, tuple(tensor.shape)


@dataclass(frozen=True)
class TensorFile:
    """The header of a safetensors file, and a hash of all of it.

    Args:
        path: of the file.
        size: in bytes.
        tensors: name -> type and shape.
        sha256: of the whole file, hexadecimal.
    """

    path: Path
    size: int
    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    sha256: str

    @staticmethod
    def read(path: Path) -> TensorFile:
        """Read the header and hash the file; no tensor is allocated.

        Raises:
            StoreError: if it is missing, not a plain file, cut off, or its header contradicts its size.
        """
        size = regular_file(path, "weights")
        try:
            with safe_open(path, framework="pt") as file:
                slices = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118  (not a mapping)
                tensors = {name: (part.get_dtype(), tuple(part.get_shape())) for name, part in slices.items()}
            with path.open("rb") as stream:
                digest = hashlib.file_digest(stream, "sha256").hexdigest()
        except (OSError, SafetensorError, UnicodeDecodeError) as error:
            raise StoreError(f"{path} must be weights written by save: {error}") from error
        return TensorFile(path, size, tensors, digest)

    @property
    def layout(self) -> str:
        """SHA-256 of names, types and shapes, in the order of the names."""
        lines = (f"{name}\t{code}\t{shape}\n" for name, (code, shape) in sorted(self.tensors.items()))
        return hashlib.sha256("".join(lines).encode("utf-8", "surrogatepass")).hexdigest()

    def load(self) -> Iterator[tuple[str, Tensor]]:
        """Yield the tensors one by one, on the CPU.

        Raises:
            StoreError: if the file changed since it was read.
        """
        try:
            with safe_open(self.path, framework="pt") as file:
                for name in self.tensors:
                    yield name, file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise StoreError(f"{self.path} changed while it was read: {error}") from error
