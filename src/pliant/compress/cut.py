"""Cut: which atoms stay, as pure data that travels through JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from itertools import pairwise
from typing import Any

from pliant.spec import register

SCHEMA = 1

Kept = int | tuple[int, ...]


class CutError(ValueError):
    """A cut that cannot be read, or that does not fit the model or compressor it is used with."""


@register
class Role(Enum):
    """What another module loses when a layer loses output channels."""

    NORM = "norm"  # the same channels of its scale, shift and running statistics
    INPUT = "input"  # the input channels, or blocks of input features, that those channels fed


@dataclass(frozen=True)
class Link:
    """Another module that loses something together with a layer.

    Args:
        module: its qualified name.
        role: what it loses.
        block: features per channel (1, or height * width after a flatten).
    """

    module: str
    role: Role
    block: int = 1


@dataclass(frozen=True)
class Cut:
    """Which atoms stay in each layer of one model, and what the physically smaller model will cost.

    Args:
        compressor: class name of the compressor that made it.
        options: the compressor's options as plain data.
        fraction: the fraction asked for, or None if something else (an energy level) was.
        atoms: qualified layer name -> atoms it has (filters, singular values per group, entries).
        kept: the same names -> indices of the atoms that stay, ascending, or how many of the largest stay.
        links: layer name -> the modules that lose channels with it.
        skipped: name -> why this layer loses no atom.
        left_dense: layer name -> why its removed atoms become zeros, but the layer keeps its size.
        parameters: of the realised model.
        macs: of the realised model, on the example that `select` was given.
        dense_parameters: of the model before the cut.
        dense_macs: of the model before the cut.
    """

    compressor: str
    options: Mapping[str, Any]
    fraction: float | None
    atoms: Mapping[str, int]
    kept: Mapping[str, Kept]
    links: Mapping[str, tuple[Link, ...]] = field(default_factory=dict)
    skipped: Mapping[str, str] = field(default_factory=dict)
    left_dense: Mapping[str, str] = field(default_factory=dict)
    parameters: int = 0
    macs: int = 0
    dense_parameters: int = 0
    dense_macs: int = 0

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

    def to_json(self) -> str:
        """Return the cut as JSON text, from which `from_json` rebuilds an equal cut."""
        plain = {
            "schema": SCHEMA,
            "compressor": self.compressor,
            "options": self.options,
            "fraction": self.fraction,
            "layers": {
                name: {"atoms": total, "kept": self.kept[name], "links": _plain_links(self.links.get(name, ()))}
                for name, total in self.atoms.items()
            },
            "skipped": dict(self.skipped),
            "left_dense": dict(self.left_dense),
        }
        plain |= {name: getattr(self, name) for name in _COUNTS}
        return json.dumps(plain, indent=1, allow_nan=False)

    @staticmethod
    def from_json(text: str) -> Cut:
        """Read a cut; nothing but data is built.

        Raises:
            CutError: if the text is not JSON, or not a cut of this schema, or contradicts itself.
        """
        data = _mapping(_parse(text), "a cut")
        schema = _take(data, "schema")
        if isinstance(schema, bool) or schema != SCHEMA:
            raise CutError(f"schema must be {SCHEMA}, found {schema!r}; the cut is of another version of pliant")
        layers = {name: _layer(value, name) for name, value in _mapping(_take(data, "layers"), "layers").items()}
        cut = Cut(
            compressor=_text(_take(data, "compressor"), "compressor"),
            options=_mapping(_take(data, "options"), "options"),
            fraction=_fraction(_take(data, "fraction")),
            atoms={name: atoms for name, (atoms, _, _) in layers.items()},
            kept={name: kept for name, (_, kept, _) in layers.items()},
            links={name: links for name, (_, _, links) in layers.items() if links},
            skipped=_texts(_take(data, "skipped"), "skipped"),
            left_dense=_texts(_take(data, "left_dense"), "left_dense"),
            **{name: _count(_take(data, name), name) for name in _COUNTS},
        )
        _check_names(cut, data)
        return cut


_COUNTS = ("parameters", "macs", "dense_parameters", "dense_macs")
_FIELDS = {"schema", "compressor", "options", "fraction", "layers", "skipped", "left_dense", *_COUNTS}


def _plain_links(links: tuple[Link, ...]) -> list[dict[str, Any]]:
    return [{"module": link.module, "role": link.role.value, "block": link.block} for link in links]


def _parse(text: str) -> object:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (TypeError, ValueError, RecursionError) as error:
        raise CutError(f"a cut must be JSON text: {type(error).__name__}: {error}") from error


def _no_constant(name: str) -> object:
    raise ValueError(f"{name} is not a number that JSON knows")


def _check_names(cut: Cut, data: Mapping[str, Any]) -> None:
    unknown = sorted(set(data) - _FIELDS)
    if unknown:
        raise CutError(f"a cut of schema {SCHEMA} has no field {unknown[0]!r}")
    for name in cut.left_dense:
        if name not in cut.atoms:
            raise CutError(f"left_dense names {name!r}, which is not among the layers of the cut")


def _layer(value: object, name: str) -> tuple[int, Kept, tuple[Link, ...]]:
    where = f"layer {name!r}"
    data = _mapping(value, where)
    if set(data) != {"atoms", "kept", "links"}:
        raise CutError(f"{where} must have exactly the fields atoms, kept and links, found {sorted(data)}")
    atoms = _count(data["atoms"], f"{where}: atoms", low=1)
    links = data["links"]
    if not isinstance(links, list):
        raise CutError(f"{where}: links must be a list, found {type(links).__name__}")
    return atoms, _kept(data["kept"], atoms, where), tuple(_link(link, where) for link in links)


def _kept(value: object, atoms: int, where: str) -> Kept:
    if not isinstance(value, list):
        kept = _count(value, f"{where}: kept", low=1)
        if kept > atoms:
            raise CutError(f"{where}: kept must be at most its {atoms} atoms, found {kept}")
        return kept
    indices = tuple(_count(item, f"{where}: kept") for item in value)
    ascending = all(a < b for a, b in pairwise(indices))
    if not indices or not ascending or indices[-1] >= atoms:
        raise CutError(f"{where}: kept must be ascending indices below {atoms}, at least one, found {value!r:.80}")
    return indices


def _link(value: object, where: str) -> Link:
    data = _mapping(value, f"{where}: a link")
    if set(data) != {"module", "role", "block"}:
        raise CutError(f"{where}: a link must have the fields module, role and block, found {sorted(data)}")
    roles = {role.value: role for role in Role}
    role = roles.get(_text(data["role"], f"{where}: role"))
    if role is None:
        raise CutError(f"{where}: role must be one of {', '.join(roles)}, found {data['role']!r:.80}")
    return Link(_text(data["module"], f"{where}: module"), role, _count(data["block"], f"{where}: block", low=1))


def _take(data: Mapping[str, Any], name: str) -> Any:  # noqa: ANN401  (checked by the caller)
    if name not in data:
        raise CutError(f"a cut needs the field {name!r}, found none")
    return data[name]


def _mapping(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise CutError(f"{what} must be a JSON object, found {type(value).__name__}")
    return value


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise CutError(f"{what} must be text, found {value!r:.80}")
    return value


def _texts(value: object, what: str) -> dict[str, str]:
    return {name: _text(item, f"{what}[{name!r}]") for name, item in _mapping(value, what).items()}


def _count(value: object, what: str, *, low: int = 0) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < low:
        raise CutError(f"{what} must be a whole number of at least {low}, found {value!r:.80}")
    return value


def _fraction(value: object) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0.0 <= value < 1.0:
        raise CutError(f"fraction must be null or a number with 0 <= fraction < 1, found {value!r:.80}")
    return float(value)
