"""What cut.json holds: the cut, and hashes of the weights that belong to it."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pliant.compress.cut import Cut, CutError
from pliant.compress.tensor_file import StoreError, TensorFile, regular_file

FORMAT = "pliant compressed model"
SCHEMA = 1
MOST_BYTES = 64 * 2**20  # a cut of the largest models has a few megabytes

_LOG = logging.getLogger(__name__)
_HASHES = ("sha256", "layout")


@dataclass(frozen=True)
class Manifest:
    """A cut and what is known of its weights file.

    Args:
        cut: how the model was cut.
        sha256: of the weights file; "" in a bare cut, which knows of no weights.
        layout: SHA-256 of names, types and shapes in it.
        buffers: SHA-256 of the values of buffers that are not in the file, by name.
    """

    cut: Cut
    sha256: str = ""
    layout: str = ""
    buffers: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of(cut: Cut, weights: TensorFile, buffers: Mapping[str, Tensor]) -> Manifest:
        """Describe weights that were just written."""
        return Manifest(cut, weights.sha256, weights.layout, {name: _digest(b) for name, b in buffers.items()})

    def to_json(self) -> str:
        """Return JSON text that `read_manifest` reads."""
        weights = {"sha256": self.sha256, "layout": self.layout, "buffers": dict(self.buffers)}
        data = {"format": FORMAT, "schema": SCHEMA, "weights": weights, "cut": json.loads(self.cut.to_json())}
        return json.dumps(data, indent=1, allow_nan=False)

    def check_weights(self, weights: TensorFile) -> None:
        """Check that a file holds the weights that were saved with this cut.

        Raises:
            StoreError: if not.
        """
        if self.layout and weights.layout != self.layout:
            raise StoreError(f"{weights.path} does not hold the tensors that cut.json was saved with: it is another's")
        if self.sha256 and weights.sha256 != self.sha256:
            raise StoreError(
                f"{weights.path} is not the file that cut.json was saved with: it is damaged, or of another save "
                f"(SHA-256 {weights.sha256[:12]}..., expected {self.sha256[:12]}...)"
            )

    def check_buffers(self, buffers: Mapping[str, Tensor]) -> None:
        """Log a warning for every buffer outside of the saved state that the factory made otherwise."""
        for name, digest in self.buffers.items():
            if name not in buffers or _digest(buffers[name]) != digest:
                _LOG.warning("the buffer %r is not saved, and the factory's differs from the saved model's", name)


def read_manifest(path: Path) -> Manifest:
    """Read cut.json; a bare cut, as older versions wrote it, is a manifest that knows no hashes.

    Raises:
        StoreError: if the file is missing, too large, or no JSON object of this schema.
        CutError: if the cut in it is none.
    """
    data = _parse(path)
    if "format" not in data:
        return Manifest(Cut.from_json(json.dumps(data)))
    if data["format"] != FORMAT or isinstance(data.get("schema"), bool) or data.get("schema") != SCHEMA:
        raise StoreError(
            f"{path}: format and schema must be {FORMAT!r} and {SCHEMA}, found {data['format']!r:.80} and "
            f"{data.get('schema')!r:.80}; it is foreign, or of another version of pliant"
        )
    if set(data) != {"format", "schema", "weights", "cut"}:
        raise StoreError(f"{path} must have exactly the fields format, schema, weights and cut, found {_names(data)}")
    weights = data["weights"]
    if not isinstance(weights, dict) or set(weights) != {*_HASHES, "buffers"}:
        raise StoreError(f"{path}: weights must have exactly the fields {', '.join(_HASHES)} and buffers")
    hashes = {name: _hash(weights[name], f"{path}: weights.{name}") for name in _HASHES}
    if not isinstance(weights["buffers"], dict):
        raise StoreError(f"{path}: weights.buffers must be an object")
    buffers = {name: _hash(value, f"{path}: the hash of {name!r:.80}") for name, value in weights["buffers"].items()}
    return Manifest(Cut.from_json(json.dumps(data["cut"])), **hashes, buffers=buffers)


def _parse(path: Path) -> dict[str, Any]:
    size = regular_file(path, "a cut")
    if size > MOST_BYTES:
        raise StoreError(f"{path} must have at most {MOST_BYTES:,} bytes, found {size:,}")
    try:
        data = json.loads(path.read_bytes().decode(), object_pairs_hook=_unique, parse_constant=_no_constant)
    except (OSError, ValueError, RecursionError) as error:
        raise StoreError(f"{path} must be a cut written by save, in JSON: {type(error).__name__}: {error}") from error
    if not isinstance(data, dict):
        raise CutError(f"{path} must hold a JSON object, found {type(data).__name__}")
    return data


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    data = dict(pairs)
    if len(data) < len(pairs):
        raise ValueError(f"a key is given twice among {_names(data)}")
    return data


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number that JSON knows")


def _hash(value: object, what: str) -> str:
    if not isinstance(value, str) or len(value) != 64 or set(value) - set("0123456789abcdef"):
        raise StoreError(f"{what} must be a SHA-256 hash, found {value!r:.80}")
    return value


def _names(data: Mapping[str, Any]) -> str:
    return f"{', '.join(sorted(data))!r:.200}"


def _digest(tensor: Tensor) -> str:
    real = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    plain = real.detach().cpu().contiguous().flatten().view(torch.uint8)
    head = f"{tensor.dtype} {tuple(tensor.shape)}\n".encode()
    return hashlib.sha256(head + plain.numpy().tobytes()).hexdigest()
