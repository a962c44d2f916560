"""Cutting a trained model: select what stays, truncate, realise."""

from pliant.compress.atoms import Global, PerLayer, Scope, removed_count
from pliant.compress.calibrate import Inputs, recalibrate_batchnorm
from pliant.compress.candidates import Layers
from pliant.compress.compressed import Compressed, CompressionReport, compress, output_difference
from pliant.compress.compressor import Compressor, compressor_of
from pliant.compress.cut import Cut, CutError, Link, Role
from pliant.compress.filters import FilterPruning
from pliant.compress.low_rank import LowRank
from pliant.compress.ranks import Energy, EqualError, EqualFraction, RankRule, SquaredEnergy
from pliant.compress.scores import L1, L2, Folded, GroupNorm, Score
from pliant.compress.store import StoreError, load, save
from pliant.compress.sweep import Row, sweep
from pliant.compress.unstructured import UnstructuredPruning

__all__ = [
    "L1",
    "L2",
    "Compressed",
    "CompressionReport",
    "Compressor",
    "Cut",
    "CutError",
    "Energy",
    "EqualError",
    "EqualFraction",
    "FilterPruning",
    "Folded",
    "Global",
    "GroupNorm",
    "Inputs",
    "Layers",
    "Link",
    "LowRank",
    "PerLayer",
    "RankRule",
    "Role",
    "Row",
    "Scope",
    "Score",
    "SquaredEnergy",
    "StoreError",
    "UnstructuredPruning",
    "compress",
    "compressor_of",
    "load",
    "output_difference",
    "recalibrate_batchnorm",
    "removed_count",
    "save",
    "sweep",
]
