"""pliant list: the names that recipes and commands know."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any, get_args

from rich.table import Table

from pliant.cli.console import console
from pliant.cli.errors import user_errors
from pliant.data import NAMES as DATASETS
from pliant.models import NAMES as MODELS
from pliant.structure import Plan
from pliant.training.methods import METHODS
from pliant.training.methods.step_rules import Step
from pliant.training.methods.treatments import BALLS
from pliant.training.presets import PRESETS
from pliant.training.recipe_section import by_type
from pliant.training.recipe_sweep import BuiltInCompressorSpec

PLANS: dict[str, Callable[..., Any]] = {
    "filters": Plan.for_filters,  # with coupled: true, all that filter pruning removes with a channel is one atom
    "low-rank": Plan.for_low_rank,
    "unstructured": Plan.for_unstructured,
    "rules": Plan.from_rules,
}


@user_errors
def list_names() -> None:
    """List data sets, models, methods, presets and all else, by the names that recipes use."""
    out = console()
    for title, names in (
        ("Data sets (data.name, or package.module:function)", DATASETS),
        ("Models (model.name, or package.module:function)", MODELS),
        ("Methods (method.type, or package.module:Class)", METHODS),
        ("Plans (method.plan)", PLANS),
        ("Balls (norms and rest of type ball)", BALLS),
        ("Compressors (sweep.compressors, or package.module:name)", by_type(BuiltInCompressorSpec)),
        ("Step rules (method.step)", by_type(get_args(Step)[0])),
    ):
        out.print(_table(title, {name: _first_line(thing) for name, thing in names.items()}))
    out.print(_table("Presets (pliant train --preset)", PRESETS))


def _table(title: str, names: Mapping[str, str]) -> Table:
    table = Table("name", "what it is", title=title, title_justify="left", title_style="bold", min_width=60)
    for name, line in names.items():
        table.add_row(name, line)
    return table


def _first_line(thing: Callable[..., Any]) -> str:
    return next(iter((inspect.getdoc(thing) or "").splitlines()), "")
