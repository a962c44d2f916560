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
from pliant.training.methods.step_rules import DiameterStep, FastGradientStep, GradientStep, RawStep, ShrinkageStep
from pliant.training.methods.treatments import BALLS
from pliant.training.recipe_sweep import BothSpec, FilterSpec, LowRankSpec, TensorTrainSpec, UnstructuredSpec

PLANS: dict[str, Callable[..., Any]] = {
    "filters": Plan.for_filters,  # with coupled: true, all that filter pruning removes with a channel is one atom
    "low-rank": Plan.for_low_rank,
    "unstructured": Plan.for_unstructured,
    "rules": Plan.from_rules,
}


@user_errors
def list_names() -> None:
    """List data sets, models, methods, plans, balls, compressors and step rules, by the names that recipes use."""
    out = console()
    for title, names in (
        ("Data sets (data.name)", DATASETS),
        ("Models (model.name, or package.module:function)", MODELS),
        ("Methods (method.type)", METHODS),
        ("Plans (method.plan)", PLANS),
        ("Balls (norms and rest of type ball)", BALLS),
        (
            "Compressors (sweep.compressors)",
            _by_type(FilterSpec, LowRankSpec, TensorTrainSpec, BothSpec, UnstructuredSpec),
        ),
        (
            "Step rules (method.step)",
            _by_type(ShrinkageStep, GradientStep, FastGradientStep, DiameterStep, RawStep),
        ),
    ):
        out.print(_table(title, names))


def _table(title: str, names: Mapping[str, Callable[..., Any]]) -> Table:
    table = Table("name", "what it is", title=title, title_justify="left", title_style="bold", min_width=60)
    for name, thing in names.items():
        lines = (inspect.getdoc(thing) or "").splitlines()
        table.add_row(name, lines[0] if lines else "")
    return table


def _by_type(*models: Any) -> dict[str, Any]:  # noqa: ANN401  (sections of a recipe)
    return {get_args(model.model_fields["type"].annotation)[0]: model for model in models}
