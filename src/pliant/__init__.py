"""Train once, cut anywhere: compression-aware training for PyTorch.

Three steps, each usable alone: constrain (`Plan`), train (`SFW`), cut (`compress`, `sweep`).
"""

from importlib import import_module
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType
from typing import TYPE_CHECKING

from pliant.compress import (
    Both,
    BudgetError,
    Compressed,
    Compressor,
    Cut,
    CutError,
    FilterPruning,
    Inputs,
    LowRank,
    Macs,
    Params,
    Scheme,
    TensorTrain,
    UnstructuredPruning,
    compress,
    load,
    recalibrate_batchnorm,
    save,
    sweep,
)
from pliant.optim import (
    SFW,
    DiameterScaled,
    FastGradientScaled,
    GradientScaled,
    NonFinite,
    NonFiniteGradientError,
    ProximalSGD,
    Raw,
    Shrinkage,
)
from pliant.regions import (
    Axes,
    Ball,
    Coupled,
    Entries,
    Filters,
    Joint,
    Lp,
    Penalty,
    Region,
    Scaled,
    Singular,
    Slices,
    TopK,
    group_k_sparse_polytope,
    group_k_support_ball,
    group_lasso_ball,
    k_sparse_polytope,
    k_support_ball,
    l1_ball,
    l2_ball,
    linf_ball,
    lp_ball,
    nuclear_ball,
    spectral_ball,
    spectral_k_sparse_polytope,
    spectral_k_support_ball,
)
from pliant.structure import Constraint, Diameter, Fixed, Free, InitScaled, Joined, Plan, Rule, separate_attention

try:
    __version__ = version("pliant")
except PackageNotFoundError:  # used from a source tree that is not installed
    __version__ = "0+unknown"

_LATER = {"bcd", "cli", "data", "distributed", "export", "integrations", "methods"}
_LATER |= {"models", "report", "sets", "testing", "training"}

if not TYPE_CHECKING:  # or every misspelt name would have a type

    def __getattr__(name: str) -> ModuleType:
        """Import a subpackage that is asked for as an attribute: `pliant.export.to_onnx`."""
        if name in _LATER:
            return import_module(f"{__name__}.{name}")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "SFW",
    "Axes",
    "Ball",
    "Both",
    "BudgetError",
    "Compressed",
    "Compressor",
    "Constraint",
    "Coupled",
    "Cut",
    "CutError",
    "Diameter",
    "DiameterScaled",
    "Entries",
    "FastGradientScaled",
    "FilterPruning",
    "Filters",
    "Fixed",
    "Free",
    "GradientScaled",
    "InitScaled",
    "Inputs",
    "Joined",
    "Joint",
    "LowRank",
    "Lp",
    "Macs",
    "NonFinite",
    "NonFiniteGradientError",
    "Params",
    "Penalty",
    "Plan",
    "ProximalSGD",
    "Raw",
    "Region",
    "Rule",
    "Scaled",
    "Scheme",
    "Shrinkage",
    "Singular",
    "Slices",
    "TensorTrain",
    "TopK",
    "UnstructuredPruning",
    "__version__",
    "compress",
    "group_k_sparse_polytope",
    "group_k_support_ball",
    "group_lasso_ball",
    "k_sparse_polytope",
    "k_support_ball",
    "l1_ball",
    "l2_ball",
    "linf_ball",
    "load",
    "lp_ball",
    "nuclear_ball",
    "recalibrate_batchnorm",
    "save",
    "separate_attention",
    "spectral_ball",
    "spectral_k_sparse_polytope",
    "spectral_k_support_ball",
    "sweep",
]
