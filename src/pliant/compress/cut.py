"""Cut: which atoms stay, as pure data that travels through JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from pliant.compress.budgets.record import BudgetRecord
from pliant.compress.group_data import LARGEST, from_plain, to_plain
from pliant.compress.reading import CutError, count, items, mapping, parse, share, take, texts
from pliant.compress.reading import text as as_text
from pliant.structure.channels import ChannelGroup, removed_slices

__all__ = ["SCHEMA", "Cut", "CutError", "Kept"]

SCHEMA = 3  # 2 did not know budgets
_READABLE = (2, SCHEMA)

Kept = int | tuple[int, ...]


@dataclass(frozen=True)
class Cut:
    """Which atoms stay in each layer of one model, and what the physically smaller model will cost.

    Args:
        compressor: class name of the compressor that made it.
        options: the compressor's options as plain data.
        fraction: the fraction asked for, or None if something else (a budget, an energy level) was.
        atoms: qualified name of a layer, or of the first layer of a group -> atoms it has (channels, heads, singular
            values per group, entries).
        kept: the same names -> indices of the atoms that stay, ascending, or how many of the largest stay.
        groups: for channels, the same names -> the slices that make the atoms, in every tensor.
        skipped: name -> why this layer loses no atom.
        left_dense: layer name -> why its removed atoms become zeros, but the layer keeps its size.
        parameters: of the realised model.
        macs: of the realised model, on the example that `select` was given.
        dense_parameters: of the model before the cut.
        dense_macs: of the model before the cut.
        parts: the cuts that it is made of, if several were made one after the other: each is of the model that the one
            before realises.
        budget: the budget asked for, and what was reached; None if there was none, or the cut is of an older version.
    """

    compressor: str
    options: Mapping[str, Any]
    fraction: float | None
    atoms: Mapping[str, int]
    kept: Mapping[str, Kept]
    groups: Mapping[str, ChannelGroup] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    left_dense: Mapping[str, str] = field(default_factory=dict)
    parameters: int = 0
    macs: int = 0
    dense_parameters: int = 0
    dense_macs: int = 0
    parts: tuple[Cut, ...] = ()
    budget: BudgetRecord | None = None

    def count(self, layer: str) -> int:
        """Return how many atoms of a layer stay."""
        kept = self.kept[layer]
        return kept if isinstance(kept, int) else len(kept)

    @property
    def removed_fraction(self) -> float:
        """Return the share of atoms that the cut really removes; 0 if it concerns no layer."""
        total = sum(self.atoms.values())
        return 1.0 - sum(self.count(layer) for layer in self.kept) / total if total else 0.0

    def reduced(self) -> list[str]:
        """Return the names of the layers that lose at least one atom."""
        return [layer for layer, total in self.atoms.items() if self.count(layer) < total]

    def removed_slices(self) -> Mapping[str, tuple[tuple[int, tuple[int, ...]], ...]]:
        """Return what `realise` takes out of every parameter and buffer.

        Returns:
            tensor name -> pairs (dimension, removed positions), dimensions and positions ascending; only tensors that
            lose something.

        Raises:
            CutError: if the cut does not list the atoms that stay.
        """
        if self.parts:
            return self.parts[0].removed_slices()
        return removed_slices(list(self.groups.values()), {name: self.listed(name) for name in self.groups})

    def listed(self, layer: str) -> tuple[int, ...]:
        """Return the indices of the atoms of a layer that stay.

        Raises:
            CutError: if the cut says only how many.
        """
        kept = self.kept[layer]
        if isinstance(kept, int):
            raise CutError(f"layer {layer!r}: the cut must list the atoms that stay, found their number {kept}")
        return kept

    def to_json(self) -> str:
        """Return the cut as JSON text, from which `from_json` rebuilds an equal cut."""
        return json.dumps(_plain(self), indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Cut:
        """Read a cut; nothing but data is built.

        Raises:
            CutError: if the text is not JSON, or not a cut of this schema, or contradicts itself.
        """
        return _read(parse(text), "a cut", parts=True)


_COUNTS = ("parameters", "macs", "dense_parameters", "dense_macs")
_FIELDS = {"schema", "compressor", "options", "fraction", "budget", "layers", "skipped", "left_dense", *_COUNTS}
_PLAIN = frozenset({"atoms", "kept"})
_GROUPED = _PLAIN | {"members", "attributes"}


def _plain(cut: Cut) -> dict[str, Any]:
    plain = {
        "schema": SCHEMA,
        "compressor": cut.compressor,
        "options": cut.options,
        "fraction": cut.fraction,
        "budget": None if cut.budget is None else cut.budget.to_plain(),
        "layers": {
            name: {"atoms": total, "kept": cut.kept[name]} | (to_plain(cut.groups[name]) if name in cut.groups else {})
            for name, total in cut.atoms.items()
        },
        "skipped": dict(cut.skipped),
        "left_dense": dict(cut.left_dense),
    }
    plain |= {name: getattr(cut, name) for name in _COUNTS}
    return plain | {"parts": [_plain(part) for part in cut.parts]} if cut.parts else plain


def _read(value: object, what: str, *, parts: bool = False) -> Cut:
    """Read a cut, or one of its parts, which have no parts themselves."""
    data = mapping(value, what)
    schema = take(data, "schema")
    if isinstance(schema, bool) or schema not in _READABLE:
        raise CutError(f"schema must be {SCHEMA}, found {schema!r:.80}; the cut is of another version of pliant")
    if schema < SCHEMA and data.setdefault("budget") is not None:
        raise CutError(f"a cut of schema {schema} has no field 'budget'")
    layers = {name: _layer(value, name) for name, value in mapping(take(data, "layers"), "layers").items()}
    found = items(data.pop("parts"), "parts") if parts and "parts" in data else []
    cut = Cut(
        compressor=as_text(take(data, "compressor"), "compressor"),
        options=mapping(take(data, "options"), "options"),
        fraction=share(take(data, "fraction")),
        budget=None if take(data, "budget") is None else BudgetRecord.from_plain(data["budget"]),
        atoms={name: atoms for name, (atoms, _, _) in layers.items()},
        kept={name: kept for name, (_, kept, _) in layers.items()},
        groups={name: group for name, (_, _, group) in layers.items() if group is not None},
        skipped=texts(take(data, "skipped"), "skipped"),
        left_dense=texts(take(data, "left_dense"), "left_dense"),
        parts=tuple(_read(part, "a part of a cut") for part in found),
        **{name: count(take(data, name), name) for name in _COUNTS},
    )
    _check_names(cut, data)
    return cut


def _check_names(cut: Cut, data: Mapping[str, Any]) -> None:
    unknown = sorted(set(data) - _FIELDS)
    if unknown:
        raise CutError(f"a cut of schema {SCHEMA} has no field {unknown[0]!r:.80}")
    for name in cut.left_dense:
        if name not in cut.atoms:
            raise CutError(f"left_dense names {name!r:.80}, which is not among the layers of the cut")


def _layer(value: object, name: str) -> tuple[int, Kept, ChannelGroup | None]:
    where = f"layer {name!r:.80}"
    data = mapping(value, where)
    mapping(data, where, _GROUPED if "members" in data else _PLAIN)
    atoms = count(data["atoms"], f"{where}: atoms", low=1, high=None if "members" not in data else LARGEST)
    kept = _kept(data["kept"], atoms, where)
    return atoms, kept, from_plain(data, name, atoms) if "members" in data else None


def _kept(value: object, atoms: int, where: str) -> Kept:
    if not isinstance(value, list):
        kept = count(value, f"{where}: kept", low=1)
        if kept > atoms:
            raise CutError(f"{where}: kept must be at most its {atoms} atoms, found {kept}")
        return kept
    indices = tuple(count(item, f"{where}: kept") for item in items(value, f"{where}: kept"))
    ascending = all(a < b for a, b in pairwise(indices))
    if not indices or not ascending or indices[-1] >= atoms:
        raise CutError(f"{where}: kept must be ascending indices below {atoms}, at least one, found {value!r:.80}")
    return indices
